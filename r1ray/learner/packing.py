"""Packs training samples into micro-batches without padding, computing shared prompts once.

A bundle holds a prompt once, followed by several of its completions, each of which sees the prompt and itself
but not its siblings. A micro-batch is one sequence of bundles. Packing depends only on the order and lengths of
the samples, so a resumed run packs as the unbroken one did.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from r1ray.learner.attention import AttentionLayout, Segment, plan_attention
from r1ray.types import TrainingSample


@dataclass(slots=True)
class Bundle:
    """Samples that share one prompt, laid out as prompt, completion, completion, ..."""

    samples: list[TrainingSample] = field(default_factory=list)

    @property
    def tokens(self) -> int:
        """Tokens of the bundle: the prompt counts once."""
        return len(self.samples[0].prompt_ids) + sum(len(s.completion_ids) for s in self.samples)


@dataclass(frozen=True, slots=True)
class MicroBatch:
    """One forward and backward pass, as tensors: T packed tokens with N completion tokens of B samples.

    Attributes:
        input_ids: [1, T] int64.
        position_ids: [1, T] int64; every completion continues its prompt's positions.
        layout: who sees whom.
        predict_from: [N] int64 into the T tokens: the position whose logits predict each completion token.
        targets: [N] int64, the completion tokens.
        sample_index: [N] int64 into the B samples.
        advantages: [B] float32.
        lengths: [B] int64, completion tokens.
        trained: [B] bool.
        rollout_logprobs: [N] float32.
        old_logprobs: [N] float32, or None where they are those of this very pass.
        policy_versions: [N] int64.
    """

    input_ids: Tensor
    position_ids: Tensor
    layout: AttentionLayout
    predict_from: Tensor
    targets: Tensor
    sample_index: Tensor
    advantages: Tensor
    lengths: Tensor
    trained: Tensor
    rollout_logprobs: Tensor
    old_logprobs: Tensor | None
    policy_versions: Tensor

    def to(self, device: torch.device) -> MicroBatch:
        """Move every tensor to `device`."""
        moved: dict[str, Any] = {
            name: None if value is None else value.to(device)
            for name in self.__dataclass_fields__
            for value in (getattr(self, name),)
        }
        return MicroBatch(**moved)


def bundle_samples(samples: Sequence[TrainingSample], *, max_tokens: int) -> list[Bundle]:
    """Bundle samples that follow each other with the same prompt, up to `max_tokens` a bundle."""
    bundles: list[Bundle] = []
    for sample in samples:
        last = bundles[-1] if bundles else None
        shares = last is not None and last.samples[0].prompt_key == sample.prompt_key and sample.prompt_key != ""
        if last is not None and shares and last.tokens + len(sample.completion_ids) <= max_tokens:
            last.samples.append(sample)
        else:
            bundles.append(Bundle([sample]))
    return bundles


def split_bundles(
    bundles: Sequence[Bundle], *, micro_batch_tokens: int, num_processes: int
) -> list[list[list[Bundle]]]:
    """Deal bundles out to processes and cut each share into micro-batches.

    Args:
        bundles: in order.
        micro_batch_tokens: upper bound of the tokens of a micro-batch; a larger bundle goes alone.
        num_processes: every process gets equally many micro-batches, some perhaps empty, because each
            forward pass is a collective.

    Returns:
        [num_processes][num_micro_batches] lists of bundles. Bundles of like length come together, which keeps
        the blocks of the attention full.
    """
    by_length = sorted(range(len(bundles)), key=lambda i: (-bundles[i].tokens, i))
    shares: list[list[list[Bundle]]] = []
    for rank in range(num_processes):
        micro_batches: list[list[Bundle]] = []
        room = 0
        for i in by_length[rank::num_processes]:
            if micro_batches and bundles[i].tokens <= room:
                micro_batches[-1].append(bundles[i])
            else:
                micro_batches.append([bundles[i]])
                room = micro_batch_tokens
            room -= bundles[i].tokens
        shares.append(micro_batches)
    count = max(len(share) for share in shares)
    return [share + [[] for _ in range(count - len(share))] for share in shares]


def collate(bundles: Sequence[Bundle]) -> MicroBatch:
    """Turn bundles into tensors. No bundles give one token, of id 0, and no completion tokens."""
    samples = [s for bundle in bundles for s in bundle.samples]
    segments: list[Segment] = []
    input_ids: list[int] = []
    positions: list[Tensor] = []
    predict_from: list[Tensor] = []
    for bundle in bundles:
        prompt = bundle.samples[0].prompt_ids
        start = len(input_ids)
        last_of_prompt = start + len(prompt) - 1
        # A prompt with one completion is one causal segment; one with several is a segment that they see.
        shared = len(segments) if len(bundle.samples) > 1 else None
        input_ids.extend(prompt)
        if shared is not None:
            segments.append(Segment(start, len(prompt)))
        positions.append(torch.arange(len(prompt)))
        for sample in bundle.samples:
            begin, count = len(input_ids), len(sample.completion_ids)
            input_ids.extend(sample.completion_ids)
            positions.append(torch.arange(len(prompt), len(prompt) + count))
            if shared is None:
                segments.append(Segment(start, len(prompt) + count))
            else:
                segments.append(Segment(begin, count, prefix=shared))
            # The prompt's last position predicts a completion's first token.
            predict_from.append(torch.tensor([last_of_prompt]))
            predict_from.append(torch.arange(begin, begin + count - 1))
    lengths = torch.tensor([len(s.completion_ids) for s in samples], dtype=torch.long)
    return MicroBatch(
        input_ids=torch.tensor([input_ids or [0]]),
        position_ids=torch.cat(positions or [torch.zeros(1, dtype=torch.long)])[None],
        layout=plan_attention(segments or [Segment(0, 1)]),
        predict_from=torch.cat(predict_from) if predict_from else torch.zeros(0, dtype=torch.long),
        targets=_flat((s.completion_ids for s in samples), torch.long),
        sample_index=torch.repeat_interleave(torch.arange(len(samples)), lengths),
        advantages=torch.tensor([s.advantage for s in samples], dtype=torch.float32),
        lengths=lengths,
        trained=torch.tensor([s.trained for s in samples], dtype=torch.bool),
        rollout_logprobs=_flat((s.rollout_logprobs for s in samples), torch.float32),
        old_logprobs=_old_logprobs(samples),
        policy_versions=_flat((s.policy_versions for s in samples), torch.long),
    )


def _flat(values: Iterable[Sequence[float]], dtype: torch.dtype) -> Tensor:
    return torch.tensor([v for each in values for v in each], dtype=dtype)


def _old_logprobs(samples: Sequence[TrainingSample]) -> Tensor | None:
    known = [s.old_logprobs for s in samples if s.old_logprobs is not None]
    if not known:
        return None
    assert len(known) == len(samples), "old_logprobs must be known for all samples of an update or for none"
    return _flat(known, torch.float32)
