import pytest
import torch

from r1ray.algorithms.aggregation import Aggregation, loss_denominator, token_weights

AGGREGATIONS: list[Aggregation] = ["token", "sequence", "prompt", "constant"]


@pytest.mark.parametrize(
    ("aggregation", "expected", "denominator"),
    [
        ("token", [1, 1, 1], 9),
        ("sequence", [1 / 2, 1 / 4, 1 / 3], 3),
        ("prompt", [1 / 6, 1 / 6, 1 / 3], 2),
        ("constant", [0.1, 0.1, 0.1], 3),
    ],
)
def test_token_weights_per_aggregation(aggregation: Aggregation, expected: list[float], denominator: float) -> None:
    # Prompt 1 has completions of 2 and 4 tokens, prompt 2 has one of 3.
    weights = token_weights(
        torch.tensor([2, 4, 3]),
        aggregation=aggregation,
        max_completion_tokens=10,
        group_tokens=torch.tensor([6, 6, 3]),
    )
    assert weights.tolist() == pytest.approx(expected, abs=1e-15)
    assert weights.dtype == torch.float64
    got = loss_denominator(num_tokens=9, num_completions=3, num_prompts=2, aggregation=aggregation)
    assert got == denominator
    assert isinstance(got, float)


@pytest.mark.parametrize("aggregation", ["token", "sequence", "prompt"])
def test_a_loss_of_one_everywhere_aggregates_to_one(aggregation: Aggregation) -> None:
    lengths, group_tokens = torch.tensor([2, 4, 3]), torch.tensor([6, 6, 3])
    weights = token_weights(lengths, aggregation=aggregation, max_completion_tokens=10, group_tokens=group_tokens)
    denominator = loss_denominator(num_tokens=9, num_completions=3, num_prompts=2, aggregation=aggregation)
    assert (weights * lengths).sum().item() / denominator == pytest.approx(1, abs=1e-15)


@pytest.mark.parametrize("aggregation", AGGREGATIONS)
def test_weights_are_computed_in_the_dtype_asked_for(aggregation: Aggregation) -> None:
    lengths = torch.tensor([3, 16777217])  # not a float32
    for dtype in (torch.float32, torch.float64):
        weights = token_weights(
            lengths, aggregation=aggregation, max_completion_tokens=3, group_tokens=lengths, dtype=dtype
        )
        assert weights.dtype == dtype
    if aggregation == "sequence":
        assert weights[1].item() == 1 / 16777217


def test_prompt_aggregation_needs_the_tokens_of_the_group() -> None:
    with pytest.raises(ValueError, match="group_tokens must be given"):
        token_weights(torch.tensor([2]), aggregation="prompt", max_completion_tokens=10)
