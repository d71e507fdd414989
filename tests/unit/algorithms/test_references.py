"""Losses against TRL and liger-kernel, which hold padded tensors: values and gradients, on random tokens."""

import warnings
from collections import defaultdict
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any, NamedTuple

import pytest
import torch
from torch import Tensor

from r1ray.algorithms.aggregation import Aggregation, loss_denominator, token_weights
from r1ray.algorithms.kl import KlEstimator, kl_estimate
from r1ray.algorithms.policy_losses import PolicyLossKind, TokenLoss, policy_loss
from r1ray.algorithms.preference import bradley_terry_loss, dpo_loss

LENGTHS = torch.tensor([3, 7, 1, 5, 4, 7])
MASK = torch.arange(7) < LENGTHS[:, None]
INDEX = torch.repeat_interleave(LENGTHS)
MAX_COMPLETION_TOKENS = 9
KL_COEF = 0.3


class Case(NamedTuple):
    """One loss here and how the references name it."""

    kind: PolicyLossKind
    aggregation: Aggregation
    loss_type: str
    clip_low: float = 0.2
    clip_high: float = 0.2
    clip_delta: float | None = None
    level: str = "token"


CASES = [
    Case("clipped", "sequence", "grpo"),
    Case("clipped", "sequence", "grpo", clip_delta=1.5),
    Case("clipped", "token", "dapo", clip_high=0.28),
    Case("clipped", "token", "bnpo"),
    Case("clipped", "constant", "dr_grpo"),
    # The references name the cap, not its distance from 1.
    Case("cispo", "token", "cispo", clip_low=1.0, clip_high=0.3),
    Case("sapo", "sequence", "sapo"),
    Case("gspo", "sequence", "grpo", clip_low=0.03, clip_high=0.04, level="sequence"),
]


def ids(case: Case) -> str:
    return "-".join([case.loss_type, case.level, *([f"delta{case.clip_delta}"] if case.clip_delta else [])])


class Batch(NamedTuple):
    """Padded tokens [6, 7] and advantages [6]."""

    logprobs: Tensor
    old_logprobs: Tensor
    ref_logprobs: Tensor
    importance: Tensor
    advantages: Tensor


@pytest.fixture
def batch() -> Batch:
    torch.manual_seed(0)
    logprobs = -3 * torch.rand(6, 7, dtype=torch.float64)
    noise = torch.randn(3, 6, 7, dtype=torch.float64)
    advantages = torch.tensor([1.2, -0.7, 0.5, -1.1, 0.0, 0.9], dtype=torch.float64)
    return Batch(logprobs.requires_grad_(), logprobs.detach() + 0.3 * noise[0], logprobs.detach() + 0.5 * noise[1],
                 (0.2 * noise[2]).exp(), advantages)  # fmt: skip


@pytest.fixture(scope="module")
def trl() -> SimpleNamespace:
    """Import what is compared with, without its remarks on the version of vLLM and on deprecated Python."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        from trl.experimental.gmpo.gmpo_trainer import GMPOTrainer
        from trl.trainer.dpo_trainer import DPOTrainer
        from trl.trainer.grpo_trainer import GRPOTrainer
        from trl.trainer.reward_trainer import RewardTrainer
        from trl.trainer.rloo_trainer import RLOOTrainer
    return SimpleNamespace(
        grpo=GRPOTrainer._compute_loss,
        gmpo=GMPOTrainer._compute_loss,
        rloo=RLOOTrainer._compute_loss,
        dpo=DPOTrainer._compute_loss,
        reward=RewardTrainer.compute_loss,
    )


@pytest.fixture(scope="module")
def liger() -> SimpleNamespace:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        from liger_kernel.chunked_loss.dpo_loss import LigerFusedLinearDPOFunction
        from liger_kernel.chunked_loss.grpo_loss import LigerFusedLinearGRPOFunction
    return SimpleNamespace(
        grpo=LigerFusedLinearGRPOFunction.ppo_loss_fn, dpo=LigerFusedLinearDPOFunction.preference_loss_fn
    )


def our_tokens(batch: Batch, case: Case) -> TokenLoss:
    return policy_loss(
        case.kind,
        logprobs=batch.logprobs[MASK],
        old_logprobs=batch.old_logprobs[MASK],
        advantages=batch.advantages[INDEX],
        sample_index=INDEX,
        num_samples=6,
        clip_low=case.clip_low,
        clip_high=case.clip_high,
        clip_delta=case.clip_delta,
        gate_temperature_positive=1.0,
        gate_temperature_negative=1.05,
    )


def our_kl(batch: Batch, estimator: KlEstimator) -> Tensor:
    return kl_estimate(
        estimator,
        logprobs=batch.logprobs[MASK],
        ref_logprobs=batch.ref_logprobs[MASK],
        old_logprobs=batch.old_logprobs[MASK],
    )


def aggregate(per_token: Tensor, aggregation: Aggregation) -> Tensor:
    weights = token_weights(LENGTHS, aggregation=aggregation, max_completion_tokens=MAX_COMPLETION_TOKENS)
    denominator = loss_denominator(num_tokens=27, num_completions=6, num_prompts=2, aggregation=aggregation)
    return (per_token * weights[INDEX]).sum() / denominator


def trainer(logprobs: Tensor, **options: Any) -> SimpleNamespace:
    """Stand in for a trainer of TRL: what its loss reads of `self`, and nothing else."""
    same: Callable[..., Any] = lambda value, **_: value  # noqa: E731
    defaults = {
        "_get_per_token_logps_and_entropies": lambda *_, **__: (logprobs, torch.zeros_like(logprobs), None),
        "accelerator": SimpleNamespace(
            num_processes=1, gather=same, reduce=same, gather_for_metrics=same, device=torch.device("cpu")
        ),
        "model": SimpleNamespace(training=True),
        "_metrics": {"train": defaultdict(list)},
        "_total_train_tokens": 0,
        "_tp_size": 1,
        "current_gradient_accumulation_steps": 1,
        "max_completion_length": MAX_COMPLETION_TOKENS,
        "top_entropy_quantile": 1.0,
        "off_policy_mask_threshold": None,
        "use_vllm": False,
        "vllm_importance_sampling_correction": True,
        "_entropy_bonus_enabled": False,
        "aux_loss_enabled": False,
        "beta": 0.0,
        "importance_sampling_level": "token",
        "epsilon_low": 0.2,
        "epsilon_high": 0.2,
    }
    return SimpleNamespace(**{**defaults, **options})


def inputs(batch: Batch) -> dict[str, Tensor]:
    prompt = torch.ones(6, 2, dtype=torch.int64)
    return {
        "prompt_ids": prompt,
        "prompt_mask": prompt,
        "completion_ids": torch.ones(6, 7, dtype=torch.int64),
        "completion_mask": MASK.long(),
        "advantages": batch.advantages,
        "old_per_token_logps": batch.old_logprobs,
        "ref_per_token_logps": batch.ref_logprobs,
        "importance_sampling_ratio": batch.importance,
        "num_items_in_batch": LENGTHS.sum(),
    }


def trl_args(case: Case, *, weighted_kl: bool = False) -> SimpleNamespace:
    return SimpleNamespace(
        delta=case.clip_delta,
        use_bias_correction_kl=weighted_kl,
        sapo_temperature_pos=1.0,
        sapo_temperature_neg=1.05,
        steps_per_generation=1,
    )


def assert_same(ours: Tensor, theirs: Tensor, *leaves: Tensor) -> None:
    torch.testing.assert_close(ours, theirs.to(ours.dtype), rtol=1e-6, atol=1e-6)
    assert ours.abs() > 1e-3
    got, expected = (torch.autograd.grad(loss, leaves) for loss in (ours, theirs))
    for a, b in zip(got, expected, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-6, atol=1e-6)
        assert a.abs().max() > 1e-3


# Of gspo, TRL knows the form of sequences, in which the tokens' own weights and ratios of the KL have no place.
COMBINATIONS = [
    (case, estimator, importance)
    for case in CASES
    for estimator in (None, "k3", "weighted_k3")
    for importance in (False, True)
    if case.kind != "gspo" or not (importance or estimator == "weighted_k3")
]


@pytest.mark.parametrize(("case", "estimator", "importance"), COMBINATIONS)
def test_losses_equal_trl(
    case: Case, estimator: KlEstimator | None, importance: bool, batch: Batch, trl: SimpleNamespace
) -> None:
    cap = 1 + case.clip_high if case.kind == "cispo" else case.clip_high
    stub = trainer(
        batch.logprobs,
        loss_type=case.loss_type,
        importance_sampling_level=case.level,
        epsilon_low=case.clip_low,
        epsilon_high=cap,
        beta=KL_COEF if estimator else 0.0,
        args=trl_args(case, weighted_kl=estimator == "weighted_k3"),
        use_vllm=importance,
    )
    per_token = our_tokens(batch, case).loss
    if importance:
        per_token = per_token * batch.importance[MASK]
    if estimator:
        per_token = per_token + KL_COEF * our_kl(batch, estimator)
    assert_same(aggregate(per_token, case.aggregation), trl.grpo(stub, None, inputs(batch)), batch.logprobs)


def test_gmpo_equals_trl(batch: Batch, trl: SimpleNamespace) -> None:
    case = Case("gmpo", "sequence", "gmpo", clip_low=0.2, clip_high=0.15)
    stub = trainer(batch.logprobs, beta=KL_COEF, epsilon_low=0.2, epsilon_high=0.15)
    tokens = our_tokens(batch, case)
    assert 0 < tokens.clipped.sum() < 27
    ours = aggregate(tokens.loss + KL_COEF * our_kl(batch, "k3"), "sequence")
    assert_same(ours, trl.gmpo(stub, None, inputs(batch)), batch.logprobs)


def test_reinforce_with_summed_tokens_has_the_gradient_of_rloo_in_trl(batch: Batch, trl: SimpleNamespace) -> None:
    on_policy = (batch.logprobs.detach() * MASK).sum(1)
    stub = trainer(batch.logprobs, args=SimpleNamespace(per_device_train_batch_size=6))
    theirs = trl.rloo(stub, None, {**inputs(batch), "old_logps": on_policy})
    per_token = our_tokens(batch, Case("reinforce", "constant", "rloo")).loss
    ours = aggregate(per_token, "constant") * MAX_COMPLETION_TOKENS
    got, expected = (torch.autograd.grad(loss, batch.logprobs)[0] for loss in (ours, theirs))
    torch.testing.assert_close(got, expected, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("case", CASES, ids=ids)
def test_losses_and_clipped_tokens_equal_liger(case: Case, batch: Batch, liger: SimpleNamespace) -> None:
    cap = 1 + case.clip_high if case.kind == "cispo" else case.clip_high
    loss, metrics = liger.grpo(
        per_token_logps=batch.logprobs,
        attention_mask=MASK.double(),
        advantages=batch.advantages,
        full_attention_mask=MASK.double(),
        ref_per_token_logps=batch.ref_logprobs,
        old_per_token_logps=batch.old_logprobs,
        epsilon_low=case.clip_low,
        epsilon_high=cap,
        beta=KL_COEF,
        loss_type=case.loss_type,
        max_completion_length=MAX_COMPLETION_TOKENS,
        importance_sampling_level=case.level,
        delta=case.clip_delta,
    )
    tokens, kl = our_tokens(batch, case), our_kl(batch, "k3")
    assert_same(aggregate(tokens.loss + KL_COEF * kl, case.aggregation), loss, batch.logprobs)
    torch.testing.assert_close(aggregate(kl, "token"), metrics[0])
    if case.clip_delta is None and case.kind != "cispo":  # liger counts caps not at all, and weights only where A > 0
        torch.testing.assert_close(tokens.clipped.double().mean(), metrics[1])


@pytest.fixture
def pairs() -> Tensor:
    """Log-probabilities of 5 pairs: policy chosen and rejected, reference chosen and rejected."""
    torch.manual_seed(3)
    return (-20 * torch.rand(4, 5, dtype=torch.float64)).requires_grad_()


def test_dpo_equals_liger(pairs: Tensor, liger: SimpleNamespace) -> None:
    theirs, chosen, rejected = liger.dpo(pairs[0], pairs[1], torch.zeros(10), pairs[2], pairs[3], beta=0.1)
    ours = dpo_loss(*pairs, beta=0.1)
    assert_same(ours.loss.mean(), theirs, pairs)
    torch.testing.assert_close(ours.chosen_rewards, chosen.detach())
    torch.testing.assert_close(ours.rejected_rewards, rejected.detach())


def test_dpo_equals_trl(pairs: Tensor, trl: SimpleNamespace) -> None:
    policy = torch.cat([pairs[0], pairs[1]])
    zeros = torch.zeros(10, 3)
    outputs = SimpleNamespace(
        log_probs=policy[:, None] * torch.tensor([0.5, 0.25, 0.25]),  # summed over tokens again
        entropy=zeros,
        mean_logits=zeros,
        is_top1=zeros.bool(),
    )
    stub = trainer(
        policy,
        beta=0.1,
        ld_alpha=None,
        precompute_ref_logps=True,
        f_divergence_type="reverse_kl",
        loss_types=["sigmoid"],
        loss_weights=[1.0],
        use_weighting=False,
    )
    theirs = trl.dpo(
        stub,
        lambda **_: outputs,
        {
            "input_ids": torch.ones(10, 4, dtype=torch.int64),
            "attention_mask": torch.ones(10, 4, dtype=torch.int64),
            "completion_mask": torch.ones(10, 4, dtype=torch.int64),
            "ref_chosen_logps": pairs[2],
            "ref_rejected_logps": pairs[3],
        },
        False,
    )
    ours = dpo_loss(*pairs, beta=0.1)
    assert_same(ours.loss.mean(), theirs, pairs)
    assert ours.chosen_rewards.mean().item() == pytest.approx(stub._metrics["train"]["rewards/chosen"][0])
    assert ours.rejected_rewards.mean().item() == pytest.approx(stub._metrics["train"]["rewards/rejected"][0])


@pytest.mark.parametrize("margin", [None, torch.tensor([0.0, 0.5, 1.0, 2.0, 0.1], dtype=torch.float64)])
def test_bradley_terry_equals_trl(margin: Tensor | None, trl: SimpleNamespace) -> None:
    torch.manual_seed(4)
    scores = torch.randn(10, 1, dtype=torch.float64).requires_grad_()
    stub = trainer(scores, args=SimpleNamespace(center_rewards_coefficient=None))
    given = {"attention_mask": torch.ones(10, 4), **({} if margin is None else {"margin": margin})}
    theirs = trl.reward(stub, lambda **_: SimpleNamespace(logits=scores), given)
    chosen, rejected = scores.squeeze(-1).chunk(2)
    assert_same(bradley_terry_loss(chosen, rejected, margin).mean(), theirs, scores)
