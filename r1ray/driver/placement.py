"""Decides which actor runs where: devices, cores, Ray resources.

On GPUs a placement group holds every rollout worker and learner, so that a run starts whole or says what is
missing. On CPU nothing is reserved (a laptop has fewer cores than actors); cores are shared, or split when
`cluster.separate_cores` asks for it.
"""

from __future__ import annotations

import logging
import os
import socket
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import ray
from ray._private.utils import read_ray_address
from ray.util.placement_group import PlacementGroup, placement_group, remove_placement_group
from ray.util.scheduling_strategies import PlacementGroupSchedulingStrategy

from r1ray.config.schema import Config
from r1ray.errors import ClusterError, ConfigError
from r1ray.rewards.grader import Combiner
from r1ray.rewards.protocol import Lane
from r1ray.rollout.pool import WorkerPlacement

logger = logging.getLogger(__name__)

CONNECT_TIMEOUT_S = 5.0
START_ATTEMPTS = 3

# Idle OpenMP threads spin for milliseconds by default, and with more actors than cores take the cores from those
# that work; not spinning at all makes every small operation wait for a thread to wake. A thousand rounds, some
# microseconds, cost neither. The rest keeps freed memory in the process: handing it back and clearing it anew
# takes a tenth of a learner's time.
CPU_ACTOR_OPTIONS: dict[str, Any] = {
    "num_cpus": 0,
    "runtime_env": {
        "env_vars": {
            "GOMP_SPINCOUNT": "1000",
            "MALLOC_MMAP_THRESHOLD_": str(1 << 25),
            "MALLOC_TRIM_THRESHOLD_": str(1 << 31),
            # DeepSpeed, which transformers imports where it is installed, would look for GPUs and say it found none.
            "DS_ACCELERATOR": "cpu",
        }
    },
}


@dataclass(frozen=True, slots=True)
class Placement:
    """Where everything runs.

    Attributes:
        device: `cpu` or `cuda`.
        sync_backend: `gloo`, `nccl` or `ipc`.
        rollout: one entry per rollout worker.
        learner: Ray actor options and cores per learner process.
        group: to be removed at the end; None on CPU.
    """

    device: str
    sync_backend: str
    rollout: tuple[WorkerPlacement, ...]
    learner: tuple[tuple[dict[str, Any], tuple[int, ...]], ...]
    group: PlacementGroup | None = None

    def release(self) -> None:
        """Give the reserved resources back."""
        if self.group is not None:
            remove_placement_group(self.group)


def attach_ray(config: Config) -> bool:
    """Connect to Ray as `cluster.address` says.

    Returns:
        Whether this call started a local Ray, which the caller then shuts down.

    Raises:
        ClusterError: nothing answers at the address.
    """
    if ray.is_initialized():
        return False
    quiet = {"logging_level": logging.ERROR, "log_to_driver": bool(os.environ.get("R1RAY_WORKER_LOGS"))}
    wanted = config.cluster.address
    address = running_ray() if wanted == "auto" else None if wanted == "local" else wanted
    if address is None:
        start_local_ray(**quiet)
        return True
    try:
        # Told "auto", Ray finds the same address, and brings the token of this home directory where there is one.
        ray.init(address="auto" if wanted == "auto" else address, **quiet)
    except (ConnectionError, RuntimeError, ValueError) as error:
        raise ClusterError(
            f"Ray at {address} (cluster.address={wanted}) cannot be reached: {error}; use "
            "cluster.address=local to start one here, or `ray start --head` on the head node; if it is there and wants "
            "a token, set RAY_AUTH_MODE=token"
        ) from error
    return False


def start_local_ray(**options: Any) -> None:
    """Start a Ray of this process's own; `options` go to `ray.init`.

    Ray gives its node 30 seconds to come up, which a machine that has just been installed can miss; the second
    attempt finds the files in memory.

    Raises:
        ClusterError: it did not come up in three attempts.
    """
    for attempt in range(1, START_ATTEMPTS + 1):
        try:
            ray.init(address="local", include_dashboard=False, **options)
            return
        except Exception as error:  # a node that is late is a bare Exception in Ray
            ray.shutdown()
            if attempt == START_ATTEMPTS:
                raise ClusterError(
                    f"Ray did not start on this machine in {START_ATTEMPTS} attempts: {error}; its logs are in "
                    "/tmp/ray/session_latest/logs; free memory and disk, or set cluster.address to a running cluster"
                ) from error
            logger.warning("Ray did not start (%s); trying again", error)


def running_ray() -> str | None:
    """Return the address of the Ray this process belongs to, or None.

    That is RAY_ADDRESS, which `ray job submit` sets, or else the cluster that `ray start` put on this node. Ray's
    own `auto` would also find the local Ray of any other driver on the machine, and end with it. A cluster that
    was killed leaves its address behind; nobody answers there.
    """
    if os.environ.get("RAY_ADDRESS"):
        return os.environ["RAY_ADDRESS"]
    address = str(read_ray_address() or "")
    host, _, port = address.rpartition(":")
    if not address:
        return None
    try:
        with socket.create_connection((host, int(port)), timeout=CONNECT_TIMEOUT_S):
            return address
    except (OSError, ValueError):
        logger.warning("nothing answers at %s, where `ray start` once ran: starting a Ray of our own", address)
        return None


def plan_placement(config: Config, *, rollout: bool = True, learner: bool = True) -> Placement:
    """Resolve devices and reserve resources.

    Args:
        config: of the run.
        rollout: whether the run samples; if not, no worker is placed.
        learner: whether it trains; if not, no learner process is placed.

    Raises:
        ClusterError: the cluster has not enough GPUs.
        ConfigError: a combination that only the cluster's devices rule out.
    """
    device = config.cluster.device
    if device == "auto":
        device = "cuda" if ray.cluster_resources().get("GPU", 0) >= 1 else "cpu"
    if device == "cpu":
        whole = _on_cpu(config)
        return replace(whole, rollout=whole.rollout if rollout else (), learner=whole.learner if learner else ())
    return _on_gpus(config) if rollout and learner else _alone_on_gpus(config, rollout=rollout)


def _on_cpu(config: Config) -> Placement:
    if config.sync.backend in ("nccl", "ipc") or config.cluster.placement == "colocated":
        raise ConfigError(
            "this cluster has no GPU: sync.backend must be auto or gloo and cluster.placement auto or separate, got "
            f"{config.sync.backend} and {config.cluster.placement}"
        )
    available = sorted(os.sched_getaffinity(0))
    rollout, learner = _share_cores(config, available)
    return Placement(
        device="cpu",
        sync_backend="gloo",
        rollout=tuple(WorkerPlacement(CPU_ACTOR_OPTIONS, cores) for cores in rollout),
        learner=tuple((CPU_ACTOR_OPTIONS, cores) for cores in learner),
    )


def _share_cores(config: Config, cores: Sequence[int]) -> tuple[list[tuple[int, ...]], list[tuple[int, ...]]]:
    """Give cores to rollout workers and learners: the same ones in turn, or disjoint ones."""
    if not config.cluster.separate_cores:
        return (
            _deal(cores, config.rollout.num_workers, config.rollout.cpus_per_worker),
            _deal(cores, config.learner.num_processes, config.learner.cpus_per_process),
        )
    if len(cores) < 2:
        raise ConfigError("cluster.separate_cores needs at least 2 cores, this machine offers 1")
    half = config.rollout.num_workers * config.rollout.cpus_per_worker or max(1, len(cores) // 2)
    half = min(half, len(cores) - 1)
    return (
        _deal(cores[:half], config.rollout.num_workers, config.rollout.cpus_per_worker),
        _deal(cores[half:], config.learner.num_processes, config.learner.cpus_per_process),
    )


def _deal(cores: Sequence[int], count: int, each: int) -> list[tuple[int, ...]]:
    size = min(each or max(1, len(cores) // count), len(cores))
    return [tuple(cores[(i * size + j) % len(cores)] for j in range(size)) for i in range(count)]


def _on_gpus(config: Config) -> Placement:
    colocated = config.cluster.placement == "colocated" or (
        config.cluster.placement == "auto" and ray.cluster_resources().get("GPU", 0) < _separate_gpus(config)
    )
    backend: str = config.sync.backend
    if backend == "auto":
        # nccl and ipc go through vLLM, which is not there where the transformers engine is needed.
        fast = "ipc" if colocated else "nccl"
        backend = "gloo" if config.rollout.engine == "transformers" else fast
    if colocated and backend == "nccl":
        raise ConfigError("sync.backend must be ipc or gloo where rollout and learner share GPUs, got nccl")
    if colocated and (config.rollout.tensor_parallel > 1 or config.rollout.num_workers > config.learner.num_processes):
        raise ConfigError(
            "colocated placement puts one rollout worker beside each learner: it needs rollout.tensor_parallel=1 and "
            f"rollout.num_workers <= learner.num_processes, got {config.rollout.tensor_parallel}, "
            f"{config.rollout.num_workers} and {config.learner.num_processes}"
        )
    if colocated and config.train.max_staleness_steps:
        raise ConfigError(
            f"the cluster has too few GPUs for separate placement ({_separate_gpus(config)} needed), and with shared "
            "GPUs train.max_staleness_steps must be 0"
        )
    beside = _reward_model_gpus(config)
    # A share of each GPU stays free for reward models where there is no other GPU.
    whole = 1.0 - beside if colocated and beside < 1 else 1.0
    learners = [{"GPU": whole, "CPU": 1.0} for _ in range(config.learner.num_processes)]
    workers = (
        []
        if colocated
        else [{"GPU": float(config.rollout.tensor_parallel), "CPU": 1.0} for _ in range(config.rollout.num_workers)]
    )
    group = _reserve([*learners, *workers], config, beside=beside)
    share = whole / 2 if colocated else 1.0
    rollout_gpus = share * config.rollout.tensor_parallel
    first = 0 if colocated else len(learners)
    return Placement(
        device="cuda",
        sync_backend=backend,
        rollout=tuple(
            WorkerPlacement(_actor_options(group, first + i, rollout_gpus)) for i in range(config.rollout.num_workers)
        ),
        learner=tuple((_actor_options(group, i, share), ()) for i in range(config.learner.num_processes)),
        group=group,
    )


def _alone_on_gpus(config: Config, *, rollout: bool) -> Placement:
    """Give GPUs to rollout workers or learners where a run has no others."""
    gpus = float(config.rollout.tensor_parallel) if rollout else 1.0
    count = config.rollout.num_workers if rollout else config.learner.num_processes
    group = _reserve([{"GPU": gpus, "CPU": 1.0}] * count, config, beside=_reward_model_gpus(config) if rollout else 0.0)
    options = [_actor_options(group, index, gpus) for index in range(count)]
    return Placement(
        device="cuda",
        sync_backend="gloo" if config.rollout.engine == "transformers" else "nccl",
        rollout=tuple(map(WorkerPlacement, options)) if rollout else (),
        learner=() if rollout else tuple((each, ()) for each in options),
        group=group,
    )


def _separate_gpus(config: Config) -> int:
    return config.learner.num_processes + config.rollout.num_workers * config.rollout.tensor_parallel


def _reward_model_gpus(config: Config) -> float:
    """Return the share of a GPU that each process with reward models takes, or 0 where there is none."""
    if Lane.INFERENCE not in Combiner(config.rewards, config.sandbox).all_lanes:
        return 0.0
    return config.rewards.gpus_per_inference_worker


def _reserve(bundles: list[dict[str, float]], config: Config, *, beside: float) -> PlacementGroup:
    """Reserve GPUs, and see that those that the reward models will ask for are left; `beside` is the share of each."""
    reserved, there = sum(b["GPU"] for b in bundles), ray.cluster_resources().get("GPU", 0)
    models = config.rewards.num_inference_workers
    if beside and reserved + models * beside > there:
        raise ClusterError(
            f"rollout and learner take {reserved:g} of the cluster's {there:g} GPUs, which leaves too little for "
            f"rewards.num_inference_workers={models} with rewards.gpus_per_inference_worker={beside:g} each: lower "
            "those, rollout.num_workers or learner.num_processes"
        )
    group = placement_group(bundles, strategy="PACK")
    if not group.wait(timeout_seconds=config.cluster.start_timeout_s):
        remove_placement_group(group)
        raise ClusterError(
            f"Ray could not reserve {reserved:g} GPUs within cluster.start_timeout_s="
            f"{config.cluster.start_timeout_s:g}: the cluster has {there:g}, of which "
            f"{ray.available_resources().get('GPU', 0):g} are free"
        )
    return group


def _actor_options(group: PlacementGroup, bundle: int, gpus: float) -> dict[str, Any]:
    strategy = PlacementGroupSchedulingStrategy(group, placement_group_bundle_index=bundle)
    return {"num_gpus": gpus, "num_cpus": 0.5, "scheduling_strategy": strategy}
