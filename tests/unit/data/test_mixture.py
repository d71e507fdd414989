"""A mixture of datasets: shares, steps, going on where it stopped."""

from collections import Counter
from pathlib import Path

import pytest

from r1ray.config.data_sections import DatasetConfig, PartConfig
from r1ray.config.schema import TemplateConfig
from r1ray.data.mixture import Cursor, open_cursor
from r1ray.data.prompts import PromptBuilder
from r1ray.data.sources import open_source
from r1ray.errors import DataError
from r1ray.models.locate import locate_model
from r1ray.models.tokenizer import load_tokenizer


@pytest.fixture(scope="module")
def builder() -> PromptBuilder:
    return PromptBuilder(load_tokenizer(locate_model("embedded")), TemplateConfig("plain"), 64)


def mixture(*parts: PartConfig) -> DatasetConfig:
    return DatasetConfig(parts=list(parts))


def part(domain: str, share: float, **window: int) -> PartConfig:
    return PartConfig(name="arithmetic", size=7, domain=domain, share=share, **window)


def cursor_of(builder: PromptBuilder, *parts: PartConfig) -> Cursor:
    return open_cursor(mixture(*parts), builder, seed=3, shuffle=True)


def domains(cursor: Cursor, n: int, **step: int) -> Counter[str]:
    return Counter(prompt.domain for prompt in cursor.take(n, **step))


def test_every_stretch_of_prompts_holds_each_part_by_its_share(builder: PromptBuilder) -> None:
    cursor = cursor_of(builder, part("a", 3.0), part("b", 1.0))
    for _ in range(5):
        assert domains(cursor, 8) == {"a": 6, "b": 2}


def test_shares_that_do_not_divide_the_step_even_out_over_steps(builder: PromptBuilder) -> None:
    cursor = cursor_of(builder, part("a", 0.5), part("b", 0.3), part("c", 0.2))
    total: Counter[str] = Counter()
    for _ in range(10):
        total += domains(cursor, 3)
    assert total == {"a": 15, "b": 9, "c": 6}


def test_a_part_counts_only_within_its_steps(builder: PromptBuilder) -> None:
    cursor = cursor_of(builder, part("a", 1.0), part("b", 1.0, from_step=4, until_step=6))
    assert domains(cursor, 4, step=3) == {"a": 4}
    assert domains(cursor, 4, step=4) == {"a": 2, "b": 2}
    assert domains(cursor, 4, step=6) == {"a": 4}


def test_a_restored_mixture_goes_on_as_if_it_had_never_stopped(builder: PromptBuilder) -> None:
    parts = (part("a", 2.0), part("b", 1.0))
    unbroken = cursor_of(builder, *parts)
    unbroken.take(5)
    state = unbroken.state()
    expected = unbroken.take(20)
    again = cursor_of(builder, *parts)
    again.restore(state)
    assert again.take(20) == expected


def test_a_step_without_any_part_is_an_error(builder: PromptBuilder) -> None:
    with pytest.raises(DataError, match=r"no part of data\.train applies to step 0"):
        cursor_of(builder, part("a", 1.0, from_step=1)).take(1, step=0)


def test_a_place_of_other_parts_is_refused(builder: PromptBuilder) -> None:
    state = cursor_of(builder, part("a", 1.0)).state()
    with pytest.raises(DataError, match="has 1 parts, the config's 2"):
        cursor_of(builder, part("a", 1.0), part("b", 1.0)).restore(state)
    plain = open_cursor(DatasetConfig(name="arithmetic", size=7), builder, seed=3, shuffle=True).state()
    with pytest.raises(DataError, match="has no parts, the config's 1"):
        cursor_of(builder, part("a", 1.0)).restore(plain)
    with pytest.raises(DataError, match="data seed is None"):
        open_cursor(DatasetConfig(name="arithmetic", size=7), builder, seed=3, shuffle=True).restore(state)


def test_an_evaluation_reads_all_parts_one_after_the_other() -> None:
    source = open_source(mixture(part("a", 1.0), part("b", 5.0)))
    assert source.size == 14
    assert [source[index].domain for index in (0, 6, 7, 13)] == ["a", "a", "b", "b"]
    with pytest.raises(IndexError):
        source[14]


def test_an_endless_part_makes_a_mixture_endless() -> None:
    source = open_source(mixture(part("a", 1.0), PartConfig(name="arithmetic")))
    assert source.size is None
    with pytest.raises(DataError, match="every part must have an end"):
        source[0]


def test_a_part_that_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"nowhere\.jsonl"):
        open_source(mixture(PartConfig(source="jsonl", name=str(tmp_path / "nowhere.jsonl"))))
