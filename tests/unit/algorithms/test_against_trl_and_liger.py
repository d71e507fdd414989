"""Losses beside those of TRL and liger-kernel, on random completions: values and gradients."""

from collections import defaultdict
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor

from r1ray.algorithms.advantages import batch_std_advantages, leave_one_out_advantages
from r1ray.algorithms.aggregation import loss_denominator, token_weights
from r1ray.algorithms.kl import kl_estimate
from r1ray.algorithms.logprobs import linear_logprobs
from r1ray.algorithms.policy_losses import policy_loss
from r1ray.algorithms.supervised import dpo_loss

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning", "ignore::UserWarning")

COMPLETIONS, LONGEST = 6, 9
CLIP_LOW, CLIP_HIGH, BETA, MAX_TOKENS = 0.2, 0.28, 0.04, 16


class Padded:
    """Random completions, padded to [B, C] as TRL has them and flat as r1ray does."""

    def __init__(self) -> None:
        generator = torch.Generator().manual_seed(11)

        def draw(scale: float) -> Tensor:
            return scale * torch.randn(COMPLETIONS, LONGEST, generator=generator, dtype=torch.float64)

        self.lengths = torch.randint(2, LONGEST + 1, (COMPLETIONS,), generator=generator)
        self.mask = (torch.arange(LONGEST) < self.lengths[:, None]).double()
        self.logprobs = (-1.0 - draw(0.5).abs()).requires_grad_()
        self.old = self.logprobs.detach() + draw(0.3)
        self.reference = self.logprobs.detach() + draw(0.3)
        self.advantages = torch.randn(COMPLETIONS, generator=generator, dtype=torch.float64)

    def flat(self, values: Tensor) -> Tensor:
        return values[self.mask.bool()]

    @property
    def index(self) -> Tensor:
        return torch.repeat_interleave(torch.arange(COMPLETIONS), self.lengths)


class Alone:
    """An accelerator of one process."""

    num_processes = 1
    sync_gradients = False

    def gather(self, values: Tensor) -> Tensor:
        return values

    def reduce(self, values: Tensor, reduction: str) -> Tensor:
        return values


def trl_loss(batch: Padded, *, loss_type: str, level: str = "token", delta: float | None = None) -> Tensor:
    from trl import GRPOTrainer

    trainer: Any = SimpleNamespace(
        aux_loss_enabled=False,
        top_entropy_quantile=1.0,
        off_policy_mask_threshold=None,
        importance_sampling_level=level,
        beta=BETA,
        loss_type=loss_type,
        epsilon_low=CLIP_LOW,
        epsilon_high=1 + CLIP_HIGH if loss_type == "cispo" else CLIP_HIGH,
        args=SimpleNamespace(
            delta=delta,
            use_bias_correction_kl=False,
            sapo_temperature_pos=1.0,
            sapo_temperature_neg=1.05,
            steps_per_generation=1,
        ),
        use_vllm=False,
        vllm_importance_sampling_correction=False,
        model=SimpleNamespace(training=True),
        current_gradient_accumulation_steps=1,
        accelerator=Alone(),
        max_completion_length=MAX_TOKENS,
        _entropy_bonus_enabled=False,
        _metrics=defaultdict(lambda: defaultdict(list)),
        _get_per_token_logps_and_entropies=lambda *a, **k: (batch.logprobs, torch.zeros_like(batch.mask), None),
    )
    ids = torch.zeros(COMPLETIONS, LONGEST, dtype=torch.long)
    loss: Tensor = GRPOTrainer._compute_loss(
        trainer,
        None,
        {
            "prompt_ids": ids[:, :1],
            "prompt_mask": ids[:, :1],
            "completion_ids": ids,
            "completion_mask": batch.mask,
            "advantages": batch.advantages,
            "old_per_token_logps": batch.old,
            "ref_per_token_logps": batch.reference,
            "num_items_in_batch": batch.mask.sum(),
        },
    )
    return loss


def our_loss(batch: Padded, kind: str, aggregation: str, delta: float | None = None) -> Tensor:
    logprobs = batch.flat(batch.logprobs)
    old = batch.flat(batch.old)
    loss, _ = policy_loss(
        kind,  # type: ignore[arg-type]
        logprobs=logprobs,
        old_logprobs=old,
        advantages=batch.advantages[batch.index],
        sample_index=batch.index,
        num_samples=COMPLETIONS,
        clip_low=1.0 if kind == "cispo" else CLIP_LOW,
        clip_high=CLIP_HIGH,
        clip_delta=delta,
        gate_temperature_positive=1.0,
        gate_temperature_negative=1.05,
    )
    kl = kl_estimate("k3", logprobs=logprobs, ref_logprobs=batch.flat(batch.reference), old_logprobs=old)
    weights = token_weights(batch.lengths, aggregation=aggregation, max_completion_tokens=MAX_TOKENS)  # type: ignore[arg-type]
    denominator = loss_denominator(
        num_tokens=float(batch.mask.sum()),
        num_completions=COMPLETIONS,
        num_prompts=1,
        aggregation=aggregation,  # type: ignore[arg-type]
    )
    return ((loss + BETA * kl) * weights[batch.index]).sum() / denominator


@pytest.mark.parametrize(
    ("kind", "aggregation", "theirs"),
    [
        ("clipped", "sequence", {"loss_type": "grpo"}),
        ("clipped", "token", {"loss_type": "dapo"}),
        ("clipped", "token", {"loss_type": "bnpo"}),
        ("clipped", "constant", {"loss_type": "dr_grpo"}),
        ("clipped", "sequence", {"loss_type": "grpo", "delta": 1.4}),
        ("gspo", "sequence", {"loss_type": "grpo", "level": "sequence"}),
        ("cispo", "token", {"loss_type": "cispo"}),
        ("sapo", "sequence", {"loss_type": "sapo"}),
    ],
    ids=lambda v: "-".join(map(str, v.values())) if isinstance(v, dict) else v,
)
def test_losses_equal_trl(kind: str, aggregation: str, theirs: dict[str, Any]) -> None:
    batch = Padded()
    ours, reference = our_loss(batch, kind, aggregation, theirs.get("delta")), trl_loss(batch, **theirs)
    assert ours.item() == pytest.approx(reference.item(), abs=1e-10)
    (gradient,) = torch.autograd.grad(ours, batch.logprobs)
    (expected,) = torch.autograd.grad(reference, batch.logprobs)
    if kind == "gspo":
        # TRL differentiates the sequence's ratio: the same sum over a completion, and the same here, token by token.
        torch.testing.assert_close(gradient.sum(1), (expected * batch.mask).sum(1), atol=1e-10, rtol=0)
    torch.testing.assert_close(gradient, expected * batch.mask, atol=1e-10, rtol=0)


@pytest.mark.parametrize(
    ("loss_type", "aggregation", "kind"),
    [
        ("grpo", "sequence", "clipped"),
        ("dapo", "token", "clipped"),
        ("cispo", "token", "cispo"),
        ("sapo", "sequence", "sapo"),
    ],
)
def test_loss_from_hidden_states_equals_liger(loss_type: str, aggregation: str, kind: str) -> None:
    """From hidden states through the chunked LM head to the loss, against liger's fused linear GRPO loss."""
    from liger_kernel.chunked_loss import LigerFusedLinearGRPOLoss

    generator = torch.Generator().manual_seed(3)
    hidden = torch.randn(4, 7, 16, generator=generator).requires_grad_()
    weight = torch.randn(50, 16, generator=generator).mul(0.3).requires_grad_()
    targets = torch.randint(0, 50, (4, 7), generator=generator)
    lengths = torch.tensor([7, 3, 5, 6])
    mask = torch.arange(7) < lengths[:, None]
    advantages = torch.tensor([1.0, -0.5, 0.3, -0.8])
    noise = 0.3 * torch.randn(2, 4, 7, generator=generator)
    with torch.no_grad():
        plain = (hidden @ weight.t()).log_softmax(-1).gather(-1, targets[..., None])[..., 0]
    old, reference = plain + noise[0], plain + noise[1]
    theirs = LigerFusedLinearGRPOLoss(
        beta=BETA,
        compiled=False,
        use_ref_model=True,
        epsilon_low=CLIP_LOW,
        epsilon_high=1 + CLIP_HIGH if kind == "cispo" else CLIP_HIGH,
        loss_type=loss_type,
        max_completion_length=MAX_TOKENS,
        temperature=1.0,
    )
    expected, _ = theirs(
        hidden,
        weight,
        targets,
        mask.float(),
        advantages,
        ref_per_token_logps=reference,
        old_per_token_logps=old,
    )
    index = torch.repeat_interleave(torch.arange(4), lengths)
    logprobs, _ = linear_logprobs(hidden[mask], weight, None, targets[mask], temperature=1.0, chunk_elements=150)
    loss, _ = policy_loss(
        kind,  # type: ignore[arg-type]
        logprobs=logprobs,
        old_logprobs=old[mask],
        advantages=advantages[index],
        sample_index=index,
        num_samples=4,
        clip_low=1.0 if kind == "cispo" else CLIP_LOW,
        clip_high=CLIP_HIGH,
        clip_delta=None,
        gate_temperature_positive=1.0,
        gate_temperature_negative=1.05,
    )
    kl = kl_estimate("k3", logprobs=logprobs, ref_logprobs=reference[mask], old_logprobs=old[mask])
    weights = token_weights(lengths, aggregation=aggregation, max_completion_tokens=MAX_TOKENS)[index]  # type: ignore[arg-type]
    ours = ((loss + BETA * kl) * weights).sum() / (4 if aggregation == "sequence" else int(lengths.sum()))
    assert ours.item() == pytest.approx(expected.item(), abs=1e-6)
    for mine, other in zip(
        torch.autograd.grad(ours, (hidden, weight)), torch.autograd.grad(expected, (hidden, weight)), strict=True
    ):
        torch.testing.assert_close(mine, other.to(mine.dtype), atol=1e-6, rtol=1e-5)


def test_batch_std_equals_trl_but_for_its_sample_std_and_epsilon() -> None:
    from trl.trainer.utils import nanstd

    rewards = torch.rand(4, 5, generator=torch.Generator().manual_seed(2), dtype=torch.float64)
    centered = rewards - rewards.mean(1, keepdim=True)
    n = rewards.numel()
    theirs = centered / (nanstd(rewards) * (((n - 1) / n) ** 0.5) + 1e-6)
    torch.testing.assert_close(torch.stack(batch_std_advantages(list(rewards))), theirs, atol=1e-6, rtol=0)


def test_leave_one_out_equals_trl_rloo() -> None:
    """As TRL's RLOOTrainer computes its baseline: (sum of the group - own) / (G - 1)."""
    rewards = torch.rand(3, 4, generator=torch.Generator().manual_seed(5), dtype=torch.float64)
    baselines = (rewards.sum(1, keepdim=True) - rewards) / 3
    ours = torch.stack([leave_one_out_advantages(r) for r in rewards])
    torch.testing.assert_close(ours, rewards - baselines, atol=1e-12, rtol=0)


@pytest.mark.parametrize("label_smoothing", [0.0, 0.1])
def test_dpo_equals_liger(label_smoothing: float) -> None:
    from liger_kernel.chunked_loss.dpo_loss import LigerFusedLinearDPOFunction

    generator = torch.Generator().manual_seed(7)
    chosen, rejected, ref_chosen, ref_rejected = -5 * torch.rand(4, 6, generator=generator, dtype=torch.float64)
    ours = dpo_loss(chosen, rejected, ref_chosen, ref_rejected, beta=0.2, label_smoothing=label_smoothing)
    if label_smoothing:
        margin = 0.2 * ((chosen - ref_chosen) - (rejected - ref_rejected))
        expected = torch.nn.functional.binary_cross_entropy_with_logits(
            margin, torch.full_like(margin, 1 - label_smoothing)
        )
        rewards = (0.2 * (chosen - ref_chosen), 0.2 * (rejected - ref_rejected))
    else:
        total, *rewards = LigerFusedLinearDPOFunction.preference_loss_fn(  # type: ignore[assignment]
            chosen, rejected, torch.zeros(12, 1), ref_chosen, ref_rejected, beta=0.2
        )
        expected = total
    assert ours.loss.mean().item() == pytest.approx(expected.item(), abs=1e-10)
    for mine, theirs in zip((ours.chosen_rewards, ours.rejected_rewards), rewards, strict=True):
        torch.testing.assert_close(mine, theirs, atol=1e-10, rtol=0)
