"""Adapters against PEFT's own way with them."""

import json
from pathlib import Path
from typing import Any

import peft
import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM, Qwen2Config, Qwen2ForCausalLM

from r1ray.config.schema import LoraConfig
from r1ray.errors import ConfigError
from r1ray.learner.attention import ATTENTION_NAME, packed_attention
from r1ray.learner.lora import MergedWeightSource, adapter_state, adapters_disabled, add_adapters, save_adapter
from r1ray.learner.micro_batch import collate
from r1ray.learner.packing import Bundle
from r1ray.types import TrainingSample

IDS = torch.tensor([[3, 1, 4, 1, 5, 9, 2, 6]])


def tiny(**changes: Any) -> Any:
    torch.manual_seed(0)
    config = Qwen2Config(
        vocab_size=61,
        hidden_size=32,
        intermediate_size=48,
        num_hidden_layers=2,
        num_attention_heads=2,
        num_key_value_heads=1,
        tie_word_embeddings=True,
        **changes,
    )
    return Qwen2ForCausalLM(config).eval()


def adapted(**changes: Any) -> Any:
    """A tiny model whose adapters have left zero."""
    model = add_adapters(tiny(), LoraConfig(**{"rank": 4, "alpha": 6.0, **changes}))
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if ".lora_B." in name:
                parameter.copy_(0.3 * torch.randn(parameter.shape, generator=generator))
    return model


def logits(model: Any) -> torch.Tensor:
    with torch.no_grad():
        result: torch.Tensor = model(IDS, use_cache=False).logits
    return result


def test_new_adapters_change_nothing_and_are_all_that_trains() -> None:
    model = add_adapters(tiny().to(torch.bfloat16), LoraConfig(rank=4))
    assert torch.equal(logits(model), logits(tiny().to(torch.bfloat16)))
    trainable = {name: p.dtype for name, p in model.named_parameters() if p.requires_grad}
    # A and B of the seven linear modules of each of two blocks.
    assert len(trainable) == 2 * 7 * 2
    assert all(".lora_" in name and dtype == torch.float32 for name, dtype in trainable.items())
    assert {p.dtype for p in model.parameters() if not p.requires_grad} == {torch.bfloat16}


def test_only_the_named_modules_get_adapters() -> None:
    model = add_adapters(tiny(), LoraConfig(rank=2, target_modules=["q_proj", "v_proj"]))
    owners = {name.split(".lora_")[0].rpartition(".")[2] for name in adapter_state(model)}
    assert owners == {"q_proj", "v_proj"}


@pytest.mark.parametrize("targets", [["q_proj", "qkv"], ["lm_head"], []])
def test_an_unknown_target_is_an_error_that_names_the_modules(targets: list[str]) -> None:
    with pytest.raises(ConfigError, match=r"down_proj, gate_proj, k_proj, o_proj, q_proj, up_proj, v_proj"):
        add_adapters(tiny(), LoraConfig(rank=2, target_modules=targets))


def test_the_base_is_the_reference() -> None:
    model = adapted()
    trained = logits(model)
    with adapters_disabled(model):
        assert torch.equal(logits(model), logits(tiny()))
    assert torch.equal(logits(model), trained)
    assert not torch.equal(trained, logits(tiny()))
    assert sum(p.requires_grad for p in model.parameters()) == 28


def test_merged_weights_are_those_of_peft_under_base_names() -> None:
    base = tiny()
    wrapped = peft.get_peft_model(base, peft.LoraConfig(r=4, lora_alpha=6, target_modules="all-linear"))
    values = {name.removeprefix("base_model.model."): p for name, p in wrapped.named_parameters()}
    model = adapted()
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            values[name].copy_(parameter)
    before = {name: p.detach().clone() for name, p in model.named_parameters()}
    merged = dict(MergedWeightSource(model))
    expected = dict(wrapped.merge_and_unload().named_parameters())
    assert list(merged) == list(expected) == [name for name, _ in tiny().named_parameters()]
    for name, value in merged.items():
        torch.testing.assert_close(value, expected[name].detach(), rtol=0, atol=1e-6)
    assert all(torch.equal(before[name], p) for name, p in model.named_parameters())


def test_the_merged_model_says_what_the_adapted_one_says(tmp_path: Path) -> None:
    model = adapted()
    plain = tiny()
    plain.load_state_dict(dict(MergedWeightSource(model)), strict=False)
    torch.testing.assert_close(logits(plain), logits(model), rtol=0, atol=1e-5)
    # As the learner exports it: the module has adapters, the state has none.
    model.save_pretrained(tmp_path, state_dict=dict(MergedWeightSource(model)))
    again = AutoModelForCausalLM.from_pretrained(tmp_path)
    assert torch.equal(logits(again), logits(plain))


def test_specs_say_what_iteration_yields() -> None:
    source = MergedWeightSource(adapted(), dtype=torch.bfloat16)
    said = [(spec.name, spec.dtype, spec.shape) for spec in source.specs()]
    assert said == [(name, value.dtype, tuple(value.shape)) for name, value in source]
    assert {dtype for _, dtype, _ in said} == {torch.bfloat16}


def test_peft_loads_what_was_saved(tmp_path: Path) -> None:
    model = adapted(target_modules=["q_proj", "down_proj"])
    save_adapter(str(tmp_path / "adapter"), model, base_model="tiny")
    loaded = peft.PeftModel.from_pretrained(tiny(), str(tmp_path / "adapter"))
    assert torch.equal(logits(loaded), logits(model))
    config = json.loads((tmp_path / "adapter" / "adapter_config.json").read_text())
    assert (config["r"], config["lora_alpha"], config["base_model_name_or_path"]) == (4, 6.0, "tiny")
    assert sorted(config["target_modules"]) == ["down_proj", "q_proj"]
    names = set(load_file(tmp_path / "adapter" / "adapter_model.safetensors"))
    assert "base_model.model.model.layers.1.mlp.down_proj.lora_A.weight" in names
    assert len(names) == 2 * 2 * 2


def test_adapters_train_through_packed_attention() -> None:
    """The gradients of a packed batch with a shared prompt are those of its samples one by one."""
    from transformers import AttentionInterface

    AttentionInterface.register(ATTENTION_NAME, packed_attention)
    completions = [(7, 8, 9, 1), (2, 3)]
    samples = [
        TrainingSample((5, 6, 4), c, (0.0,) * len(c), (0,) * len(c), 1.0, trained=True, prompt_key="p")
        for c in completions
    ]
    model, plain = adapted(), adapted()
    model.set_attn_implementation(ATTENTION_NAME)
    batch = collate([Bundle(samples)])
    hidden = model.base_model(
        input_ids=batch.input_ids, position_ids=batch.position_ids, layout=batch.layout, use_cache=False
    ).last_hidden_state[0]
    scores = model.lm_head(hidden[batch.predict_from]).log_softmax(-1)
    scores.gather(1, batch.targets[:, None]).sum().backward()
    for c in completions:
        scores = plain(torch.tensor([[5, 6, 4, *c]])).logits[0, 2:-1].log_softmax(-1)
        scores.gather(1, torch.tensor(c)[:, None]).sum().backward()
    for (name, p), q in zip(model.named_parameters(), plain.parameters(), strict=True):
        assert (p.grad is not None) == (".lora_" in name)
        if p.grad is not None:
            torch.testing.assert_close(p.grad, q.grad, rtol=1e-5, atol=1e-5)
