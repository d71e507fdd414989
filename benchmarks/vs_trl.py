"""How many samples a second do TRL's GRPOTrainer and r1ray train on, and do their rewards rise alike?

Both get the same model, prompts in the same order, group size, completion budget, rewards, objective and
optimizer, and take turns on this machine. Samples per second are over whole steps (generation, grading, learning,
weight sync), the first step left out.

    .venv/bin/python benchmarks/vs_trl.py embedded
    .venv/bin/python benchmarks/vs_trl.py smollm2
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from statistics import median
from typing import Any

from provenance import RESULTS, ROOT, provenance

CASES: dict[str, dict[str, Any]] = {
    "embedded": {
        "config": "conf/quickstart.yaml",
        "steps": 12,
        "overrides": ["train.num_prompts_per_step=32", "rollout.group_size=8"],
        "trl_batch_size": 256,
        "trl_bf16": False,
        # Small matrices are faster on one core each than on two together.
        "engines": {"vllm": [], "transformers": ["rollout.num_workers=2"]},
    },
    "smollm2": {
        "config": "conf/smollm2_135m.yaml",
        "steps": 3,
        # All 64 at once need more than 24 GiB of memory.
        "trl_batch_size": 16,
        # In float32 a step of TRL takes longer still.
        "trl_bf16": True,
        "engines": {"vllm": []},
        "overrides": [
            "train.num_prompts_per_step=8",
            "rollout.group_size=8",
            "rollout.max_completion_tokens=64",
        ],
    },
}
SHARED = ["algorithm.equal_reward_groups=keep", "data.eval.size=2", "checkpoint.every_steps=0", "cluster.address=local"]


def overrides_of(case: dict[str, Any], extra: list[str]) -> list[str]:
    """Return what both sides are given on top of the config."""
    return [*case["overrides"], *SHARED, f"train.steps={case['steps']}", *extra]


def run_r1ray(case: dict[str, Any], extra: list[str]) -> dict[str, list[float]]:
    """Train with r1ray; returns seconds and reward per step."""
    with tempfile.TemporaryDirectory() as folder:
        run_dir = Path(folder) / "run"
        command = [str(Path(sys.executable).parent / "r1ray"), "train", str(ROOT / case["config"])]
        subprocess.run([*command, f"run.dir={run_dir}", *overrides_of(case, extra)], check=True, stdout=sys.stderr)
        lines = [json.loads(line) for line in (run_dir / "metrics.jsonl").read_text().splitlines()][1:]
    return {
        "step_s": [line["time/step_s"] for line in lines],
        "reward": [line["train/reward_mean"] for line in lines],
        "completion_tokens": [line["train/completion_tokens_mean"] for line in lines],
    }


def run_trl(case: dict[str, Any], extra: list[str]) -> dict[str, list[float]]:
    """Train with TRL in a process of its own; returns seconds and reward per step."""
    command = [sys.executable, __file__, "trl-side", json.dumps(case), *extra]
    done = subprocess.run(command, check=True, capture_output=True, text=True)
    result: dict[str, list[float]] = json.loads(done.stdout.splitlines()[-1])
    return result


def trl_arguments(case: dict[str, Any], config: Any, folder: str) -> Any:
    """Return TRL's arguments for what `config` says."""
    import torch
    from trl import GRPOConfig

    samples = config.train.num_prompts_per_step * config.rollout.group_size
    return GRPOConfig(
        output_dir=folder,
        use_cpu=True,
        bf16=case["trl_bf16"],
        per_device_train_batch_size=case["trl_batch_size"],
        gradient_accumulation_steps=samples // case["trl_batch_size"],
        num_generations=config.rollout.group_size,
        max_completion_length=config.rollout.max_completion_tokens,
        max_steps=config.train.steps,
        learning_rate=config.learner.lr,
        lr_scheduler_type="constant_with_warmup",
        warmup_steps=config.learner.warmup_steps,
        adam_beta1=config.learner.adam_beta1,
        adam_beta2=config.learner.adam_beta2,
        weight_decay=config.learner.weight_decay,
        max_grad_norm=config.learner.max_grad_norm,
        beta=config.algorithm.kl_coef,
        epsilon=config.algorithm.clip_low,
        epsilon_high=config.algorithm.clip_high,
        loss_type="dapo",
        scale_rewards="group",
        temperature=config.rollout.temperature,
        top_k=0,
        top_p=1.0,
        shuffle_dataset=False,
        gradient_checkpointing=False,
        logging_steps=1,
        save_strategy="no",
        report_to=[],
        disable_tqdm=True,
        seed=config.run.seed,
        model_init_kwargs={"dtype": torch.float32},
    )


def trl_side(case: dict[str, Any], extra: list[str]) -> None:
    """Run GRPOTrainer and print its figures as the last line."""
    from datasets import Dataset
    from transformers import TrainerCallback
    from trl import GRPOTrainer

    from r1ray.config.load import load_config
    from r1ray.data.cursor import PromptCursor
    from r1ray.data.prompts import PromptBuilder
    from r1ray.data.sources import open_source
    from r1ray.models.locate import locate_model
    from r1ray.models.tokenizer import load_tokenizer
    from r1ray.rewards.grader import Grader
    from r1ray.types import Completion

    config = load_config(ROOT / case["config"], overrides_of(case, extra))
    model_path = locate_model(config.model.path)
    tokenizer = load_tokenizer(model_path)
    if config.rollout.stop:
        # TRL takes no stop strings; it ends a completion at the tokenizer's end token, so that is what it is given.
        (stop_token,) = tokenizer.encode(config.rollout.stop[0], add_special_tokens=False)
        tokenizer.eos_token = tokenizer.convert_ids_to_tokens(stop_token)
    builder = PromptBuilder(tokenizer, config.template, config.data.max_prompt_tokens)
    cursor = PromptCursor(open_source(config.data.train), builder, config.run.seed, config.data.shuffle)
    prompts = cursor.take(config.train.num_prompts_per_step * config.train.steps)
    by_text = {p.text: p for p in prompts}
    grader = Grader(config.rewards)

    def reward(prompts: list[str], completions: list[str], **_: Any) -> list[float]:
        return [
            grader.grade(by_text[p], Completion("g", by_text[p].prompt_id, 0, c, (), (), (), "stop")).reward
            for p, c in zip(prompts, completions, strict=True)
        ]

    figures: dict[str, list[float]] = {"step_s": [], "reward": [], "completion_tokens": []}

    class Clock(TrainerCallback):  # type: ignore[misc]
        def on_step_begin(self, *_: Any, **__: Any) -> None:
            self.began = time.perf_counter()

        def on_step_end(self, *_: Any, **__: Any) -> None:
            figures["step_s"].append(time.perf_counter() - self.began)

        def on_log(self, args: Any, state: Any, control: Any, logs: dict[str, float] | None = None, **_: Any) -> None:
            if logs and "reward" in logs:
                figures["reward"].append(logs["reward"])
                figures["completion_tokens"].append(logs["completions/mean_length"])

    with tempfile.TemporaryDirectory() as folder:
        trainer = GRPOTrainer(
            model=model_path,
            reward_funcs=reward,
            args=trl_arguments(case, config, folder),
            train_dataset=Dataset.from_list([{"prompt": p.text} for p in prompts]),
            processing_class=tokenizer,
            callbacks=[Clock()],
        )
        trainer.train()
    print(json.dumps(figures))


def samples_per_s(figures: dict[str, list[float]], samples: int) -> float:
    """Samples over seconds of all steps but the first."""
    seconds = figures["step_s"][1:]
    return samples * len(seconds) / sum(seconds)


def main() -> None:
    """Run both sides in turn and write the result."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("case", choices=[*CASES, "trl-side"])
    parser.add_argument("rest", nargs="*", help="overrides for both sides")
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--out", type=Path, default=RESULTS)
    arguments = parser.parse_intermixed_args()
    if arguments.case == "trl-side":
        trl_side(json.loads(arguments.rest[0]), arguments.rest[1:])
        return
    case = CASES[arguments.case]
    from r1ray.config.load import load_config

    config = load_config(ROOT / case["config"], overrides_of(case, arguments.rest))
    samples = config.train.num_prompts_per_step * config.rollout.group_size
    rounds = []
    for _ in range(arguments.rounds):
        sides = {"trl": run_trl(case, arguments.rest)}
        for engine, overrides in case["engines"].items():
            sides[f"r1ray_{engine}"] = run_r1ray(case, [*arguments.rest, f"rollout.engine={engine}", *overrides])
        rates = {name: samples_per_s(figures, samples) for name, figures in sides.items()}
        ratios = {name: rate / rates["trl"] for name, rate in rates.items() if name != "trl"}
        rounds.append({"samples_per_s": rates, "ratio_to_trl": ratios, **sides})
        print("; ".join(f"{name} {rate:.2f} samples/s" for name, rate in rates.items()), ratios, flush=True)
    result = {
        **provenance(__doc__, " ".join(["benchmarks/vs_trl.py", *sys.argv[1:]])),
        "samples_per_step": samples,
        "ratio_to_trl_median": {
            name: median(r["ratio_to_trl"][name] for r in rounds) for name in rounds[0]["ratio_to_trl"]
        },
        "rounds": rounds,
    }
    arguments.out.mkdir(parents=True, exist_ok=True)
    path = arguments.out / f"vs_trl_{arguments.case}.json"
    path.write_text(json.dumps(result, indent=1) + "\n")
    print(f"ratio (median) {result['ratio_to_trl_median']}; written to {path}")


if __name__ == "__main__":
    main()
