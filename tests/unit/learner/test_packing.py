import math
import random

import pytest

from r1ray.learner.micro_batch import collate
from r1ray.learner.packing import Bin, Bundle, Cost, Packer, pack
from r1ray.types import TrainingSample


def sample(prompt: int, completion: int, *, key: str = "") -> TrainingSample:
    zeros = (0.0,) * completion
    return TrainingSample((1,) * prompt, (2,) * completion, zeros, (0,) * completion, 1.0, prompt_key=key)


def r1_like_groups(num_prompts: int, group_size: int) -> list[list[TrainingSample]]:
    """Completion lengths log-normal with mean 5,400, at most 32,768; prompts of 200 tokens."""
    rng, spread = random.Random(0), 0.8
    mean = math.log(5400) - spread**2 / 2

    def length() -> int:
        return min(32768, max(1, round(rng.lognormvariate(mean, spread))))

    return [[sample(200, length(), key=str(p)) for _ in range(group_size)] for p in range(num_prompts)]


def streamed(packer: Packer, groups: list[list[TrainingSample]]) -> tuple[list[list[Bin]], list[list[Bin]]]:
    """Rows that went out while groups came, and those of the end."""
    early = [row for group in groups for row in packer.add(group)]
    return early, packer.finish()


def tokens(bundles: Bin) -> int:
    return sum(b.tokens for b in bundles)


def samples_of(rows: list[list[Bin]]) -> list[TrainingSample]:
    return [s for row in rows for bundles in row for b in bundles for s in b.samples]


def test_a_prompt_stands_once_for_all_its_completions() -> None:
    bundle = Bundle([sample(3, n, key="a") for n in (2, 4, 1)])
    assert bundle.tokens == 3 + 2 + 4 + 1
    assert collate([bundle, Bundle([sample(1, 3)])]).input_ids.shape == (1, 10 + 4)


def test_pairs_are_counted_as_attention_sees_them() -> None:
    # Prompt of 3: 1+2+3; completion of 2 over it: 4+5; of 1: 4.
    assert Bundle([sample(3, 2, key="a"), sample(3, 1, key="a")]).pairs == 6 + 9 + 4


@pytest.mark.parametrize("num_ranks", [1, 8])
def test_r1_like_lengths_fill_97_percent_of_the_micro_batches(num_ranks: int) -> None:
    groups = r1_like_groups(32 if num_ranks == 1 else 128, 16)
    packer = Packer(micro_batch_tokens=33792, num_ranks=num_ranks, cost=Cost(1.0, 3e-5))
    early, late = streamed(packer, groups)
    rows = [*early, *late]
    assert len(early) > len(late)
    assert sum(tokens(b) for row in rows for b in row) >= 0.97 * 33792 * num_ranks * len(rows)


def test_every_sample_goes_out_once_and_no_bin_is_too_full() -> None:
    groups = r1_like_groups(20, 8)
    early, late = streamed(Packer(micro_batch_tokens=40000, num_ranks=3, cost=Cost(1.0, 3e-5)), groups)
    rows = [*early, *late]
    assert sorted(map(id, samples_of(rows))) == sorted(id(s) for group in groups for s in group)
    assert all(len(row) == 3 for row in rows)
    assert max(tokens(b) for row in rows for b in row) <= 40000


def test_processes_of_a_row_work_alike() -> None:
    cost = Cost(1.0, 3e-5)
    groups = r1_like_groups(64, 16)
    rows = Packer(micro_batch_tokens=33792, num_ranks=8, cost=cost)
    early, late = streamed(rows, groups)
    costs = [[cost.of(b) for b in row] for row in [*early, *late]]
    # Every process waits for the slowest of its row.
    assert sum(map(sum, costs)) >= 0.92 * sum(8 * max(row) for row in costs)
    totals = [sum(column) for column in zip(*costs, strict=True)]
    assert min(totals) >= 0.97 * max(totals)


@pytest.mark.parametrize("num_ranks", [1, 8])
def test_completions_that_fill_no_bin_well_do_not_wait_for_the_end(num_ranks: int) -> None:
    rng = random.Random(0)
    groups = [[sample(10, rng.randint(550, 850), key=str(p)) for _ in range(16)] for p in range(8 * num_ranks)]
    packer = Packer(micro_batch_tokens=1000, num_ranks=num_ranks, cost=Cost())
    early, late = streamed(packer, groups)
    assert len(early) > 4 * len(late)
    # No two go together, so every bin holds one: none is lost by not waiting.
    assert [len(b) for row in [*early, *late] for b in row] == [1] * (128 * num_ranks)


def test_something_is_kept_back_until_the_step_ends() -> None:
    packer = Packer(micro_batch_tokens=10, num_ranks=1, cost=Cost())
    assert packer.add([sample(1, 9) for _ in range(5)])
    assert packer.finish()
    assert packer.finish() == []


def test_too_few_samples_leave_a_process_an_empty_bin() -> None:
    packer = Packer(micro_batch_tokens=10, num_ranks=3, cost=Cost())
    packer.add([sample(1, 4), sample(1, 5)])
    (row,) = packer.finish()
    assert sorted(map(tokens, row)) == [0, 5, 6]


def test_a_last_row_is_evened_out_over_the_processes() -> None:
    packer = Packer(micro_batch_tokens=100, num_ranks=2, cost=Cost())
    packer.add([sample(1, 9, key=str(i)) for i in range(12)])
    rows = packer.finish()
    assert [[tokens(b) for b in row] for row in rows] == [[60, 60]]


def test_completions_of_a_prompt_share_it_also_when_they_come_apart() -> None:
    samples = [sample(50, 20, key="a"), sample(1, 5, key="b"), sample(50, 20, key="a")]
    (members,) = pack(samples, limit=120)
    assert [len(b.samples) for b in members] == [2, 1]
    assert tokens(members) == 50 + 40 + 6


def test_a_sample_longer_than_the_limit_goes_alone() -> None:
    bins = pack([sample(2, 30), sample(2, 3), sample(2, 4)], limit=12)
    assert sorted(map(tokens, bins)) == [11, 32]


def test_packing_depends_on_lengths_and_order_alone() -> None:
    def lengths(rows: list[list[Bin]]) -> list[list[list[int]]]:
        return [[[len(s.completion_ids) for b in bundles for s in b.samples] for bundles in row] for row in rows]

    one, other = (
        streamed(Packer(micro_batch_tokens=33792, num_ranks=2, cost=Cost()), r1_like_groups(8, 8)) for _ in range(2)
    )
    assert lengths(one[0]) == lengths(other[0])
    assert lengths(one[1]) == lengths(other[1])
