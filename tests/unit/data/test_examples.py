"""Examples of supervised stages: columns, skipping, held-out parts, pairs."""

import json
from pathlib import Path

import pytest

from r1ray.config.data_sections import DatasetConfig, PartConfig
from r1ray.data.examples import ExampleKind, Examples
from r1ray.errors import DataError


def encode(question: str, completion: str) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """Count words as tokens; the score of reward models is read at the last."""
    ids = tuple(map(ord, question + completion))
    return ids[: len(question)], ids[len(question) :]


def write(folder: Path, *rows: dict) -> str:
    path = folder / "rows.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return str(path)


def opened(path: str, kind: ExampleKind = "sft", *, max_tokens: int = 100, **columns: str) -> Examples:
    config = DatasetConfig(source="jsonl", name=path)
    for name, column in columns.items():
        setattr(config.columns, name, column)
    return Examples(config, kind, encode=encode, max_tokens=max_tokens)


def test_a_completion_follows_its_question(tmp_path: Path) -> None:
    (sample,) = opened(write(tmp_path, {"question": "ab", "completion": "cde"})).samples(0) or []
    assert sample.prompt_ids == tuple(map(ord, "ab"))
    assert sample.completion_ids == tuple(map(ord, "cde"))
    assert sample.group_tokens == len(sample.rollout_logprobs) == len(sample.policy_versions) == 3


def test_columns_can_have_other_names_and_answers_are_not_needed(tmp_path: Path) -> None:
    path = write(tmp_path, {"q": "ab", "solution": "c"})
    (sample,) = opened(path, question="q", completion="solution").samples(0) or []
    assert sample.completion_ids == (ord("c"),)


def test_what_a_pair_begins_with_alike_is_its_prompt(tmp_path: Path) -> None:
    path = write(tmp_path, {"question": "ab", "chosen": "cdX", "rejected": "cdYZ"})
    chosen, rejected = opened(path, "pairwise").samples(0) or []
    assert chosen.prompt_ids == rejected.prompt_ids == tuple(map(ord, "abcd"))
    assert (chosen.completion_ids, rejected.completion_ids) == ((ord("X"),), (ord("Y"), ord("Z")))
    assert (chosen.advantage, rejected.advantage) == (1.0, -1.0)
    assert chosen.prompt_key == rejected.prompt_key


def test_of_a_pair_of_which_one_begins_the_other_one_token_stays(tmp_path: Path) -> None:
    path = write(tmp_path, {"question": "ab", "chosen": "c", "rejected": "cd"})
    chosen, rejected = opened(path, "pairwise").samples(0) or []
    assert (chosen.completion_ids, rejected.completion_ids) == ((ord("c"),), (ord("c"), ord("d")))


@pytest.mark.parametrize(("label", "worth"), [(1, 1.0), (0, -1.0), (True, 1.0), ("false", -1.0), ("1", 1.0)])
def test_labels_say_good_or_bad(tmp_path: Path, label: object, worth: float) -> None:
    path = write(tmp_path, {"question": "ab", "completion": "c", "label": label})
    (sample,) = opened(path, "pointwise").samples(0) or []
    assert sample.advantage == worth


def test_longer_samples_and_equal_pairs_are_counted_and_skipped(tmp_path: Path) -> None:
    rows = [{"question": "ab", "chosen": "c" * n, "rejected": "c"} for n in (200, 1, 5)]
    examples = opened(write(tmp_path, *rows), "pairwise")
    assert [examples.samples(i) is None for i in range(3)] == [True, True, False]
    assert examples.skipped == {"longer than 100 tokens": 1, "pairs of equal completions": 1}


def test_a_split_reads_every_row(tmp_path: Path) -> None:
    examples = opened(write(tmp_path, {"question": "a", "completion": "b"}, {"question": "c", "completion": " "}))
    with pytest.raises(DataError, match="column 'completion' must hold text"):
        examples.split(0.0)


def test_samples_of_one_question_are_never_on_both_sides(tmp_path: Path) -> None:
    rows = [{"question": f"question {i % 50}", "completion": str(i)} for i in range(500)]
    examples = opened(write(tmp_path, *rows))
    train, held_out = examples.split(0.2)
    assert sorted(train + held_out) == list(range(500))
    assert not {i % 50 for i in train} & {i % 50 for i in held_out}
    assert 0.05 < len(held_out) / 500 < 0.4
    assert examples.split(0.0)[1] == []


def test_parts_are_read_one_after_the_other(tmp_path: Path) -> None:
    path = write(tmp_path, {"question": "ab", "completion": "c"}, {"question": "ab", "completion": "d"})
    parts = [PartConfig(source="jsonl", name=path, size=1), PartConfig(source="jsonl", name=path)]
    assert Examples(DatasetConfig(parts=parts), "sft", encode=encode, max_tokens=9).size == 3
    parts[0].share = 2.0
    with pytest.raises(DataError, match="must have share 1 and no steps"):
        Examples(DatasetConfig(parts=parts), "sft", encode=encode, max_tokens=9)


@pytest.mark.parametrize(
    ("row", "kind", "message"),
    [
        ({"question": "q", "completio": "c"}, "sft", "no column 'completion': did you mean 'completio'"),
        ({"question": "q", "chosen": "c"}, "pairwise", "no column 'rejected'"),
        ({"question": "q", "completion": " "}, "sft", "column 'completion' must hold text, got ' '"),
        ({"question": "q", "completion": "c", "label": "maybe"}, "pointwise", "must hold 1 or 0 .* got 'maybe'"),
        ({"question": "q", "completion": "c" * 200}, "sft", "no example that can be used: 1 longer than 100 tokens"),
        ({"question": "q", "chosen": "c", "rejected": "c"}, "pairwise", "1 pairs of equal completions"),
    ],
)
def test_data_that_cannot_be_learned_from_is_refused(
    tmp_path: Path, row: dict, kind: ExampleKind, message: str
) -> None:
    with pytest.raises(DataError, match=message):
        opened(write(tmp_path, row), kind)


def test_a_held_out_part_of_nothing_is_refused(tmp_path: Path) -> None:
    examples = opened(write(tmp_path, {"question": "ab", "completion": "c"}))
    with pytest.raises(DataError, match=r"held_out_fraction=0\.001 leaves 1 examples to train on and 0 held out"):
        examples.split(0.001)


def test_endless_data_is_refused() -> None:
    with pytest.raises(DataError, match=r"data\.train must have an end"):
        Examples(DatasetConfig(name="arithmetic"), "sft", encode=encode, max_tokens=100)
