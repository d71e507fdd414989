"""SFT and reward models: against plain PyTorch, interrupted and resumed, and in use as a reward."""

import json
import random
import signal
import subprocess
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch.nn import functional
from transformers import AutoModelForCausalLM, AutoModelForSequenceClassification

from r1ray.config.schema import AlgorithmConfig, LearnerConfig
from r1ray.learner.pool import LearnerPool
from r1ray.learner.protocol import LearnerOptions
from r1ray.models.locate import locate_model
from r1ray.rewards.reward_model import RewardModelReward
from r1ray.types import Completion, Prompt, TrainingBatch, TrainingSample

EMBEDDED = locate_model("embedded")


def options(**changes: Any) -> LearnerOptions:
    base = LearnerOptions(
        model_path=EMBEDDED,
        revision=None,
        trust_remote_code=False,
        dtype="float32",
        device="cpu",
        rank=0,
        world_size=1,
        master_address="",
        master_port=0,
        temperature=1.0,
        max_completion_tokens=64,
        total_steps=1,
        seed=0,
        cores=(),
        timeout_s=60.0,
        sync_backend="gloo",
        learner=LearnerConfig(lr=1e-3, micro_batch_tokens=128, max_grad_norm=1e9),
        algorithm=AlgorithmConfig(kl_coef=0.0),
        task="sft",
    )
    return replace(base, **changes)


def laid_out(layout: dict[str, Any] | None, **changes: Any) -> LearnerOptions:
    base = options(**changes)
    return replace(base, world_size=1 if layout is None else 2, learner=replace(base.learner, **(layout or {})))


def sample(prompt: list[int], completion: list[int], *, worth: float = 1.0, key: str = "") -> TrainingSample:
    count = len(completion)
    return TrainingSample(
        tuple(prompt), tuple(completion), (0.0,) * count, (0,) * count, worth, prompt_key=key, group_tokens=count
    )


def random_ids(draw: random.Random, count: int) -> list[int]:
    return [draw.randrange(5, 250) for _ in range(count)]


def one_step(opts: LearnerOptions, samples: list[TrainingSample], directory: Path) -> dict[str, float]:
    pool = LearnerPool(opts, [({"num_cpus": 0}, ())] * opts.world_size)
    try:
        pool.start()
        pool.wait_started()
        pool.accumulate(TrainingBatch(tuple(samples)), rollout_version=0)
        metrics: dict[str, float] = pool.finish_step().results()[0]
        pool.save(str(directory)).results()
        return metrics
    finally:
        pool.shutdown()


def adam_step(model: torch.nn.Module, loss: torch.Tensor) -> float:
    loss.backward()
    norm = torch.linalg.vector_norm(torch.stack([p.grad.norm() for p in model.parameters() if p.grad is not None]))
    torch.optim.AdamW(model.parameters(), lr=1e-3, betas=(0.9, 0.95), weight_decay=0.0).step()
    return float(norm)


# How two processes may share the work; every way takes the same step.
LAYOUTS = [
    pytest.param({"backend": "deepspeed", "zero_stage": stage}, id=f"zero{stage}", marks=pytest.mark.slow)
    for stage in (1, 3)
] + [pytest.param({name: 2}, id=name, marks=pytest.mark.slow) for name in ("tensor_parallel", "context_parallel")]


@pytest.mark.usefixtures("shared_ray")
@pytest.mark.parametrize(
    "layout", [pytest.param(None, id="alone", marks=pytest.mark.slow), pytest.param({}, id="two"), *LAYOUTS]
)
def test_an_sft_step_is_that_of_cross_entropy_in_plain_pytorch(tmp_path: Path, layout: dict[str, Any] | None) -> None:
    draw = random.Random(0)
    samples = [sample(random_ids(draw, 3 + i % 5), random_ids(draw, 1 + (7 * i) % 23)) for i in range(12)]
    metrics = one_step(laid_out(layout), samples, tmp_path)
    model = AutoModelForCausalLM.from_pretrained(EMBEDDED, dtype=torch.float32)
    total, tokens = torch.zeros(()), 0
    for one in samples:
        ids = torch.tensor([[*one.prompt_ids, *one.completion_ids]])
        logits = model(input_ids=ids).logits[0, len(one.prompt_ids) - 1 : -1]
        total = total + functional.cross_entropy(logits, torch.tensor(one.completion_ids), reduction="sum")
        tokens += len(one.completion_ids)
    norm = adam_step(model, total / tokens)
    assert metrics["train/loss"] == pytest.approx(float(total.detach()) / tokens, rel=1e-5)
    assert metrics["train/grad_norm"] == pytest.approx(norm, rel=1e-4)
    assert metrics["train/tokens"] == tokens
    saved = load_file(tmp_path / "model" / "model.safetensors")
    for name, weight in model.state_dict().items():
        if name in saved:
            # Adam's first step is lr * sign(gradient): where that is almost 0 its sign is noise.
            difference = (saved[name].float() - weight).abs()
            assert (difference < 1e-5).float().mean() > 0.999, name


@pytest.mark.usefixtures("shared_ray")
@pytest.mark.parametrize(
    ("kind", "layout"),
    [
        pytest.param("pointwise", None, id="pointwise-alone"),
        pytest.param("pairwise", {}, id="pairwise-two"),
        *(pytest.param("pairwise", *one.values, id=f"pairwise-{one.id}", marks=one.marks) for one in LAYOUTS),
    ],
)
def test_a_reward_model_step_is_that_of_a_sequence_classifier(
    tmp_path: Path, kind: str, layout: dict[str, Any] | None
) -> None:
    draw = random.Random(1)
    samples = []
    for i in range(8):
        prompt = random_ids(draw, 6)
        for worth in (1.0, -1.0):
            samples.append(sample(prompt, random_ids(draw, 1 + (5 * i) % 13), worth=worth, key=str(i)))
    # A first step moves the head away from zero, the second has a gradient everywhere.
    classifier = AutoModelForSequenceClassification.from_pretrained(EMBEDDED, num_labels=1, dtype=torch.float32)
    classifier.config.pad_token_id = 0
    torch.manual_seed(0)
    torch.nn.init.normal_(classifier.score.weight, std=0.1)
    classifier.save_pretrained(tmp_path / "start")
    for file in Path(EMBEDDED).glob("tokenizer*"):
        (tmp_path / "start" / file.name).write_bytes(file.read_bytes())
    metrics = one_step(laid_out(layout, task=kind, model_path=str(tmp_path / "start")), samples, tmp_path / "out")
    scores = [classifier(input_ids=torch.tensor([[*s.prompt_ids, *s.completion_ids]])).logits[0, 0] for s in samples]
    chosen, rejected = torch.stack(scores[::2]), torch.stack(scores[1::2])
    if kind == "pairwise":
        loss = -functional.logsigmoid(chosen - rejected).mean()
        right = (chosen > rejected).float().mean()
    else:
        loss = -(functional.logsigmoid(chosen).sum() + functional.logsigmoid(-rejected).sum()) / len(samples)
        right = ((chosen > 0).float().mean() + (rejected < 0).float().mean()) / 2
    norm = adam_step(classifier, loss)
    assert metrics["train/loss"] == pytest.approx(float(loss.detach()), rel=1e-5)
    assert metrics["train/accuracy"] == pytest.approx(float(right))
    assert metrics["train/grad_norm"] == pytest.approx(norm, rel=1e-4)
    assert metrics["train/score_mean"] == pytest.approx(float(chosen.detach().mean()), rel=1e-4, abs=1e-6)
    saved = load_file(tmp_path / "out" / "model" / "model.safetensors")
    assert torch.allclose(saved["score.weight"].float(), classifier.score.weight, atol=1e-5)


def write_data(folder: Path) -> tuple[Path, Path]:
    """Write sums with their answers, and pairs of which the chosen one says please."""
    draw = random.Random(0)
    samples, pairs = folder / "samples.jsonl", folder / "pairs.jsonl"
    with samples.open("w") as one, pairs.open("w") as other:
        for _ in range(160):
            a, b = draw.randint(100, 999), draw.randint(100, 999)
            question = f"What is {a} + {b}?"
            one.write(
                json.dumps({"question": question, "completion": f"<think>\n{a} + {b}\n</think>\n\n{a + b}"}) + "\n"
            )
            texts = {"chosen": f"The answer is {a + b}.", "rejected": f"A guess. {a + b + 1}"}
            other.write(json.dumps({"question": question, **texts}) + "\n")
    return samples, pairs


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    return write_data(tmp_path_factory.mktemp("data"))


def sft_command(tools: Any, data: tuple[Path, Path], run_dir: Path, *more: str) -> list[str]:
    return tools.train_command(
        run_dir,
        "stage=sft",
        "template.name=r1",
        "data.train.source=jsonl",
        f"data.train.name={data[0]}",
        "sft.max_tokens=256",
        "sft.batch_size=16",
        "sft.epochs=2",
        "sft.held_out_fraction=0.1",
        "learner.lr=1e-3",
        "learner.lr_schedule=cosine",
        "learner.warmup_steps=0",
        "eval.every_steps=0",
        *more,
    )


def lines_of(run_dir: Path) -> list[dict[str, float]]:
    lines = [json.loads(line) for line in (run_dir / "metrics.jsonl").read_text().splitlines()]
    volatile = ("time/", "learner/tokens_per_s", "learner/flops_per_s")
    return [{k: v for k, v in line.items() if not k.startswith(volatile)} for line in lines]


def model_of(run_dir: Path) -> Path:
    return sorted((run_dir / "checkpoints").iterdir())[-1] / "model"


@pytest.fixture(scope="module")
def unbroken(tmp_path_factory: pytest.TempPathFactory, tools: Any, data: tuple[Path, Path]) -> Path:
    run_dir = tmp_path_factory.mktemp("runs") / "sft"
    done = tools.run_here(sft_command(tools, data, run_dir))
    assert done.returncode == 0, done.stderr
    assert "held-out loss" in done.stdout
    return run_dir


def test_sft_lowers_the_held_out_loss_along_its_schedule(unbroken: Path) -> None:
    lines = lines_of(unbroken)
    steps = len(lines) - 1
    assert [line["step"] for line in lines] == list(range(steps + 1))
    assert lines[-1]["train/epoch"] == 2.0
    # Cosine from the peak to a tenth of it at the last step.
    assert lines[1]["train/lr"] == 1e-3
    assert lines[-1]["train/lr"] == pytest.approx(1e-4)
    evaluated = [line["step"] for line in lines if "eval/loss" in line]
    assert evaluated == [0, steps // 2, steps]
    summary = json.loads((unbroken / "summary.json").read_text())
    assert summary["loss_after"] < 0.5 * summary["loss_before"]
    assert (unbroken / "report.html").stat().st_size > 10_000


def test_the_saved_model_carries_r1s_chat_template(unbroken: Path) -> None:
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(model_of(unbroken))
    turns = [
        {"role": "user", "content": "1 + 1?"},
        {"role": "assistant", "content": "<think>\nEasy.\n</think>\n\n2"},
        {"role": "user", "content": "2 + 2?"},
    ]
    text = tokenizer.apply_chat_template(turns, tokenize=False, add_generation_prompt=True)
    assert text == "<｜User｜>1 + 1?<｜Assistant｜>2<|endoftext|><｜User｜>2 + 2?<｜Assistant｜>"  # noqa: RUF001


def test_an_interrupted_sft_ends_as_the_unbroken_one(
    unbroken: Path, tools: Any, data: tuple[Path, Path], tmp_path: Path
) -> None:
    run_dir = tmp_path / "stopped"
    command = sft_command(tools, data, run_dir)
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    wait_for_step(run_dir, 3, process)
    process.send_signal(signal.SIGTERM)
    output, _ = process.communicate(timeout=120)
    assert process.returncode == 130, output
    done = tools.run_here([*command, "resume=true"])
    assert done.returncode == 0, done.stderr
    assert lines_of(run_dir) == lines_of(unbroken)
    one, other = (load_file(model_of(d) / "model.safetensors") for d in (run_dir, unbroken))
    assert all(torch.equal(one[name], other[name]) for name in other)


@pytest.mark.slow
def test_a_killed_learner_starts_again(unbroken: Path, tools: Any, data: tuple[Path, Path], tmp_path: Path) -> None:
    run_dir = tmp_path / "reborn"
    command = sft_command(tools, data, run_dir, "checkpoint.every_steps=2")
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    wait_for_step(run_dir, 3, process)
    (learner,) = tools.worker_processes("LearnerWorker")
    learner.kill()
    output, _ = process.communicate(timeout=300)
    assert process.returncode == 0, output
    assert lines_of(run_dir) == lines_of(unbroken)


def test_other_data_is_not_gone_on_with(unbroken: Path, tools: Any, data: tuple[Path, Path]) -> None:
    before = (unbroken / "config.yaml").read_bytes()
    command = sft_command(tools, data, unbroken, "resume=true", "sft.batch_size=8", "cluster.address=127.0.0.1:1")
    done = tools.run_here(command)
    assert done.returncode == 2
    assert "batch_size is 16, the config's 8" in done.stderr
    assert (unbroken / "config.yaml").read_bytes() == before


def test_a_trained_reward_model_is_a_reward_with_the_same_scores(
    tools: Any, data: tuple[Path, Path], tmp_path: Path
) -> None:
    run_dir = tmp_path / "judge"
    command = tools.train_command(
        run_dir,
        "stage=reward_model",
        "data.train.source=jsonl",
        f"data.train.name={data[1]}",
        "reward_model.max_tokens=256",
        "reward_model.batch_size=16",
        "reward_model.held_out_fraction=0.2",
        "learner.lr=1e-3",
        "eval.every_steps=0",
    )
    done = tools.run_here(command)
    assert done.returncode == 0, done.stderr
    summary = json.loads((run_dir / "summary.json").read_text())
    assert summary["accuracy_before"] == 0.5
    assert summary["accuracy_after"] > 0.9
    # The held-out chosen completions, scored through the reward, have the mean and deviation of the summary.
    from r1ray.config.data_sections import DatasetConfig
    from r1ray.data.examples import Examples
    from r1ray.models.tokenizer import load_tokenizer
    from r1ray.rewards.turn_encoder import TurnEncoder

    turns = TurnEncoder(load_tokenizer(EMBEDDED))
    examples = Examples(
        DatasetConfig(source="jsonl", name=str(data[1])),
        "pairwise",
        encode=lambda q, c: (tuple(turns(q, c)[:-1]), tuple(turns(q, c)[-1:])),
        max_tokens=256,
    )
    _, held_out = examples.split(0.2)
    rows = [json.loads(line) for line in data[1].read_text().splitlines()]
    items = [
        (Prompt("p", rows[i]["question"], "", ()), Completion("g", "p", 0, rows[i]["chosen"], (), (), (), "stop"))
        for i in held_out
    ]
    reward = RewardModelReward(model=str(model_of(run_dir)), device="cpu", dtype="float32")
    values = torch.tensor([result.value for result in reward.score(items)], dtype=torch.float64)
    assert float(values.mean()) == pytest.approx(summary["score_mean_after"], abs=1e-3)
    assert float(values.std(correction=0)) == pytest.approx(summary["score_std_after"], abs=1e-3)


def wait_for_step(run_dir: Path, step: int, process: subprocess.Popen[str]) -> None:
    metrics, end = run_dir / "metrics.jsonl", time.monotonic() + 400
    while not metrics.exists() or metrics.read_text().count("\n") <= step:
        assert process.poll() is None, process.communicate()[0]
        assert time.monotonic() < end, "deadline passed"
        time.sleep(0.02)
