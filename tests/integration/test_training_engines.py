"""FSDP2 and DeepSpeed ZeRO 1, 2 and 3 under the contract of training engines, against plain PyTorch."""

import importlib
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM, Qwen2Config, Qwen2ForCausalLM

sys.path.insert(0, str(Path(__file__).parent))
contract = importlib.import_module("training_engine_contract")

DEEPSPEED = "r1ray.learner.deepspeed:DeepSpeedEngine"
TIGHT = "deepspeed_tight:tight_engine"
FSDP2 = "r1ray.learner.fsdp2:Fsdp2Engine"


def cases_of(back_end: str, model_path: str) -> dict[str, Any]:
    """Return the configurations that are measured together, in the same processes."""
    recompute = {"activation_checkpointing": "full"}
    learner: dict[str, dict[str, Any]] = {
        "float32": {"offload_reference": True, **recompute},
        "bfloat16": recompute,
        "offloaded": {"offload_optimizer": True},
    }
    if back_end == "fsdp2":
        # Offloading is for GPUs; without one it changes nothing.
        learner["float32"] = {}
        return {
            name: contract.Case(
                engine=FSDP2,
                model_path=model_path,
                learner=changes,
                dtype="bfloat16" if name == "bfloat16" else "float32",
            )
            for name, changes in learner.items()
        }
    stage = int(back_end[-1])
    return {
        name: contract.Case(
            engine=DEEPSPEED if name == "offloaded" and stage == 3 else TIGHT,
            model_path=model_path,
            learner={"zero_stage": stage, **changes},
            dtype="bfloat16" if name == "bfloat16" or (name == "offloaded" and stage == 2) else "float32",
        )
        for name, changes in learner.items()
    }


@pytest.fixture(scope="module")
def model_path(tmp_path_factory: pytest.TempPathFactory) -> str:
    torch.manual_seed(0)
    config = Qwen2Config(
        vocab_size=61,
        hidden_size=32,
        intermediate_size=48,
        num_hidden_layers=2,
        num_attention_heads=2,
        num_key_value_heads=1,
        tie_word_embeddings=True,
    )
    path = tmp_path_factory.mktemp("model") / "tiny"
    Qwen2ForCausalLM(config).save_pretrained(path)
    return str(path)


@pytest.fixture(
    scope="module",
    params=["fsdp2", *(pytest.param(name, marks=pytest.mark.slow) for name in ("zero1", "zero2", "zero3"))],
)
def measured(
    request: pytest.FixtureRequest, model_path: str, tmp_path_factory: pytest.TempPathFactory
) -> tuple[dict[str, Any], Path]:
    directory = tmp_path_factory.mktemp("contract")
    return contract.measure(cases_of(request.param, model_path), directory), directory


@pytest.fixture(params=["float32", "bfloat16", "offloaded"])
def found(request: pytest.FixtureRequest, measured: tuple[dict[str, Any], Path]) -> dict[str, Any]:
    results, directory = measured
    folder = directory / request.param
    weights = torch.load(folder / "pair.pt")
    return {
        **results[request.param],
        "weights": weights,
        "plain_weights": torch.load(folder / "plain.pt"),
        "dtype": next(iter(weights.values())).dtype,
    }


def test_it_trains_as_plain_pytorch_does(found: dict[str, Any]) -> None:
    pair, plain = found["pair0"], found["single"]["plain"]
    assert found["pair1"]["losses"] == pair["losses"]
    assert found["pair1"]["norms"] == pair["norms"]
    assert min(plain["norm"]) < 1 < max(plain["norm"]), "some steps are clipped and some are not"
    # In bfloat16 this holds while the weights round alike. Sums in bfloat16 would be off by 5e-5 at once.
    assert pair["norms"][:5] == pytest.approx(plain["norm"][:5], rel=1e-6)
    assert pair["losses"][:5] == pytest.approx(plain["loss"][:5], abs=1e-5)
    weights, expected = found["weights"], found["plain_weights"]
    assert weights.keys() == expected.keys()
    in_bfloat16 = found["dtype"] == torch.bfloat16
    assert pair["norms"] == pytest.approx(plain["norm"], rel=1e-2 if in_bfloat16 else 1e-5)
    assert pair["losses"] == pytest.approx(plain["loss"], rel=2e-2 if in_bfloat16 else 1e-5, abs=1e-5)
    for name, weight in weights.items():
        torch.testing.assert_close(weight, expected[name], rtol=0, atol=8e-3 if in_bfloat16 else 1e-5)


def test_weights_are_a_hugging_face_model(found: dict[str, Any], model_path: str) -> None:
    model = AutoModelForCausalLM.from_pretrained(model_path, dtype=found["dtype"])
    named = dict(model.named_parameters())
    specs = [[name, str(parameter.dtype), list(parameter.shape)] for name, parameter in named.items()]
    assert found["pair0"]["specs"] == specs
    missing, unexpected = model.load_state_dict(found["weights"], strict=False)
    assert (missing, unexpected) == (["lm_head.weight"], [])
    assert model.lm_head.weight is model.model.embed_tokens.weight


def test_steps_without_a_gradient_change_nothing(found: dict[str, Any]) -> None:
    pair = found["pair0"]
    assert pair["empty_step_norm"] == pair["nothing_trained_norm"] == 0.0
    assert pair["infinite_norm"] in ("inf", "nan")
    assert pair["nothing_changed"]


def test_a_resumed_run_goes_on_bit_for_bit(found: dict[str, Any]) -> None:
    for pair in (found["pair0"], found["pair1"]):
        assert pair["restored_exactly"]
        assert pair["resumed_exactly"]
        assert pair["resumed_weights_exactly"]


def test_a_checkpoint_moves_between_two_processes_and_one(found: dict[str, Any]) -> None:
    pair = found["pair0"]
    assert pair["restored_from_single"]
    then = slice(contract.SAVED_AFTER, contract.SAVED_AFTER + contract.RESUMED)
    expected = [x for both in zip(pair["losses"][then], pair["norms"][then], strict=True) for x in both]
    in_bfloat16 = found["dtype"] == torch.bfloat16
    for resumed in (pair["resumed_from_single"], found["single"]["resumed_from_pair"]):
        # One process packs otherwise, and adds up in another order.
        assert [x for both in resumed for x in both] == pytest.approx(expected, rel=1e-2 if in_bfloat16 else 1e-5)


def test_a_missing_checkpoint_is_named_with_the_remedy(found: dict[str, Any]) -> None:
    assert "nothing" in found["pair0"]["missing_checkpoint"]
    assert "resume from another checkpoint" in found["pair0"]["missing_checkpoint"]


def test_the_reference_stays_until_it_is_refreshed(found: dict[str, Any]) -> None:
    pair = found["pair0"]
    assert pair["reference_before"] > 1e-2
    assert pair["reference_after"] == 0.0
    assert pair["reference_again"][1] > 1e-4


def test_it_is_silent_and_keeps_its_threads(found: dict[str, Any]) -> None:
    assert found["output"] == ""
    assert found["pair0"]["threads_kept"]
    assert found["pair1"]["threads_kept"]
