"""A packed micro-batch as tensors: bundles of samples laid end to end, each token computed once."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from r1ray.learner.attention import AttentionLayout, plan_attention
from r1ray.learner.context import TokenShare, cut_tokens
from r1ray.learner.packing import Bundle
from r1ray.learner.segments import Segment


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
        group_tokens: [B] int64, trained tokens of all completions of the prompt in this optimizer step.
        lengths: [B] int64, completion tokens.
        trained: [B] bool.
        rollout_logprobs: [N] float32.
        old_logprobs: [N] float32, or None where they are those of this very pass.
        ref_logprobs: [N] float32, or None where they are still to be computed, if at all.
        policy_versions: [N] int64.
        ends: [B] int64 into the T tokens: the last token of each sample.
        share: what this process computes of the tokens, where several split each sequence; None: all.
    """

    input_ids: Tensor
    position_ids: Tensor
    layout: AttentionLayout
    predict_from: Tensor
    targets: Tensor
    sample_index: Tensor
    advantages: Tensor
    group_tokens: Tensor
    lengths: Tensor
    trained: Tensor
    rollout_logprobs: Tensor
    old_logprobs: Tensor | None
    ref_logprobs: Tensor | None
    policy_versions: Tensor
    ends: Tensor
    share: TokenShare | None = None

    def cut(self, *, rank: int, size: int) -> MicroBatch:
        """Let this process compute its part of the tokens, as one of `size` that split each sequence."""
        share = cut_tokens(self.input_ids, self.position_ids, self.predict_from, rank=rank, size=size)
        return replace(self, share=share)

    def to(self, device: torch.device) -> MicroBatch:
        """Move every tensor to `device`, without waiting for what that is still computing."""
        if device.type == "cpu":
            return self

        def move(value: Any) -> Any:
            return value.pin_memory().to(device, non_blocking=True) if isinstance(value, Tensor) else value

        moved = {name: move(getattr(self, name)) for name in self.__dataclass_fields__}
        share = self.share
        if share is not None:
            share = TokenShare(**{name: move(getattr(share, name)) for name in share.__dataclass_fields__})
        return MicroBatch(**{**moved, "layout": self.layout.to(device), "share": share})


def collate(bundles: Sequence[Bundle], *, varlen: bool = False) -> MicroBatch:
    """Turn bundles into tensors; no bundles give one token, of id 0, and no completion tokens.

    Args:
        bundles: laid out in this order.
        varlen: plan the attention for varlen kernels, see `attention.plan_attention`.
    """
    samples = [s for bundle in bundles for s in bundle.samples]
    segments: list[Segment] = []
    input_ids: list[int] = []
    positions: list[Tensor] = []
    predict_from: list[Tensor] = []
    ends: list[int] = []
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
            ends.append(len(input_ids) - 1)
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
        layout=plan_attention(segments or [Segment(0, 1)], varlen=varlen),
        predict_from=torch.cat(predict_from) if predict_from else torch.zeros(0, dtype=torch.long),
        targets=_flat((s.completion_ids for s in samples), torch.long),
        sample_index=torch.repeat_interleave(torch.arange(len(samples)), lengths),
        advantages=torch.tensor([s.advantage for s in samples], dtype=torch.float32),
        group_tokens=torch.tensor([s.group_tokens for s in samples], dtype=torch.long),
        lengths=lengths,
        trained=torch.tensor([s.trained for s in samples], dtype=torch.bool),
        rollout_logprobs=_flat((s.rollout_logprobs for s in samples), torch.float32),
        old_logprobs=_known([s.old_logprobs for s in samples], "old_logprobs"),
        ref_logprobs=_known([s.ref_logprobs for s in samples], "ref_logprobs"),
        policy_versions=_flat((s.policy_versions for s in samples), torch.long),
        ends=torch.tensor(ends, dtype=torch.long),
    )


def _flat(values: Iterable[Sequence[float]], dtype: torch.dtype) -> Tensor:
    return torch.tensor([v for each in values for v in each], dtype=dtype)


def _known(values: Sequence[Sequence[float] | None], name: str) -> Tensor | None:
    known = [v for v in values if v is not None]
    if not known:
        return None
    assert len(known) == len(values), f"{name} must be known for all samples of an update or for none"
    return _flat(known, torch.float32)
