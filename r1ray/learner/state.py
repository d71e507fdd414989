"""Saves and restores a policy, its optimizer and its reference that FSDP2 has sharded.

Through torch.distributed.checkpoint, so every process writes its own shards and another number of processes can read
them.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

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

STATE_FOLDER = "learner"
METADATA_FILE = ".metadata"


def _state(policy: Policy, optimizer: Optimizer, reference: Policy | None) -> dict[str, Any]:
    model_state, optimizer_state = get_state_dict(policy, optimizer)
    frozen = {
        name for name, parameter in policy.named_parameters(remove_duplicate=False) if not parameter.requires_grad
    }
    content: dict[str, Any] = {
        # What is frozen, as under adapters, stays what the model was loaded with.
        "policy": {name: value for name, value in model_state.items() if name not in frozen},
        "optimizer": optimizer_state,
    }
    if reference is not None:
        content["reference"] = get_model_state_dict(reference)
    return content


def save(directory: str, policy: Policy, optimizer: Optimizer, reference: Policy | None) -> None:
    """Write `directory`/learner, every process its shards; a collective."""
    save_shards(_state(policy, optimizer, reference), checkpoint_id=str(Path(directory) / STATE_FOLDER))


def load(directory: str, policy: Policy, optimizer: Optimizer, reference: Policy | None) -> None:
    """Restore what `save`, or that of another back end, wrote; a collective.

    Raises:
        CheckpointError: the shards are missing or belong to another model.
    """
    content = _state(policy, optimizer, reference)
    read(directory, content)
    set_state_dict(
        policy,
        optimizer,
        model_state_dict=content["policy"],
        optim_state_dict=content["optimizer"],
        options=StateDictOptions(strict=False),
    )
    if reference is not None:
        set_model_state_dict(reference, content["reference"])


def read(directory: str, content: dict[str, Any]) -> None:
    """Fill `content` in place from `directory`/learner; a collective.

    Raises:
        CheckpointError: the shards are missing or belong to another model.
    """
    folder = Path(directory) / STATE_FOLDER
    if not (folder / METADATA_FILE).is_file():
        raise CheckpointError(
            f"{directory} holds no complete learner state: {folder / METADATA_FILE} is missing: resume from another "
            "checkpoint, or start a new run"
        )
    try:
        load_shards(content, checkpoint_id=str(folder))
    except CheckpointException as error:
        causes = {str(cause[0]) for cause in error.failures.values()}
        raise CheckpointError(
            f"{directory} could not be restored: {'; '.join(sorted(causes))}: it must come from the same model, and "
            "algorithm.kl_coef must be zero in both runs or in neither"
        ) from error
