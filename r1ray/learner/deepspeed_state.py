"""What a DeepSpeed engine holds, parameter by parameter: float32 masters, Adam's moments, frozen weights.

Knows where ZeRO 1, 2 and 3 keep them (DeepSpeed 0.19.8) and presents each as this process's run of the flattened
parameter. Saves and restores them in the layout of `learner/state.py`, so a checkpoint can change its ZeRO stage, its
number of processes and its back end.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.checkpoint.state_dict_saver import save as save_shards

from r1ray.learner.flat_shards import FlatShard
from r1ray.learner.state import STATE_FOLDER, read

MOMENTS = ("exp_avg", "exp_avg_sq")
# How Adam computes, not what.
IMPLEMENTATION_KEYS = ("foreach", "fused", "capturable")


def shape_of(parameter: nn.Parameter) -> tuple[int, ...]:
    """Return the whole parameter's shape, which ZeRO 3 hides."""
    return tuple(getattr(parameter, "ds_shape", parameter.shape))


class ZeroState:
    """The state of one DeepSpeed engine with an optimizer."""

    def __init__(self, engine: Any, adam: torch.optim.Optimizer) -> None:
        """Take an engine.

        Args:
            engine: what `deepspeed.initialize` returned.
            adam: the optimizer that was given to it; DeepSpeed has put its own flat parameters into it.
        """
        self._engine = engine
        self._adam = adam
        zero = engine.optimizer
        for name in ("fp32_partitioned_groups_flat", "single_partition_of_fp32_groups", "fp32_groups_flat_partition"):
            if hasattr(zero, name):
                self._flat: list[Tensor] = getattr(zero, name)
                break
        else:
            raise AssertionError(f"{type(zero).__name__} is no ZeRO optimizer of DeepSpeed 0.19")
        # Adam makes its state in the first step; a checkpoint can come before that.
        for flat in self._flat:
            adam.state[flat] = {
                "step": torch.zeros((), dtype=torch.float32, device=flat.device),
                **{name: torch.zeros_like(flat, requires_grad=False) for name in MOMENTS},
            }

    def content(self) -> dict[str, Any]:
        """Return the parameters and the optimizer as torch.distributed.checkpoint takes them."""
        module = self._engine.module
        named = dict(module.named_parameters())
        trained = {name: parameter for name, parameter in named.items() if parameter.requires_grad}
        step = self._adam.state[self._flat[0]]["step"]
        (group,) = self._adam.param_groups
        settings = {key: value for key, value in group.items() if key != "params"}
        return {
            "policy": {
                name: self._master(parameter) if parameter.requires_grad else shard(parameter)
                for name, parameter in module.named_parameters(remove_duplicate=False)
            },
            "optimizer": {
                "state": {
                    name: {
                        "step": step.detach().clone().cpu(),
                        **{key: self._master(parameter, key) for key in MOMENTS},
                    }
                    for name, parameter in trained.items()
                },
                "param_groups": [{**settings, **dict.fromkeys(IMPLEMENTATION_KEYS), "params": list(trained)}],
            },
        }

    def adopt(self, optimizer: dict[str, Any]) -> None:
        """Finish loading: the runs hold the new values already, the rest follows here."""
        (loaded,) = optimizer["param_groups"]
        (group,) = self._adam.param_groups
        group.update({key: loaded[key] for key in group if key not in ("params", *IMPLEMENTATION_KEYS)})
        step = next(iter(optimizer["state"].values()))["step"]
        for flat in self._flat:
            self._adam.state[flat]["step"].fill_(float(step))
        self.refresh_compute_weights()

    @torch.no_grad()
    def set_masters(self, values: Mapping[str, Tensor]) -> None:
        """Set float32 masters, whose compute weights stay.

        Args:
            values: whole tensors by parameter name.
        """
        for name, parameter in self._engine.module.named_parameters():
            if name in values:
                start, run = self._run(parameter, None)
                run.copy_(values[name].flatten()[start : start + run.numel()])

    @torch.no_grad()
    def refresh_compute_weights(self) -> None:
        """Cast the masters to the weights that the forward pass uses; a collective."""
        zero = self._engine.optimizer
        if self._engine.zero_optimization_stage() < 3:
            zero.update_lp_params()
            return
        zero.empty_partition_cache()
        for index in range(len(self._flat)):
            zero._reassign_or_swap_out_partitioned_parameters(index)

    def _master(self, parameter: nn.Parameter, moment: str | None = None) -> FlatShard:
        return FlatShard(shape_of(parameter), *self._run(parameter, moment))

    def _run(self, parameter: Any, moment: str | None) -> tuple[int, Tensor]:
        """Return where this process's run of a trained parameter starts, and a view of it: [n] float32."""
        if self._engine.zero_optimization_stage() == 3:
            zero = self._engine.optimizer
            group, offset, size = zero.grad_position[zero.get_param_id(parameter)]
            start = min(dist.get_rank(parameter.ds_process_group) * size, parameter.ds_numel)
            count = min(size, parameter.ds_numel - start)
        elif parameter._hp_mapping is None:
            group, offset, start, count = 0, 0, 0, 0
        else:
            mapping = parameter._hp_mapping
            group, offset = mapping.param_group_index, mapping.hp_fragment_address.start
            start, count = mapping.lp_fragment_address.start, mapping.lp_fragment_address.numel
        flat = self._flat[group] if moment is None else self._adam.state[self._flat[group]][moment]
        return start, flat.detach().narrow(0, offset, count)


def shard(parameter: Any) -> Tensor:
    """Return what this process holds of a parameter that no optimizer has."""
    if not hasattr(parameter, "ds_tensor"):
        return parameter.detach()  # type: ignore[no-any-return]
    size = parameter.ds_tensor.numel()
    start = min(dist.get_rank(parameter.ds_process_group) * size, parameter.ds_numel)
    count = min(size, parameter.ds_numel - start)
    return FlatShard(tuple(parameter.ds_shape), start, parameter.ds_tensor.detach().narrow(0, 0, count))


def _content(state: ZeroState, reference: nn.Module | None) -> dict[str, Any]:
    content = state.content()
    if reference is not None:
        named = reference.named_parameters(remove_duplicate=False)
        content["reference"] = {name: shard(parameter) for name, parameter in named}
    return content


def save(directory: str, state: ZeroState, reference: nn.Module | None) -> None:
    """Write `directory`/learner; a collective."""
    save_shards(_content(state, reference), checkpoint_id=str(Path(directory) / STATE_FOLDER))


def load(directory: str, state: ZeroState, reference: nn.Module | None) -> None:
    """Restore what `save`, or that of another back end, wrote; a collective.

    Raises:
        CheckpointError: the shards are missing or belong to another model.
    """
    content = _content(state, reference)
    read(directory, content)
    state.adopt(content["optimizer"])
