"""Starts DeepSpeed engines: their configuration, and silence on the console.

The optimizer is always PyTorch's fused AdamW, also where its state is offloaded: on CPU tensors it is as fast as
DeepSpeedCPUAdam (5 ms for 10 million parameters on two cores, both), and nothing has to be compiled at the start.
"""

from __future__ import annotations

import contextlib
import io
import logging
import math
import os
import warnings
from collections.abc import Iterator
from typing import Any

import torch
from torch import nn

from r1ray.errors import LearnerError
from r1ray.learner.protocol import LearnerOptions

# Elements that are reduced, or gathered, at once: 200 MB in float32. Larger parameters go alone.
BUCKET_ELEMENTS = 50_000_000


class SuspendableAdamW(torch.optim.AdamW):
    """AdamW that can sit a step out; DeepSpeed then drops the gradient and leaves everything as it was."""

    suspended = False

    def step(self, closure: Any = None) -> Any:
        """Update the parameters, unless suspended."""
        return None if self.suspended else super().step(closure)


def configuration(
    options: LearnerOptions, module: nn.Module, *, stage: int, offload_parameters: bool = False
) -> dict[str, Any]:
    """Return the DeepSpeed configuration of an engine.

    Args:
        options: of this learner.
        module: its model, not yet sharded.
        stage: of ZeRO.
        offload_parameters: keep the sharded parameters in CPU memory (stage 3).
    """
    learner, on_gpu = options.learner, options.device == "cuda"
    offload = {"device": "cpu", "pin_memory": on_gpu}
    zero: dict[str, Any] = {
        "stage": stage,
        "reduce_bucket_size": BUCKET_ELEMENTS,
        "allgather_bucket_size": BUCKET_ELEMENTS,
    }
    if stage == 3:
        # Without it, linear layers keep gathered weights until the backward pass; with it, they round once more before
        # adding a bias. Blocks that are computed again keep nothing anyway.
        zero["memory_efficient_linear"] = learner.activation_checkpointing != "full"
        # Biases and norms are not worth gathering each time; every matrix is sharded.
        zero["stage3_param_persistence_threshold"] = max(
            (p.numel() for p in module.parameters() if p.dim() < 2), default=0
        )
    if learner.offload_optimizer:
        zero["offload_optimizer"] = offload
    if offload_parameters:
        zero["offload_param"] = offload
    config: dict[str, Any] = {
        "train_micro_batch_size_per_gpu": 1,
        # Micro-batches are counted by nobody: `backward` says which is the last and losses are sums.
        "gradient_accumulation_steps": 1,
        "gradient_clipping": learner.max_grad_norm if math.isfinite(learner.max_grad_norm) else 0.0,
        # Gradients are added up over micro-batches and processes in float32, whatever computes them.
        "data_types": {"grad_accum_dtype": "fp32"},
        "communication_data_type": "fp32",
        "bf16": {"enabled": options.dtype == "bfloat16", "check_grad_overflow": True},
        "zero_allow_untested_optimizer": True,
        "zero_force_ds_cpu_optimizer": False,
        "zero_optimization": zero,
    }
    if stage < 3:
        # Stage 3 knows only the mean; `DeepSpeedEngine.step` undoes it.
        config["gradient_allreduce_op"] = "sum"
    return config


def start_engine(
    module: nn.Module, options: LearnerOptions, config: dict[str, Any], optimizer: torch.optim.Optimizer | None
) -> Any:
    """Wrap a module in a DeepSpeed engine; a collective.

    Raises:
        LearnerError: DeepSpeed cannot be imported here or refuses the configuration.
    """
    # Each process sees one device, so it is number 0; DeepSpeed insists on being told.
    os.environ.setdefault("LOCAL_RANK", "0")
    if options.device == "cpu":
        os.environ["DS_ACCELERATOR"] = "cpu"
    with _quiet():
        try:
            import deepspeed
        except (ImportError, OSError) as error:
            raise LearnerError(
                f"learner.backend=deepspeed needs DeepSpeed, which cannot be imported: {error}: install it as "
                "pyproject.toml says, or use learner.backend=fsdp2"
            ) from error
        # Shared-memory collectives for inference on CPUs: unused here, and minutes of compiling.
        deepspeed.ops.__compatible_ops__["deepspeed_shm_comm"] = False
        if deepspeed.get_accelerator().device_name() != options.device:
            raise LearnerError(
                f"DeepSpeed chose the accelerator {deepspeed.get_accelerator().device_name()!r}, the learner runs on "
                f"{options.device!r}: set cluster.device accordingly, or unset DS_ACCELERATOR"
            )
        engine, *_ = deepspeed.initialize(model=module, config=config, optimizer=optimizer, dist_init_required=False)
    return engine


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Keep DeepSpeed's banners off the console: it logs and prints while it starts."""
    logging.getLogger("DeepSpeed").setLevel(logging.ERROR)
    # DeepSpeed calls collectives by the names that PyTorch 2.13 replaced.
    warnings.filterwarnings(
        "ignore", r"`torch\.distributed\.(all_gather_into|reduce_scatter)_tensor` is deprecated", FutureWarning
    )
    with contextlib.redirect_stdout(io.StringIO()):
        yield
    # Importing it has set the level.
    logging.getLogger("DeepSpeed").setLevel(logging.ERROR)
