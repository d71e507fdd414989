"""Packs training samples into rows and micro-batches, sharing prompts within a row.

A row holds a prompt once, followed by several of its completions, each of which sees the prompt and itself
but not its siblings; a sample too long for that has a row of its own. Packing depends only on the order and
lengths of the samples, so a resumed run packs as the unbroken one did.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from r1ray.types import TrainingSample

# Rows are filled up to this many tokens: long enough to share prompts, short enough that attention within a
# row, quadratic in its length, stays small beside the matrix products.
ROW_TOKENS = 1024


@dataclass(slots=True)
class Row:
    """Samples that share one prompt, laid out as prompt, completion, completion, ..."""

    samples: list[TrainingSample] = field(default_factory=list)

    @property
    def tokens(self) -> int:
        """Tokens of the row: the prompt counts once."""
        return len(self.samples[0].prompt_ids) + sum(len(s.completion_ids) for s in self.samples)


@dataclass(frozen=True, slots=True)
class MicroBatch:
    """One forward and backward pass, as tensors. R rows of length L hold N completion tokens of B samples.

    Attributes:
        input_ids: [R, L] int64, right-padded.
        position_ids: [R, L] int64; every completion continues its prompt's positions.
        attention_mask: [R, 1, L, L] bool, True where the query (dim 2) sees the key; None where every row
            holds one sample and plain causal attention does.
        predict_from: [N] int64 into the flattened [R * L]: the position whose logits predict each token.
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
    attention_mask: Tensor | None
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


def pack_rows(samples: Sequence[TrainingSample], *, row_tokens: int = ROW_TOKENS) -> list[Row]:
    """Lay samples out in rows; samples that follow each other with the same prompt share rows."""
    rows: list[Row] = []
    for sample in samples:
        row = rows[-1] if rows else None
        shares = row is not None and row.samples[0].prompt_key == sample.prompt_key and sample.prompt_key != ""
        if row is not None and shares and row.tokens + len(sample.completion_ids) <= row_tokens:
            row.samples.append(sample)
        else:
            rows.append(Row([sample]))
    return rows


def split_rows(rows: Sequence[Row], *, micro_batch_tokens: int, num_processes: int) -> list[list[list[Row]]]:
    """Deal rows out to processes and cut each share into micro-batches.

    Args:
        rows: in order.
        micro_batch_tokens: upper bound of rows times the longest row in one micro-batch.
        num_processes: every process gets equally many micro-batches, some perhaps empty, because each
            forward pass is a collective.

    Returns:
        [num_processes][num_micro_batches] lists of rows. Rows of like length come together, which keeps
        padding small.
    """
    by_length = sorted(range(len(rows)), key=lambda i: (-rows[i].tokens, i))
    shares: list[list[list[Row]]] = []
    for rank in range(num_processes):
        micro_batches: list[list[Row]] = []
        for i in by_length[rank::num_processes]:
            current = micro_batches[-1] if micro_batches else None
            if current is not None and _go_together(current, rows[i], micro_batch_tokens):
                current.append(rows[i])
            else:
                micro_batches.append([rows[i]])
        shares.append(micro_batches)
    count = max(len(share) for share in shares)
    return [share + [[] for _ in range(count - len(share))] for share in shares]


def _go_together(current: list[Row], row: Row, micro_batch_tokens: int) -> bool:
    # Rows over ROW_TOKENS hold one sample each and need no mask; beside a shared row they would need a huge one.
    alike = (current[0].tokens > ROW_TOKENS) == (row.tokens > ROW_TOKENS)
    return alike and current[0].tokens * (len(current) + 1) <= micro_batch_tokens


def collate(rows: Sequence[Row], *, pad_id: int) -> MicroBatch:
    """Turn rows into tensors. Empty `rows` give a batch of one padding token and no completion tokens."""
    samples = [s for row in rows for s in row.samples]
    width = max((row.tokens for row in rows), default=1)
    height = max(len(rows), 1)
    input_ids = torch.full((height, width), pad_id, dtype=torch.long)
    position_ids = torch.zeros((height, width), dtype=torch.long)
    # Segment 0 is the prompt, 1.. its completions, -1 padding.
    segments = torch.full((height, width), -1, dtype=torch.long)
    predict_from: list[Tensor] = []
    for r, row in enumerate(rows):
        prompt = row.samples[0].prompt_ids
        _place(input_ids, position_ids, segments, r, 0, prompt, 0, 0)
        start = len(prompt)
        for segment, sample in enumerate(row.samples, start=1):
            count = len(sample.completion_ids)
            _place(input_ids, position_ids, segments, r, start, sample.completion_ids, len(prompt), segment)
            # The prompt's last position predicts a completion's first token.
            first = torch.tensor([r * width + len(prompt) - 1])
            rest = torch.arange(r * width + start, r * width + start + count - 1)
            predict_from.append(torch.cat([first, rest]))
            start += count
    lengths = torch.tensor([len(s.completion_ids) for s in samples], dtype=torch.long)
    single = all(len(row.samples) == 1 for row in rows)
    return MicroBatch(
        input_ids=input_ids,
        position_ids=position_ids,
        attention_mask=None if single else _mask(segments),
        predict_from=torch.cat(predict_from) if predict_from else torch.zeros(0, dtype=torch.long),
        targets=_flat([s.completion_ids for s in samples], torch.long),
        sample_index=torch.repeat_interleave(torch.arange(len(samples)), lengths),
        advantages=torch.tensor([s.advantage for s in samples], dtype=torch.float32),
        lengths=lengths,
        trained=torch.tensor([s.trained for s in samples], dtype=torch.bool),
        rollout_logprobs=_flat([s.rollout_logprobs for s in samples], torch.float32),
        old_logprobs=_old_logprobs(samples),
        policy_versions=_flat([s.policy_versions for s in samples], torch.long),
    )


def _place(
    input_ids: Tensor,
    position_ids: Tensor,
    segments: Tensor,
    row: int,
    start: int,
    ids: Sequence[int],
    position: int,
    segment: int,
) -> None:
    end = start + len(ids)
    input_ids[row, start:end] = torch.tensor(ids, dtype=torch.long)
    position_ids[row, start:end] = torch.arange(position, position + len(ids))
    segments[row, start:end] = segment


def _mask(segments: Tensor) -> Tensor:
    """Build [R, 1, L, L]: causal, and only within the own segment or back to the prompt.

    Padding sees itself, since a softmax over nothing is NaN.
    """
    width = segments.shape[1]
    causal = torch.ones(width, width, dtype=torch.bool).tril()
    same = segments[:, :, None] == segments[:, None, :]
    prompt = (segments == 0)[:, None, :] & (segments >= 0)[:, :, None]
    mask: Tensor = (causal & (same | prompt))[:, None]
    return mask


def _flat(values: Sequence[Sequence[float]], dtype: torch.dtype) -> Tensor:
    return torch.tensor([v for row in values for v in row], dtype=dtype)


def _old_logprobs(samples: Sequence[TrainingSample]) -> Tensor | None:
    known = [s.old_logprobs for s in samples if s.old_logprobs is not None]
    if not known:
        return None
    assert len(known) == len(samples), "old_logprobs must be known for all samples of an update or for none"
    return _flat(known, torch.float32)
