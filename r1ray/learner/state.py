"""Saves and restores a sharded learner.

Training state goes through torch.distributed.checkpoint, so every process writes its own shards and another
number of processes can read them; the model is also written in Hugging Face layout by rank 0.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch import nn
from torch.distributed.checkpoint.api import CheckpointException
from torch.distributed.checkpoint.state_dict import (
    StateDictOptions,
    get_model_state_dict,
    get_state_dict,
    set_model_state_dict,
    set_state_dict,
)
from torch.distributed.checkpoint.state_dict_loader import load as load_shards
from torch.distributed.checkpoint.state_dict_saver import save as save_shards
from torch.optim import Optimizer

from r1ray.errors import CheckpointError
from r1ray.learner.policy import Policy
from r1ray.learner.protocol import LearnerOptions
from r1ray.models.tokenizer import load_tokenizer

STATE_FOLDER = "learner"
MODEL_FOLDER = "model"


def _state(policy: Policy, optimizer: Optimizer, reference: Policy | None) -> dict[str, Any]:
    model_state, optimizer_state = get_state_dict(policy, optimizer)
    content: dict[str, Any] = {"policy": model_state, "optimizer": optimizer_state}
    if reference is not None:
        content["reference"] = get_model_state_dict(reference)
    return content


def save(
    directory: str, policy: Policy, optimizer: Optimizer, reference: Policy | None, options: LearnerOptions
) -> None:
    """Write `directory`/learner (shards) and `directory`/model (Hugging Face layout); a collective."""
    save_shards(_state(policy, optimizer, reference), checkpoint_id=str(Path(directory) / STATE_FOLDER))
    full: dict[str, Any] = get_model_state_dict(
        policy.causal_lm, options=StateDictOptions(full_state_dict=True, cpu_offload=True)
    )
    if dist.get_rank() == 0:
        dtype, folder = getattr(torch, options.dtype), Path(directory) / MODEL_FOLDER
        policy.causal_lm.save_pretrained(folder, state_dict={name: value.to(dtype) for name, value in full.items()})
        tokenizer = load_tokenizer(options.model_path, options.revision, options.trust_remote_code)
        tokenizer.save_pretrained(folder)
    dist.barrier()


def load(directory: str, policy: Policy, optimizer: Optimizer, reference: Policy | None) -> None:
    """Restore what `save` wrote; a collective.

    Raises:
        CheckpointError: the shards are missing or belong to another model.
    """
    content = _state(policy, optimizer, reference)
    try:
        load_shards(content, checkpoint_id=str(Path(directory) / STATE_FOLDER))
    except (CheckpointException, FileNotFoundError, RuntimeError) as error:
        raise CheckpointError(
            f"{directory} could not be restored: {error}: it must come from the same model and algorithm.kl_coef"
        ) from error
    set_state_dict(policy, optimizer, model_state_dict=content["policy"], optim_state_dict=content["optimizer"])
    if reference is not None:
        set_model_state_dict(reference, content["reference"])


def copy_parameters(*, source: nn.Module, target: nn.Module) -> None:
    """Copy sharded parameters one to one, casting to the target's dtype."""
    for from_parameter, to_parameter in zip(source.parameters(), target.parameters(), strict=True):
        to_parameter.copy_(from_parameter.to(to_parameter.dtype))
