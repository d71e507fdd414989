import dataclasses

import torch

from r1ray.rollout.load import load_model
from r1ray.rollout.protocol import EngineOptions
from r1ray.rollout.vllm_options import engine_arguments


def test_a_float32_head_multiplies_in_float32_under_the_same_names(options: EngineOptions) -> None:
    in_bfloat16 = dataclasses.replace(options, dtype="bfloat16")
    model = load_model(dataclasses.replace(in_bfloat16, fp32_lm_head=True))
    plain = load_model(in_bfloat16)
    assert [n for n, _ in model.named_parameters()] == [n for n, _ in plain.named_parameters()]
    hidden = torch.randn(5, model.config.hidden_size, generator=torch.Generator().manual_seed(0)).bfloat16()
    head = model.get_output_embeddings()
    exact = hidden.double() @ head.weight.double().t()
    assert head.weight.dtype == torch.bfloat16
    assert (head(hidden).double() - exact).abs().max() < 1e-5
    assert (plain.get_output_embeddings()(hidden).double() - exact).abs().max() > 1e-4


def test_vllm_is_told_of_the_float32_head(options: EngineOptions) -> None:
    with_head = engine_arguments(dataclasses.replace(options, fp32_lm_head=True))
    assert with_head["hf_overrides"] == {"head_dtype": "float32"}
    assert "hf_overrides" not in engine_arguments(options)
