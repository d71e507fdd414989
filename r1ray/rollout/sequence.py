"""Completions on their way through `decode.py`, and the prompts they share."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field

from torch import Tensor

from r1ray.types import FinishReason, GroupRequest


@dataclass(slots=True, eq=False)
class SharedPrompt:
    """A prompt, as completions with the same token ids share it.

    Attributes:
        slot: in the prompt store; -1 until the prompt is admitted.
        logits: [V] after its last token, from which every completion of it starts; set once it is computed.
    """

    prompt_ids: tuple[int, ...]
    slot: int = -1
    logits: Tensor = field(init=False)


@dataclass(slots=True, eq=False)
class DecodingSequence:
    """One completion on its way.

    Attributes:
        seed: wrapped to int64.
        prompt: shared with other sequences once this one runs.
    """

    request: GroupRequest
    sample_index: int
    seed: int
    prompt: SharedPrompt
    completion_ids: list[int] = field(default_factory=list)
    logprobs: list[float] = field(default_factory=list)
    policy_versions: list[int] = field(default_factory=list)
    finish_reason: FinishReason | None = None

    @property
    def last_position(self) -> int:
        """Position of the last token, prompt included."""
        return len(self.prompt.prompt_ids) + len(self.completion_ids) - 1


def sequences_of(request: GroupRequest) -> Iterator[DecodingSequence]:
    """Yield the completions that a request asks for."""
    for sample_index, seed in zip(request.sample_indices, request.seeds, strict=True):
        wrapped = (seed + (1 << 63)) % (1 << 64) - (1 << 63)
        yield DecodingSequence(request, sample_index, wrapped, SharedPrompt(request.prompt.prompt_ids))
