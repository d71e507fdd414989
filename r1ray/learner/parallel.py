"""Splits the learner over more than data: device meshes, tensor parallelism, and gradients that live on both.

Ranks are laid out as (data, context, tensor), tensor fastest. FSDP2 shards over data and context together; a layer's
matrices are also split over the tensor ranks, by the plan that the model itself brings. Embedding, norms and LM head
stay whole on every tensor rank. Parameters thus live on two meshes, and two things that torch does for one mesh are
done here: keeping the copies of a parameter alike, and the norm of all gradients. `context.py` splits the sequence.

Order: `build_meshes`, `apply_tensor_parallel`, `fully_shard(block, mesh=meshes.shard)`, the optimizer; after the last
backward pass of a step `synchronize_gradients`, then `clip_gradients`.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import timedelta
from fnmatch import fnmatch
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.device_mesh import DeviceMesh, init_device_mesh
from torch.distributed.tensor import DTensor, Replicate
from torch.distributed.tensor.parallel import ColwiseParallel, RowwiseParallel, parallelize_module

from r1ray.errors import ConfigError, ModelError

SHARD, TENSOR = "shard", "tensor"
STYLES = ("colwise", "rowwise", "replicated_with_grad_allreduce")


@dataclass(frozen=True, slots=True)
class Meshes:
    """Where this process stands among the learners.

    Attributes:
        shard: one-dimensional, the ranks that FSDP2 shards over: data x context, of this process's tensor rank.
        tensor: one-dimensional, the ranks that split each layer with this process; None: there are none.
        context: the ranks that split each sequence with this process, in sequence order; None: there are none.
        data_rank: which share of the batch this process gets; its tensor and context ranks get the same one.
        num_data_ranks: shares of the batch.
    """

    shard: DeviceMesh
    tensor: DeviceMesh | None
    context: dist.ProcessGroup | None
    data_rank: int
    num_data_ranks: int

    @property
    def num_processes(self) -> int:
        """All learners."""
        return self.shard.size() * (1 if self.tensor is None else self.tensor.size())


def build_meshes(
    device: str, world_size: int, *, tensor_parallel: int, context_parallel: int, timeout_s: float
) -> Meshes:
    """Lay the learners out as (data, context, tensor); a collective of all of them.

    Args:
        device: "cpu" or "cuda".
        world_size: of the default process group, which must exist.
        tensor_parallel: processes that split each layer.
        context_parallel: processes that split each sequence.
        timeout_s: deadline of collectives in the groups made here; torch would not take over the default group's.

    Raises:
        ConfigError: `world_size` is not a multiple of their product.
    """
    share = tensor_parallel * context_parallel
    if share < 1 or world_size % share:
        raise ConfigError(
            f"learner.num_processes must be a multiple of learner.tensor_parallel x learner.context_parallel = "
            f"{tensor_parallel} x {context_parallel}, got {world_size}"
        )
    ranks = torch.arange(world_size).view(-1, context_parallel, tensor_parallel)
    data_rank = dist.get_rank() // share

    def group_of(rows: Tensor) -> dist.ProcessGroup:
        timeout = timedelta(seconds=timeout_s)
        group, _ = dist.new_subgroups_by_enumeration(rows.tolist(), timeout=timeout)  # type: ignore[no-untyped-call]
        assert isinstance(group, dist.ProcessGroup)
        return group

    context = group_of(ranks.transpose(1, 2).flatten(0, 1)) if context_parallel > 1 else None
    if tensor_parallel == 1:
        shard = init_device_mesh(device, (world_size,), mesh_dim_names=(SHARD,))
        return Meshes(shard, None, context, data_rank, world_size // share)
    plane = ranks.flatten(0, 1)
    groups = [group_of(plane.T), group_of(plane)]
    both = DeviceMesh.from_group(groups, device, mesh=plane, mesh_dim_names=(SHARD, TENSOR))
    return Meshes(both[SHARD], both[TENSOR], context, data_rank, world_size // share)


def apply_tensor_parallel(causal_lm: Any, mesh: DeviceMesh) -> tuple[nn.Module, ...]:
    """Split the matrices of the transformer blocks over the tensor ranks, by the model's own plan.

    Column-parallel layers split their outputs (attention heads, MLP neurons), row-parallel layers their inputs; a
    block exchanges its hidden states once in attention and once in the MLP, forward and backward. The parameters
    become DTensors in place; every rank keeps its part of what it has loaded, without communication.

    Args:
        causal_lm: a Hugging Face causal LM with the same weights on every rank, not yet sharded by FSDP2.
        mesh: `Meshes.tensor`.

    Returns:
        The modules whose gradients are partial sums, because they act on each rank's own heads (the q_norm and k_norm
        of Qwen3); for `synchronize_gradients`.

    Raises:
        ModelError: the model has no plan, or one with styles other than `STYLES`.
        ConfigError: heads or neurons do not divide by the size of the mesh; or there are adapters.
    """
    blocks: nn.Module = causal_lm.base_model
    matched = _match_plan(causal_lm, _plan(causal_lm))
    _check_divisible(causal_lm, matched, mesh.size())
    partial = tuple(
        blocks.get_submodule(name) for name, style in matched.items() if style == "replicated_with_grad_allreduce"
    )
    styles = {"colwise": ColwiseParallel(), "rowwise": RowwiseParallel()}
    parallelize_module(
        blocks, mesh, {name: styles[style] for name, style in matched.items() if style in styles}, src_data_rank=None
    )
    # Enter the tensor ranks once for all column-parallel layers that read the same hidden states: their gradients
    # then stay partial sums until they meet, and one reduction does for all of them.
    for parent in {name.rpartition(".")[0] for name, style in matched.items() if style == "colwise"}:
        blocks.get_submodule(parent).register_forward_pre_hook(_EnterTensorRanks(mesh), with_kwargs=True)
    return partial


class _EnterTensorRanks:
    """Turns hidden states, which every tensor rank holds alike, into a replicated DTensor."""

    def __init__(self, mesh: DeviceMesh) -> None:
        self._mesh = mesh

    def _enter(self, hidden: Tensor) -> Tensor:
        return DTensor.from_local(hidden, self._mesh, [Replicate()], run_check=False)

    def __call__(
        self, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> tuple[tuple[Any, ...], dict[str, Any]]:
        if args:
            return (self._enter(args[0]), *args[1:]), kwargs
        return args, {**kwargs, "hidden_states": self._enter(kwargs["hidden_states"])}


def _plan(causal_lm: Any) -> dict[str, str]:
    """Return the plan of the blocks, patterns of module names to styles; `ModelError` where it is none we know."""
    name, whole = type(causal_lm).__name__, causal_lm.config.get_text_config().base_model_tp_plan or {}
    # Where embeddings are tied, the plan also splits the embedding; here it stays whole.
    plan = {pattern: style for pattern, style in whole.items() if pattern.startswith("layers.")}
    remedy = "set learner.tensor_parallel=1 and learner.context_parallel or more processes instead"
    if not plan:
        raise ModelError(f"{name} has no plan for tensor parallelism (config.base_model_tp_plan): {remedy}")
    unknown = {pattern: style for pattern, style in plan.items() if style not in STYLES}
    if unknown:
        raise ModelError(
            f"{name} asks for tensor parallelism of kinds that the learner does not know, {unknown}; it knows "
            f"{', '.join(STYLES)}, which dense models of the Qwen2, Qwen3 and Llama kind use: {remedy}"
        )
    return plan


def _match_plan(causal_lm: Any, plan: dict[str, str]) -> dict[str, str]:
    """Return module names under `base_model` with their styles."""
    modules = dict(causal_lm.base_model.named_modules())
    matched = {name: style for name in modules for pattern, style in plan.items() if fnmatch(name, pattern)}
    adapted = [n for n, s in matched.items() if s in ("colwise", "rowwise") and type(modules[n]) is not nn.Linear]
    if adapted:
        raise ConfigError(
            f"learner.tensor_parallel must be 1 where layers are no plain linear layers, and "
            f"{type(causal_lm).__name__} has {adapted[0]} as a {type(modules[adapted[0]]).__module__} layer: adapters "
            "(learner.lora.rank > 0) and tensor parallelism do not go together"
        )
    unmatched = [p for p in plan if not any(fnmatch(name, p) for name in modules)]
    if unmatched:
        raise ModelError(
            f"{type(causal_lm).__name__} has no modules {', '.join(unmatched)}, which its plan for tensor parallelism "
            "names: set learner.tensor_parallel=1"
        )
    return matched


def _check_divisible(causal_lm: Any, matched: dict[str, str], size: int) -> None:
    name, config = type(causal_lm).__name__, causal_lm.config.get_text_config()
    sizes = {key: getattr(config, key) for key in ("num_attention_heads", "num_key_value_heads")}
    for module, style in matched.items():
        layer = causal_lm.base_model.get_submodule(module)
        if style in ("colwise", "rowwise"):
            sizes |= {f"{module}: features": layer.out_features if style == "colwise" else layer.in_features}
    for what, value in sizes.items():
        if value % size:
            allowed = [n for n in range(1, size + 1) if all(v % n == 0 for v in sizes.values())]
            raise ConfigError(
                f"learner.tensor_parallel must divide what {name} splits, and {what} = {value} does not divide by "
                f"{size}: set it to one of {allowed}"
            )


def _splits_over(gradient: Tensor, dim: str) -> bool:
    if not isinstance(gradient, DTensor):
        return False
    names = gradient.device_mesh.mesh_dim_names or ()
    return any(n == dim and not p.is_replicate() for n, p in zip(names, gradient.placements, strict=True))


def _local(gradient: Tensor) -> Tensor:
    return gradient.to_local() if isinstance(gradient, DTensor) else gradient


@torch.no_grad()
def synchronize_gradients(module: nn.Module, meshes: Meshes, *, partial: Sequence[nn.Module] = ()) -> None:
    """Make the gradients of what every tensor rank holds whole equal on all of them; once a step, a collective.

    Those of `partial` are summed. The others come out of the same computation on every rank, but kernels that add in
    no fixed order (`index_add` on CUDA, the backward pass of `index_select`) let them differ in the last bits, and the
    copies would drift apart: they are averaged. Does nothing without tensor parallelism.

    Args:
        module: all parameters of the policy; some may have no gradient, the same ones on every tensor rank.
        meshes: of this process.
        partial: what `apply_tensor_parallel` returned.
    """
    if meshes.tensor is None:
        return
    group, size = meshes.tensor.get_group(), meshes.tensor.size()
    summed = {id(p) for norm in partial for p in norm.parameters()}
    gradients = [(id(p) in summed, p.grad) for p in module.parameters() if p.grad is not None]
    copies = [(is_partial, _local(g)) for is_partial, g in gradients if not _splits_over(g, TENSOR)]
    works = [dist.all_reduce(gradient, group=group, async_op=True) for _, gradient in copies]
    for work in works:
        work.wait()
    averaged = [gradient for is_partial, gradient in copies if not is_partial]
    if averaged:
        torch._foreach_div_(averaged, size)


@torch.no_grad()
def clip_gradients(
    parameters: Iterable[nn.Parameter], max_norm: float, *, meshes: Meshes, denominator: float = 1.0
) -> float:
    """Divide all gradients and scale them together so that their norm is at most `max_norm`; a collective of all.

    Like `torch.nn.utils.clip_grad_norm_`, which cannot stack norms from different meshes. Each process adds up the
    squares of its shards, each divided by the number of processes that hold the same shard; one sum over all
    processes is then the square of the norm, and the same number on each of them.

    Args:
        parameters: those without a gradient are passed over; every process has some with one or none has.
        max_norm: upper bound of the norm.
        meshes: of this process.
        denominator: what gradients are divided by before their norm is taken.

    Returns:
        The norm before clipping. Where it is not finite, the gradients are not usable afterwards.
    """
    gradients = [p.grad for p in parameters if p.grad is not None]
    if not gradients:
        return 0.0
    dtype = torch.promote_types(gradients[0].dtype, torch.float32)
    norms = torch.stack(torch._foreach_norm([_local(g) for g in gradients], 2, dtype=dtype))
    shares = [_distinct_shards(g) / meshes.num_processes for g in gradients]
    total = (norms.double().square() * torch.tensor(shares, dtype=torch.float64, device=norms.device)).sum()
    dist.all_reduce(total)
    norm = float(total.sqrt()) / denominator
    torch._foreach_mul_([_local(g) for g in gradients], min(1.0, max_norm / (norm + 1e-6)) / denominator)
    return norm


def _distinct_shards(gradient: Tensor) -> int:
    """Return how many different shards there are of it, over all processes."""
    if not isinstance(gradient, DTensor):
        return 1
    shards = 1
    for dim, placement in enumerate(gradient.placements):
        assert not placement.is_partial()
        # Not is_shard(): it denies the strided shards of FSDP2 on top of column parallelism.
        shards *= 1 if placement.is_replicate() else gradient.device_mesh.size(dim)
    return shards
