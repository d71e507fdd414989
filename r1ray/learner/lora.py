"""Low-rank adapters: trained in place of the model's own weights, merged for the engines, saved as PEFT saves them.

Adapters are put into the causal LM itself (no wrapper), so the module tree below it keeps its names but for
`q_proj.base_layer` and `q_proj.lora_A.default`. The frozen model under them is also the reference:
`adapters_disabled`. Parameters may be sharded by FSDP2; then `MergedWeightSource`, `adapter_state` and `save_adapter`
are collectives.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from copy import copy
from pathlib import Path
from typing import Any, cast

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.tensor import DTensor, Replicate

from r1ray.config.schema import LoraConfig
from r1ray.errors import ConfigError
from r1ray.weights.protocol import ParameterSpec

ADAPTER = "default"
ALL_LINEAR = "all-linear"
# What PEFT, and vLLM after it, put before the names of the model's modules.
PEFT_PREFIX = "base_model.model."


def add_adapters(causal_lm: Any, lora: LoraConfig) -> nn.Module:
    """Freeze the model and put trainable adapters beside its linear modules, in place.

    B starts at zero, so the policy starts as the base; A is drawn from torch's global generator, which every process
    must have seeded alike. Comes before `fully_shard`.

    Args:
        causal_lm: a Hugging Face causal LM; its dtype stays, adapters are float32.
        lora: rank at least 1.

    Returns:
        `causal_lm`.

    Raises:
        ConfigError: a target names no linear module of the transformer blocks.
    """
    import peft

    assert lora.rank > 0
    linear = {
        name.rpartition(".")[2]
        for block in causal_lm.base_model.layers
        for name, module in block.named_modules()
        if isinstance(module, nn.Linear)
    }
    unknown = sorted(set(lora.target_modules) - linear - {ALL_LINEAR})
    if unknown or not lora.target_modules:
        raise ConfigError(
            f"learner.lora.target_modules must name linear modules of the blocks of {type(causal_lm).__name__}, which "
            f"are {', '.join(sorted(linear))}, or be [{ALL_LINEAR}], got {unknown or 'none'}"
        )
    targets = linear if ALL_LINEAR in lora.target_modules else set(lora.target_modules)
    config = peft.LoraConfig(
        r=lora.rank, lora_alpha=cast(int, lora.alpha), target_modules=sorted(targets), task_type="CAUSAL_LM"
    )
    peft.inject_adapter_in_model(config, causal_lm, adapter_name=ADAPTER)
    for name, parameter in causal_lm.named_parameters():
        is_adapter = _is_adapter(name)
        parameter.requires_grad_(is_adapter)
        if is_adapter:
            parameter.data = parameter.data.float()
    return cast(nn.Module, causal_lm)


def _is_adapter(parameter_name: str) -> bool:
    return f".lora_A.{ADAPTER}." in parameter_name or f".lora_B.{ADAPTER}." in parameter_name


@contextmanager
def adapters_disabled(module: nn.Module) -> Iterator[None]:
    """Run `module` as its base, the reference, within this context."""
    from peft.tuners.lora import LoraLayer

    layers = [m for m in module.modules() if isinstance(m, LoraLayer)]
    # Not enable_adapters(): it also turns requires_grad of the adapters off and on, which FSDP2 would see.
    for layer in layers:
        layer._disable_adapters = True
    try:
        yield
    finally:
        for layer in layers:
            layer._disable_adapters = False


class MergedWeightSource:
    """The parameters of a model with adapters as those of a model without: base names, W + scaling * B @ A.

    Merged one at a time, in float32, without a change of the module. A tied parameter appears once, under its first
    name. See `weights.protocol.WeightSource`.
    """

    def __init__(self, causal_lm: Any, *, dtype: torch.dtype | None = None) -> None:
        """Take a model.

        Args:
            causal_lm: with adapters; its parameters may be DTensors, then iterating is a collective.
            dtype: floating-point parameters are announced and yielded in it; None: as the base model has them.
        """
        self._causal_lm = causal_lm
        self._dtype = dtype

    def specs(self) -> list[ParameterSpec]:
        """Describe the merged parameters; reads global shapes only."""
        return [
            ParameterSpec(_base_name(name), self._wire_dtype(parameter), tuple(parameter.shape))
            for name, parameter in self._base_parameters()
        ]

    @torch.no_grad()
    def __iter__(self) -> Iterator[tuple[str, Tensor]]:
        """Yield (base name, full tensor)."""
        for name, parameter in self._base_parameters():
            owner, _, kind = name.rpartition(".")
            weight = parameter.detach()
            if owner.endswith(".base_layer") and kind == "weight":
                weight = weight.float() + _delta(self._causal_lm.get_submodule(owner.removesuffix(".base_layer")))
            # Cast the shard, not the whole: the gather then moves what the engines need and no more.
            weight = weight.to(self._wire_dtype(parameter))
            yield _base_name(name), _full(weight)

    def _base_parameters(self) -> Iterator[tuple[str, Tensor]]:
        return ((name, p) for name, p in self._causal_lm.named_parameters() if not _is_adapter(name))

    def _wire_dtype(self, parameter: Tensor) -> torch.dtype:
        return self._dtype if self._dtype is not None and parameter.is_floating_point() else parameter.dtype


def _base_name(name: str) -> str:
    return name.replace(".base_layer.", ".")


def _delta(layer: Any) -> Tensor:
    """Return scaling * B @ A, sharded by rows as B is, and so as the weight it is added to."""
    a, b = layer.lora_A[ADAPTER].weight.detach(), layer.lora_B[ADAPTER].weight.detach()
    if isinstance(a, DTensor):
        a = a.redistribute(placements=[Replicate()] * a.device_mesh.ndim)
    delta: Tensor = (b @ a) * layer.scaling[ADAPTER]
    return delta


def _full(tensor: Tensor) -> Tensor:
    return tensor.full_tensor() if isinstance(tensor, DTensor) else tensor


def adapter_state(causal_lm: Any) -> dict[str, Tensor]:
    """Return the adapters by their PEFT names, whole, float32, in CPU memory."""
    return {
        PEFT_PREFIX + name.replace(f".{ADAPTER}.", "."): _full(parameter.detach()).cpu()
        for name, parameter in causal_lm.named_parameters()
        if _is_adapter(name)
    }


def save_adapter(directory: str, causal_lm: Any, *, base_model: str) -> None:
    """Write adapter_model.safetensors and adapter_config.json, as PEFT reads them; from rank 0.

    Args:
        directory: is made where it does not exist.
        causal_lm: with adapters.
        base_model: path or hub name that the adapter says it belongs to.
    """
    from safetensors.torch import save_file

    state = {name: tensor.contiguous() for name, tensor in adapter_state(causal_lm).items()}
    if dist.is_initialized() and dist.get_rank() != 0:
        return
    folder = Path(directory)
    folder.mkdir(parents=True, exist_ok=True)
    save_file(state, folder / "adapter_model.safetensors", metadata={"format": "pt"})
    config = copy(causal_lm.peft_config[ADAPTER])
    config.base_model_name_or_path, config.inference_mode = base_model, True
    config.target_modules = sorted(config.target_modules)
    config.save_pretrained(str(folder))
