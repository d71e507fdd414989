from __future__ import annotations

import math

import torch
from torch import Tensor

from r1ray.rollout.sampling import invert_cdf, keep_nucleus, sample_tokens, uniform_numbers

# 99.9 % quantile of chi-square with 7 degrees of freedom.
CHI_SQUARE_7_DF = 24.32


def sample(
    logits: Tensor, *, temperature: float = 1.0, top_p: float = 1.0, seed: int = 0, position: int = 0
) -> tuple[Tensor, Tensor]:
    rows = len(logits)
    return sample_tokens(
        logits,
        temperatures=torch.full((rows,), temperature),
        top_ps=torch.full((rows,), top_p),
        seeds=torch.arange(rows) + seed,
        positions=torch.full((rows,), position),
    )


def chi_square(counts: Tensor, probs: Tensor) -> float:
    expected = probs * counts.sum()
    return ((counts - expected) ** 2 / expected).sum().item()


def test_token_frequencies_follow_the_softmax() -> None:
    logits = torch.tensor([0.0, 1.0, -1.0, 2.0, 0.5, -2.0, 1.5, 0.2])
    tokens, _ = sample(logits.expand(40_000, -1), temperature=0.7, seed=1000)
    assert chi_square(torch.bincount(tokens, minlength=8), (logits / 0.7).softmax(-1)) < CHI_SQUARE_7_DF


def test_token_frequencies_along_one_sequence_follow_the_softmax() -> None:
    logits = torch.tensor([0.0, 1.0, -1.0, 2.0, 0.5, -2.0, 1.5, 0.2])
    positions = torch.arange(40_000)
    ones = torch.ones(40_000)
    tokens, _ = sample_tokens(
        logits.expand(40_000, -1),
        temperatures=ones,
        top_ps=ones,
        seeds=torch.full((40_000,), 17),
        positions=positions,
    )
    assert chi_square(torch.bincount(tokens, minlength=8), logits.softmax(-1)) < CHI_SQUARE_7_DF


def test_uniform_numbers_match_splitmix64_in_plain_integers() -> None:
    def mix(bits: int) -> int:
        bits = (bits ^ (bits >> 30)) * 0xBF58476D1CE4E5B9 % 2**64
        bits = (bits ^ (bits >> 27)) * 0x94D049BB133111EB % 2**64
        return bits ^ (bits >> 31)

    gamma = 0x9E3779B97F4A7C15
    pairs = [(0, 0), (1, 0), (0, 1), (-5, 63), (2**63 - 1, 100_000)]
    expected = [(mix((mix((s + gamma) % 2**64) + p * gamma) % 2**64) >> 11) / 2**53 for s, p in pairs]
    seeds, positions = (torch.tensor(column) for column in zip(*pairs, strict=True))
    assert uniform_numbers(seeds, positions).tolist() == expected


def test_neighbouring_seeds_and_positions_are_uncorrelated() -> None:
    uniforms = uniform_numbers(torch.arange(300).repeat_interleave(300), torch.arange(300).repeat(300)).view(300, 300)
    for first, second in ((uniforms[1:], uniforms[:-1]), (uniforms[:, 1:], uniforms[:, :-1])):
        correlation = torch.corrcoef(torch.stack([first.flatten(), second.flatten()]))[0, 1].item()
        assert abs(correlation) < 4 / math.sqrt(first.numel())


def test_token_does_not_depend_on_the_rest_of_the_batch() -> None:
    logits = torch.randn(6, 300, generator=torch.Generator().manual_seed(3))
    tokens, logprobs = sample(logits, top_p=0.9, seed=40)
    for row in range(6):
        alone, alone_logprob = sample(logits[row : row + 1], top_p=0.9, seed=40 + row)
        assert alone.item() == tokens[row].item()
        assert alone_logprob.item() == logprobs[row].item()


def test_logprobs_are_those_of_the_tempered_softmax() -> None:
    logits = torch.randn(64, 1000, generator=torch.Generator().manual_seed(4)) * 3
    tokens, logprobs = sample(logits, temperature=0.6)
    expected = (logits / 0.6).log_softmax(-1).gather(1, tokens[:, None]).squeeze(1)
    torch.testing.assert_close(logprobs, expected, atol=1e-5, rtol=0)


def test_bfloat16_logits_are_divided_in_float32() -> None:
    logits = torch.randn(8, 50, generator=torch.Generator().manual_seed(5)).bfloat16()
    tokens, logprobs = sample(logits, temperature=0.7)
    expected = (logits.float() / 0.7).log_softmax(-1).gather(1, tokens[:, None]).squeeze(1)
    assert logprobs.dtype == torch.float32
    torch.testing.assert_close(logprobs, expected, atol=1e-5, rtol=0)


def test_nucleus_is_the_smallest_set_that_reaches_top_p() -> None:
    probs = torch.tensor([[0.1, 0.4, 0.05, 0.3, 0.15], [0.1, 0.4, 0.05, 0.3, 0.15]])
    kept = keep_nucleus(probs, torch.tensor([0.65, 0.75]))
    expected = [[0, 0.4 / 0.7, 0, 0.3 / 0.7, 0], [0, 0.4 / 0.85, 0, 0.3 / 0.85, 0.15 / 0.85]]
    torch.testing.assert_close(kept, torch.tensor(expected))


def test_nucleus_wider_than_the_first_guess_is_found() -> None:
    probs = torch.full((1, 5000), 1 / 5000)
    probs[0, :2500] *= 1.2
    probs[0, 2500:] *= 0.8
    assert (keep_nucleus(probs, torch.tensor([0.6])) > 0).sum().item() in (2500, 5000)
    assert (keep_nucleus(probs, torch.tensor([0.59])) > 0).sum().item() == 2500


def test_top_p_logprobs_are_renormalised_within_the_nucleus() -> None:
    logits = torch.tensor([[0.1, 0.4, 0.05, 0.3, 0.15]]).log().expand(2000, -1)
    tokens, logprobs = sample(logits, top_p=0.65)
    assert set(tokens.tolist()) == {1, 3}
    expected = torch.where(tokens == 1, math.log(0.4 / 0.7), math.log(0.3 / 0.7))
    torch.testing.assert_close(logprobs, expected)


def test_greedy_row_takes_the_largest_logit_and_reports_temperature_one() -> None:
    logits = torch.tensor([[0.0, 3.0, 1.0], [0.0, 3.0, 1.0]])
    tokens, logprobs = sample_tokens(
        logits,
        temperatures=torch.tensor([0.0, 2.0]),
        top_ps=torch.tensor([0.5, 1.0]),
        seeds=torch.tensor([1, 2]),
        positions=torch.tensor([0, 0]),
    )
    assert tokens[0].item() == 1
    assert math.isclose(logprobs[0].item(), logits[0].log_softmax(-1)[1].item(), abs_tol=1e-6)
    assert math.isclose(logprobs[1].item(), (logits[1] / 2).log_softmax(-1)[tokens[1]].item(), abs_tol=1e-6)


def test_inverse_cdf_equals_a_linear_search_and_never_takes_a_zero() -> None:
    generator = torch.Generator().manual_seed(6)
    probs = torch.rand(200, 700, generator=generator)
    probs[:, ::3] = 0
    probs[:, -5:] = 0
    probs /= probs.sum(-1, keepdim=True)
    uniforms = torch.rand(200, generator=generator, dtype=torch.float64)
    uniforms[:2] = torch.tensor([0.0, 1 - 2.0**-53])
    tokens = invert_cdf(probs, uniforms)
    assert (probs.gather(1, tokens[:, None]) > 0).all()
    cumulative = probs.double().cumsum(-1)
    expected = (cumulative <= uniforms[:, None] * cumulative[:, -1:]).sum(-1)
    assert (tokens[2:] == expected[2:]).float().mean().item() > 0.99
    assert tokens[0].item() == 1
    assert tokens[1].item() == 694
