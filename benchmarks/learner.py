"""What does a training step of the learner cost beside a bare PyTorch loop, padding, and the other back end?

Everything in one run, sides taking turns, each figure a ratio:

    step      the learner's optimizer step and a bare loop (transformers model, full logits, AdamW) over the same packed
              micro-batches
    padding   the same loop over the same samples on R1-like lengths, in batches of 8 padded to their longest
    backends  FSDP2 and DeepSpeed ZeRO-3, two processes over gloo
    memory    peak memory of log-probabilities from hidden states at T=8,192, V=151,936, chunked and naive
    cores     two processes with a core each, and with both cores for both; dtype and instruction set of products

    .venv/bin/python benchmarks/learner.py [part ...]
"""

from __future__ import annotations

import argparse
import json
import math
import os
import random
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from statistics import median
from typing import Any

import torch
from provenance import RESULTS, provenance

from r1ray.config.schema import AlgorithmConfig, LearnerConfig
from r1ray.learner.protocol import LearnerOptions
from r1ray.types import TrainingSample

# The LM head has a seventh of the products, as in a model of 1.5B parameters and 152K tokens.
VOCAB = 4096
MODEL = {
    "vocab_size": VOCAB,
    "hidden_size": 384,
    "intermediate_size": 1024,
    "num_hidden_layers": 6,
    "num_attention_heads": 6,
    "num_key_value_heads": 2,
    "tie_word_embeddings": True,
    "max_position_embeddings": 4096,
}
MICRO_BATCH_TOKENS = 4096
PADDED_ROWS = 8
ROUNDS = 4
PART_TIMEOUT_S = 1200


def make_model(folder: str) -> str:
    """Write a random model of the Qwen2 architecture and return its path."""
    from transformers import Qwen2Config, Qwen2ForCausalLM

    torch.manual_seed(0)
    path = str(Path(folder) / "model")
    Qwen2ForCausalLM(Qwen2Config(**MODEL)).save_pretrained(path)
    return path


def r1_like_samples(count: int, *, mean: int, longest: int, seed: int = 0) -> list[TrainingSample]:
    """Draw completions with log-normal lengths, as R1's are, scaled to `mean`; every prompt is its own."""
    rng, spread = random.Random(seed), 0.8
    made = []
    for _ in range(count):
        n = min(longest, max(1, round(rng.lognormvariate(math.log(mean) - spread**2 / 2, spread))))
        ids = tuple(rng.randrange(VOCAB) for _ in range(n))
        made.append(TrainingSample((1, 2, 3, 4), ids, (-8.3,) * n, (0,) * n, rng.choice((-1.0, 1.0))))
    return made


def options(path: str, *, rank: int = 0, world_size: int = 1, port: int, **learner: Any) -> LearnerOptions:
    """Return a learner's options, in float32 without a reference."""
    dtype = learner.pop("dtype", "float32")
    cores = learner.pop("cores", ())
    return LearnerOptions(
        model_path=path,
        revision=None,
        trust_remote_code=False,
        dtype=dtype,
        device="cpu",
        rank=rank,
        world_size=world_size,
        master_address="127.0.0.1",
        master_port=port,
        temperature=1.0,
        max_completion_tokens=4096,
        total_steps=100,
        seed=0,
        cores=cores,
        timeout_s=300.0,
        sync_backend="gloo",
        learner=LearnerConfig(micro_batch_tokens=MICRO_BATCH_TOKENS, **learner),
        algorithm=AlgorithmConfig(kl_coef=0.0),
    )


def packed(samples: list[TrainingSample], num_ranks: int = 1) -> list[list[Any]]:
    """Return each rank's micro-batches."""
    from r1ray.learner.packing import Cost, Packer

    packer = Packer(micro_batch_tokens=MICRO_BATCH_TOKENS, num_ranks=num_ranks, cost=Cost())
    rows = [*packer.add(samples), *packer.finish()]
    return [[row[rank] for row in rows] for rank in range(num_ranks)]


class BareLoop:
    """What one would write without r1ray: a transformers model, its logits, a loss, AdamW."""

    def __init__(self, path: str, *, attention: str) -> None:
        from transformers import AttentionInterface, AutoModelForCausalLM

        from r1ray.learner.attention import ATTENTION_NAME, packed_attention

        AttentionInterface.register(ATTENTION_NAME, packed_attention)
        name = ATTENTION_NAME if attention == "packed" else attention
        self.model = AutoModelForCausalLM.from_pretrained(path, attn_implementation=name, dtype=torch.float32)
        self.model.config.use_cache = False
        self.optimizer = torch.optim.AdamW(self.model.parameters(), lr=3e-6, fused=True)

    def packed_step(self, micro_batches: list[Any]) -> None:
        """Take an optimizer step over packed micro-batches."""
        from r1ray.learner.micro_batch import collate

        for bundles in micro_batches:
            batch = collate(bundles)
            hidden = self.model.model(
                input_ids=batch.input_ids, position_ids=batch.position_ids, layout=batch.layout
            ).last_hidden_state
            logits = self.model.lm_head(hidden[0, batch.predict_from]).float()
            logprobs = logits.log_softmax(-1).gather(1, batch.targets[:, None])[:, 0]
            self._loss(logprobs, batch.rollout_logprobs, batch.advantages[batch.sample_index]).backward()
        self._update()

    def padded_step(self, batches: list[list[TrainingSample]]) -> None:
        """Take an optimizer step over batches padded to their longest sample."""
        for samples in batches:
            rows = [[*s.prompt_ids, *s.completion_ids] for s in samples]
            width = max(map(len, rows))
            ids = torch.tensor([row + [0] * (width - len(row)) for row in rows])
            mask = torch.tensor([[1] * len(row) + [0] * (width - len(row)) for row in rows])
            logits = self.model(input_ids=ids, attention_mask=mask).logits[:, :-1].float()
            logprobs = logits.log_softmax(-1).gather(-1, ids[:, 1:, None])[..., 0]
            trained = mask[:, 1:].bool() & (torch.arange(width - 1) >= len(samples[0].prompt_ids) - 1)
            advantages = torch.tensor([s.advantage for s in samples])[:, None].expand_as(logprobs)
            rollout = torch.full_like(logprobs, -8.3)
            self._loss(logprobs[trained], rollout[trained], advantages[trained]).backward()
        self._update()

    @staticmethod
    def _loss(logprobs: torch.Tensor, rollout: torch.Tensor, advantages: torch.Tensor) -> torch.Tensor:
        ratio = torch.exp(logprobs - logprobs.detach())
        weight = torch.exp(logprobs.detach() - rollout).clamp(max=2.0)
        surrogate = torch.minimum(ratio * advantages, ratio.clamp(0.8, 1.2) * advantages)
        return -(surrogate * weight).sum() / 1000

    def _update(self) -> None:
        torch.nn.utils.clip_grad_norm_(self.model.parameters(), 1.0)
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)


def measure_step() -> dict[str, Any]:
    """Compare the learner with the bare loop, and that with padding."""
    from r1ray.learner.policy_learner import PolicyLearner

    with tempfile.TemporaryDirectory() as folder:
        path = make_model(folder)
        samples = r1_like_samples(24, mean=540, longest=3277)
        (micro_batches,) = packed(samples)
        tokens = sum(len(s.prompt_ids) + len(s.completion_ids) for s in samples)
        learner = PolicyLearner(options(path, port=29711))
        bare, padded = BareLoop(path, attention="packed"), BareLoop(path, attention="sdpa")
        # As trainers with a fixed batch size do: in order of arrival.
        batches = [samples[i : i + PADDED_ROWS] for i in range(0, len(samples), PADDED_ROWS)]
        seconds: dict[str, list[float]] = {"r1ray": [], "bare": [], "padded": []}
        metrics: dict[str, float] = {}
        for _ in range(ROUNDS + 1):
            for name in seconds:
                began = time.perf_counter()
                if name == "r1ray":
                    metrics = learner.finish_step(micro_batches, rollout_version=learner.policy_version)
                elif name == "bare":
                    bare.packed_step(micro_batches)
                else:
                    padded.padded_step(batches)
                seconds[name].append(time.perf_counter() - began)
        learner.shutdown()
    rates = {name: tokens / median(values[1:]) for name, values in seconds.items()}
    padded_tokens = sum(len(b) * max(len(s.prompt_ids) + len(s.completion_ids) for s in b) for b in batches)
    return {
        "tokens": tokens,
        "padded_tokens": padded_tokens,
        "tokens_per_s": rates,
        "r1ray_to_bare": median(b / r for r, b in zip(seconds["r1ray"][1:], seconds["bare"][1:], strict=True)),
        "r1ray_to_padded": median(p / r for r, p in zip(seconds["r1ray"][1:], seconds["padded"][1:], strict=True)),
        "packing_efficiency": metrics["learner/packing_efficiency"],
        "micro_batch_fill": metrics["learner/micro_batch_fill"],
        "seconds": seconds,
    }


def learner_process(path: str, rank: int, port: int, learner: dict[str, Any], steps: int) -> None:
    """Be one of two processes; rank 0 prints its seconds."""
    from r1ray.learner.policy_learner import PolicyLearner

    process = PolicyLearner(options(path, rank=rank, world_size=2, port=port, **learner))
    share = packed(r1_like_samples(16, mean=540, longest=3277), num_ranks=2)[rank]
    seconds = []
    metrics: dict[str, float] = {}
    for _ in range(steps):
        began = time.perf_counter()
        metrics = process.finish_step(share, rollout_version=process.policy_version)
        seconds.append(time.perf_counter() - began)
    process.shutdown()
    if rank == 0:
        print(json.dumps({"seconds": seconds, "grad_norm": metrics["train/grad_norm"]}))


def run_pair(path: str, port: int, learner: dict[str, Any], steps: int) -> dict[str, Any]:
    """Start two learner processes and return what rank 0 printed."""
    command = [sys.executable, __file__, "process", path]
    environment = {**os.environ, "GOMP_SPINCOUNT": "1000"}
    pair = [
        subprocess.Popen(
            [*command, str(rank), str(port), json.dumps(learner), str(steps)],
            stdout=subprocess.PIPE,
            text=True,
            env=environment,
        )
        for rank in range(2)
    ]
    outputs = [process.communicate(timeout=PART_TIMEOUT_S)[0] for process in pair]
    if any(process.returncode for process in pair):
        raise RuntimeError(f"a learner process failed with {learner}")
    result: dict[str, Any] = json.loads(outputs[0].splitlines()[-1])
    return result


def measure_backends() -> dict[str, Any]:
    """Compare FSDP2 and DeepSpeed on two processes, three rounds in turn."""
    sides: dict[str, dict[str, Any]] = {
        "fsdp2": {"backend": "fsdp2"},
        "deepspeed_zero3": {"backend": "deepspeed", "zero_stage": 3},
        "deepspeed_zero2": {"backend": "deepspeed", "zero_stage": 2},
        "deepspeed_zero1": {"backend": "deepspeed", "zero_stage": 1},
    }
    with tempfile.TemporaryDirectory() as folder:
        path = make_model(folder)
        rounds: dict[str, list[float]] = {name: [] for name in sides}
        norms = {}
        for number in range(2):
            for i, (name, learner) in enumerate(sides.items()):
                cores = {"cores": None}
                result = run_pair(path, 29720 + 10 * number + i, learner | cores, 3)
                rounds[name].append(median(result["seconds"][1:]))
                norms[name] = result["grad_norm"]
    return {
        "step_s": rounds,
        "to_fsdp2": {name: median(rounds["fsdp2"]) / median(values) for name, values in rounds.items()},
        "grad_norm": norms,
    }


def measure_cores() -> dict[str, Any]:
    """Compare two processes with a core each and with all cores for both, and products in float32 and bfloat16."""
    with tempfile.TemporaryDirectory() as folder:
        path = make_model(folder)
        rounds: dict[str, list[float]] = {"own_core": [], "all_cores": []}
        for number in range(2):
            for i, name in enumerate(rounds):
                learner = {"cores": None if name == "own_core" else "all"}
                result = run_pair(path, 29760 + 10 * number + i, learner, 3)
                rounds[name].append(median(result["seconds"][1:]))
    return {
        "step_s": rounds,
        "own_core_is_faster_by": median(rounds["all_cores"]) / median(rounds["own_core"]),
        "bf16_product": product_rates(),
    }


def product_rates() -> dict[str, Any]:
    """Return TFLOP/s of a large product per dtype, and the instruction set that oneDNN takes for bfloat16."""
    rates = {}
    for dtype in (torch.float32, torch.bfloat16):
        a = torch.randn(2048, 2048).to(dtype)
        times = []
        for _ in range(8):
            began = time.perf_counter()
            a @ a
            times.append(time.perf_counter() - began)
        rates[str(dtype)] = 2 * 2048**3 / min(times) / 1e12
    code = "import torch; a = torch.randn(512, 512).bfloat16(); a @ a"
    environment = {**os.environ, "ONEDNN_VERBOSE": "1"}
    done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True)
    kernels = sorted({line.split(",")[6] for line in done.stdout.splitlines() if ",exec,cpu,matmul," in line})
    return {"tflops": rates, "onednn_kernels": kernels}


def peak_memory_bytes() -> int:
    """Return the largest memory this process has had; getrusage would also count what started it."""
    lines = Path("/proc/self/status").read_text().splitlines()
    (peak,) = (line.split()[1] for line in lines if line.startswith("VmHWM"))
    return int(peak) * 1024


def logprob_process(way: str, tokens: int) -> None:
    """Compute log-probabilities and their gradient at full size; print peak memory beyond the inputs."""
    from r1ray.algorithms.logprobs import linear_logprobs

    vocab, width = 151936, 64
    generator = torch.Generator().manual_seed(0)
    hidden = torch.randn(tokens, width, generator=generator).requires_grad_()
    weight = torch.randn(vocab, width, generator=generator).mul_(0.1).requires_grad_()
    weight.grad = torch.zeros_like(weight)
    targets = torch.randint(0, vocab, (tokens,), generator=generator)
    before = peak_memory_bytes()
    if way == "chunked":
        logprobs, entropy = linear_logprobs(hidden, weight, None, targets, temperature=1.0, entropy="value")
    else:
        log_probabilities = (hidden @ weight.t()).log_softmax(-1)
        logprobs = log_probabilities.gather(-1, targets[:, None])[:, 0]
        with torch.no_grad():
            entropy = -(log_probabilities.exp() * log_probabilities).sum(-1)
    logprobs.mean().backward()
    peak = peak_memory_bytes() - before
    with torch.no_grad():
        exact = (hidden[:64].double() @ weight.double().t()).log_softmax(-1)
        errors = {
            "logprobs": logprobs[:64] - exact.gather(1, targets[:64, None])[:, 0],
            "entropy": entropy[:64] + (exact.exp() * exact).sum(-1),
        }
    largest = {name: float(error.abs().max()) for name, error in errors.items()}
    print(json.dumps({"peak_bytes": peak, "largest_error_to_float64": largest}))


def measure_memory() -> dict[str, Any]:
    """Compare peak memory and values of both ways, each in a process of its own.

    The naive way is measured at a quarter of the tokens and multiplied by 4: at full size it takes more than 20 GB.
    """
    runs = {"chunked": ("chunked", 8192), "chunked_quarter": ("chunked", 2048), "naive_quarter": ("naive", 2048)}
    results = {}
    for name, (way, tokens) in runs.items():
        done = subprocess.run(
            [sys.executable, __file__, "logprobs", way, str(tokens)],
            capture_output=True,
            text=True,
            check=True,
            timeout=PART_TIMEOUT_S,
        )
        results[name] = json.loads(done.stdout.splitlines()[-1])

    peaks = {name: result["peak_bytes"] for name, result in results.items()}
    return {
        "peak_bytes": peaks,
        "chunked_to_naive": peaks["chunked"] / (4 * peaks["naive_quarter"]),
        "largest_error_to_float64": {name: result["largest_error_to_float64"] for name, result in results.items()},
    }


PARTS = {"step": measure_step, "memory": measure_memory, "backends": measure_backends, "cores": measure_cores}


def main() -> None:
    """Run the parts and write the result."""
    if sys.argv[1:2] == ["process"]:
        path, rank, port, learner, steps = sys.argv[2:]
        configured = json.loads(learner)
        cores = sorted(os.sched_getaffinity(0))
        own = (cores[int(rank) % len(cores)],)
        configured["cores"] = tuple(cores) if configured.pop("cores", None) == "all" else own
        learner_process(path, int(rank), int(port), configured, int(steps))
        return
    if sys.argv[1:2] == ["logprobs"]:
        logprob_process(sys.argv[2], int(sys.argv[3]))
        return
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("parts", nargs="*", default=[*PARTS])
    parser.add_argument("--out", type=Path, default=RESULTS)
    arguments = parser.parse_args()
    result: dict[str, Any] = provenance(__doc__, " ".join(["benchmarks/learner.py", *sys.argv[1:]]))
    for part in arguments.parts:
        result[part] = PARTS[part]()
        shown = {k: v for k, v in result[part].items() if k != "seconds"}
        print(part, json.dumps(shown, indent=1), flush=True)
    arguments.out.mkdir(parents=True, exist_ok=True)
    path = arguments.out / "learner.json"
    path.write_text(json.dumps(result, indent=1) + "\n")
    print(f"written to {path}")


if __name__ == "__main__":
    main()
