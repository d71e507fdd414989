"""FSDP2 and DeepSpeed on CUDA under the contract of training engines, on two GPUs where there are so many."""

import importlib
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import Qwen2Config, Qwen2ForCausalLM

pytestmark = [pytest.mark.gpu, pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")]
sys.path.insert(0, str(Path(__file__).parents[1] / "integration"))
contract = importlib.import_module("training_engine_contract")


@pytest.mark.parametrize("back_end", ["fsdp2", "zero1", "zero2", "zero3"])
def test_it_trains_and_resumes_on_cuda_as_plain_pytorch_on_cpu(back_end: str, tmp_path: Path) -> None:
    if back_end != "fsdp2":
        pytest.importorskip("deepspeed")
    torch.manual_seed(0)
    sizes: dict[str, Any] = {"hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2}
    heads = {"num_attention_heads": 2, "num_key_value_heads": 1}
    model_path = str(tmp_path / "tiny")
    Qwen2ForCausalLM(Qwen2Config(vocab_size=61, tie_word_embeddings=True, **sizes, **heads)).save_pretrained(model_path)
    recompute = {"activation_checkpointing": "full"}
    variants: dict[str, tuple[str, dict[str, Any]]] = {
        "float32": ("float32", {}),
        "bfloat16": ("bfloat16", {"offload_reference": True, **recompute}),
        "offloaded": ("bfloat16", {"offload_optimizer": True, **recompute}),
    }
    cases = {
        name: contract.Case(
            engine="r1ray.learner.fsdp2:Fsdp2Engine"
            if back_end == "fsdp2"
            else "r1ray.learner.deepspeed:DeepSpeedEngine",
            model_path=model_path,
            learner=learner if back_end == "fsdp2" else {"zero_stage": int(back_end[-1]), **learner},
            dtype=dtype,
            device="cuda",
            processes=min(2, torch.cuda.device_count()),
        )
        for name, (dtype, learner) in variants.items()
    }
    for name, found in contract.measure(cases, tmp_path).items():
        pair, plain = found["pair0"], found["single"]["plain"]
        exact = cases[name].dtype == "float32"
        assert pair["losses"][:5] == pytest.approx(plain["loss"][:5], rel=1e-4 if exact else 2e-2, abs=1e-4)
        assert pair["norms"][:5] == pytest.approx(plain["norm"][:5], rel=1e-4 if exact else 1e-2)
        assert pair["nothing_changed"]
        assert pair["restored_exactly"]
        assert pair["resumed_exactly"]
        assert pair["resumed_weights_exactly"]
        assert pair["restored_from_single"]
        assert pair["reference_after"] == 0.0
        assert found["output"] == ""
