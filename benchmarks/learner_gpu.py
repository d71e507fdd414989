"""How fast does the learner train on one GPU, how near the device's peak, and how fast do weights leave it?

Models of the Qwen2 architecture with random weights, made on the spot; one process, bfloat16, whole optimizer steps
(packing, forward, loss, backward, clipping, AdamW), median over steps after warming up. MFU counts a forward and a
backward pass of the model, nothing that is computed again. Weight sync goes through CUDA IPC into another process, next
to the rate at which the device copies memory.

    python benchmarks/learner_gpu.py [SIZE:TOKENS:VARIANT ...] [--skip-sync]
"""

from __future__ import annotations

import argparse
import gc
import json
import sys
import tempfile
import time
from pathlib import Path
from statistics import median
from typing import Any

import torch
from provenance import RESULTS, provenance

from r1ray.config.schema import AlgorithmConfig, LearnerConfig
from r1ray.learner.packing import Cost, Packer
from r1ray.learner.policy_learner import PolicyLearner
from r1ray.learner.protocol import LearnerOptions
from r1ray.types import TrainingSample

SIZES: dict[str, dict[str, int]] = {
    "0.5b": {
        "hidden_size": 896,
        "intermediate_size": 4864,
        "num_hidden_layers": 24,
        "num_attention_heads": 14,
        "num_key_value_heads": 2,
    },
    "1.5b": {
        "hidden_size": 1536,
        "intermediate_size": 8960,
        "num_hidden_layers": 28,
        "num_attention_heads": 12,
        "num_key_value_heads": 2,
    },
}
VARIANTS: dict[str, dict[str, Any]] = {
    "plain": {},
    "full": {"activation_checkpointing": "full"},
    "selective": {"activation_checkpointing": "selective"},
    "fused": {"fused_kernels": True},
    "compile": {"compile": True},
    "compile_full": {"compile": True, "activation_checkpointing": "full"},
    "fused_full": {"fused_kernels": True, "activation_checkpointing": "full"},
    "fp32_head": {"fp32_lm_head": True},
    "offload": {"offload_optimizer": True},
}
MICRO_BATCH_TOKENS = 32768
WARM_UP, STEPS = 2, 3
CASES = ["1.5b:4096:plain", "1.5b:4096:fused", "1.5b:32768:fused_full", "0.5b:4096:fused", "0.5b:32768:fused"]


def make_model(size: str, folder: Path) -> str:
    """Write a random model and return its path."""
    from transformers import Qwen2Config, Qwen2ForCausalLM

    path = folder / size
    if not path.exists():
        torch.manual_seed(0)
        config = Qwen2Config(
            vocab_size=151936, max_position_embeddings=32768, tie_word_embeddings=True, dtype="bfloat16", **SIZES[size]
        )
        with torch.device("cuda"):
            model = Qwen2ForCausalLM(config).bfloat16()
        model.save_pretrained(path)
        # PolicyLearner saves a tokenizer only with a checkpoint, which is not made here.
        del model
        torch.cuda.empty_cache()
    return str(path)


def options(path: str, learner: LearnerConfig, *, kl_coef: float, port: int) -> LearnerOptions:
    """Return the options of a single CUDA process."""
    return LearnerOptions(
        model_path=path,
        revision=None,
        trust_remote_code=False,
        dtype="bfloat16",
        device="cuda",
        rank=0,
        world_size=1,
        master_address="127.0.0.1",
        master_port=port,
        temperature=1.0,
        max_completion_tokens=32768,
        total_steps=1000,
        seed=0,
        cores=(),
        timeout_s=120.0,
        sync_backend="ipc",
        learner=learner,
        algorithm=AlgorithmConfig(kl_coef=kl_coef),
    )


def samples(length: int, count: int) -> list[TrainingSample]:
    """Make `count` samples of `length` tokens, four to a prompt where they are short."""
    prompt = 256
    made = []
    for i in range(count):
        n = length - prompt
        ids = torch.randint(0, 151936, (n,), generator=torch.Generator().manual_seed(i)).tolist()
        made.append(
            TrainingSample(
                tuple(range(prompt)), tuple(ids), (-11.9,) * n, (0,) * n, 1.0 if i % 2 else -1.0, prompt_key=str(i // 4)
            )
        )
    return made


def time_steps(path: str, length: int, variant: dict[str, Any], *, kl_coef: float, port: int) -> dict[str, Any]:
    """Run optimizer steps and return tokens/s, MFU and memory."""
    torch.cuda.reset_peak_memory_stats()
    learner = PolicyLearner(
        options(path, LearnerConfig(micro_batch_tokens=MICRO_BATCH_TOKENS, **variant), kl_coef=kl_coef, port=port)
    )
    packer = Packer(micro_batch_tokens=MICRO_BATCH_TOKENS, num_ranks=1, cost=Cost())
    rows = [*packer.add(samples(length, 3 * MICRO_BATCH_TOKENS // length)), *packer.finish()]
    micro_batches = [row[0] for row in rows]
    seconds, metrics = [], {}
    for _ in range(WARM_UP + STEPS):
        torch.cuda.synchronize()
        began = time.perf_counter()
        metrics = learner.finish_step(micro_batches, rollout_version=learner.policy_version)
        torch.cuda.synchronize()
        seconds.append(time.perf_counter() - began)
    step_s = median(seconds[WARM_UP:])
    peak = learner.peak_flops_per_s
    result = {
        "step_s": step_s,
        "micro_batches": len(micro_batches),
        "tokens_per_s": metrics["learner/computed_tokens"] / step_s,
        "mfu": metrics["learner/model_flops"] / step_s / peak if peak else None,
        "peak_memory_gib": torch.cuda.max_memory_allocated() / 2**30,
        "first_step_s": seconds[0],
        "grad_norm": metrics["train/grad_norm"],
        "entropy": metrics["train/entropy"],
    }
    learner.shutdown()
    del learner
    gc.collect()
    torch.cuda.empty_cache()
    return result


def copy_rate() -> float:
    """Return GB/s of a device-to-device copy, bytes read plus bytes written."""
    source = torch.empty(1 << 30, dtype=torch.uint8, device="cuda")
    target = torch.empty_like(source)
    times = []
    for _ in range(10):
        start, end = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
        start.record()
        target.copy_(source)
        end.record()
        end.synchronize()
        times.append(start.elapsed_time(end) / 1e3)
    return 2 * source.numel() / median(times) / 1e9


def main() -> None:
    """Measure, print as it goes, and write the result."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("cases", nargs="*", default=CASES, help=f"sizes {[*SIZES]}, variants {[*VARIANTS]}")
    parser.add_argument("--kl-coef", type=float, default=0.0)
    parser.add_argument("--skip-sync", action="store_true")
    parser.add_argument("--out", type=Path, default=RESULTS)
    arguments = parser.parse_args()
    result: dict[str, Any] = {
        **provenance(__doc__, " ".join(["benchmarks/learner_gpu.py", *sys.argv[1:]])),
        "device": torch.cuda.get_device_name(),
        "torch": torch.__version__,
        "learner": [],
    }
    arguments.out.mkdir(parents=True, exist_ok=True)
    target = arguments.out / "learner_gpu.json"

    def note(row: dict[str, Any]) -> None:
        print(json.dumps(row), flush=True)
        target.write_text(json.dumps(result, indent=1) + "\n")

    with tempfile.TemporaryDirectory() as folder:
        if not arguments.skip_sync:
            from learner_gpu_sync import time_sync

            result["weight_sync"] = {"copy_gb_per_s": copy_rate(), **time_sync(make_model("1.5b", Path(folder)))}
            note(result["weight_sync"])
        for number, case in enumerate(arguments.cases):
            size, length, variant = case.split(":")
            row: dict[str, Any] = {"model": size, "length": int(length), "variant": variant}
            path = make_model(size, Path(folder))
            try:
                row |= time_steps(path, int(length), VARIANTS[variant], kl_coef=arguments.kl_coef, port=29600 + number)
            except torch.OutOfMemoryError as error:
                row["failed"] = f"out of memory: {str(error)[:200]}"
                torch.distributed.destroy_process_group()
                gc.collect()
                torch.cuda.empty_cache()
            result["learner"].append(row)
            note(row)
    print(f"written to {target}")


if __name__ == "__main__":
    main()
