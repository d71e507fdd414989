from __future__ import annotations

import gzip
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from r1ray.config.data_sections import ColumnsConfig, DatasetConfig
from r1ray.data.embedded.arithmetic import arithmetic
from r1ray.data.records import Record
from r1ray.data.sources import generator_seed, open_source
from r1ray.errors import DataError

ROWS: list[dict[str, Any]] = [
    {"uid": "p-1", "problem": "What is 1 + 1?", "solution": 2, "kind": "math", "level": 1},
    {"uid": "p-2", "problem": "What is 2 * x?", "solution": 4, "kind": "text", "level": 2},
    {"uid": "p-3", "problem": "What is 3 - 1?", "solution": 6, "kind": "math", "level": 3},
]
COLUMNS = ColumnsConfig(question="problem", answer="solution", id="uid", task="kind", metadata=["level"])


def write_jsonl(directory: Path, rows: list[dict[str, Any]] = ROWS) -> DatasetConfig:
    path = directory / "rows.jsonl"
    path.write_text("\n".join(map(json.dumps, rows)) + "\n\n", encoding="utf-8")
    return DatasetConfig(source="jsonl", name=str(path), columns=COLUMNS)


def write_parquet(directory: Path, rows: list[dict[str, Any]] = ROWS) -> DatasetConfig:
    path = directory / "rows.parquet"
    pq.write_table(pa.Table.from_pylist(rows), path)
    return DatasetConfig(source="parquet", name=str(path), columns=COLUMNS)


def write_hf(directory: Path, rows: list[dict[str, Any]] = ROWS) -> DatasetConfig:
    import datasets

    splits = {"train": datasets.Dataset.from_list(rows), "test": datasets.Dataset.from_list(rows[:1])}
    datasets.DatasetDict(splits).save_to_disk(directory / "saved")
    return DatasetConfig(source="hf", name=str(directory / "saved"), columns=COLUMNS)


WRITERS = [write_jsonl, write_parquet, write_hf]


@pytest.mark.parametrize("write", WRITERS)
def test_table_columns_are_mapped(tmp_path: Path, write):
    source = open_source(write(tmp_path))
    assert source.size == 3
    assert source[1] == Record("p-2", "What is 2 * x?", "4", "text", {"level": 2})


@pytest.mark.parametrize("write", WRITERS)
def test_size_limits_rows(tmp_path: Path, write):
    config = write(tmp_path)
    config.size = 2
    source = open_source(config)
    assert source.size == 2
    assert source[1].prompt_id == "p-2"
    with pytest.raises(IndexError):
        source[2]
    config.size = 99
    assert open_source(config).size == 3


@pytest.mark.parametrize("write", WRITERS)
def test_missing_column_names_what_there_is_and_the_nearest(tmp_path: Path, write):
    config = write(tmp_path)
    config.columns = ColumnsConfig(question="Problems", answer=None)
    with pytest.raises(DataError, match=r"no column 'Problems': did you mean 'problem'\? \(columns: uid, problem,"):
        open_source(config)


@pytest.mark.parametrize("write", WRITERS)
def test_duplicate_id_is_an_error(tmp_path: Path, write):
    with pytest.raises(DataError, match="must be unique, got 'p-1' again in row 3"):
        open_source(write(tmp_path, [*ROWS, ROWS[0]]))


@pytest.mark.parametrize("write", WRITERS)
def test_missing_file_or_dataset_is_an_error(tmp_path: Path, write, monkeypatch: pytest.MonkeyPatch):
    import datasets

    monkeypatch.setattr(datasets.config, "HF_HUB_OFFLINE", True)
    config = write(tmp_path)
    config.name += "-gone"
    with pytest.raises(DataError, match=f"{config.source} dataset .*-gone' cannot be read"):
        open_source(config)


@pytest.mark.parametrize("write", WRITERS)
def test_empty_answer_names_row_and_remedy(tmp_path: Path, write):
    config = write(tmp_path, [ROWS[0], {**ROWS[1], "solution": None}])
    with pytest.raises(DataError, match=r"/train/1: column 'solution' is empty: .* set columns\.answer to null"):
        open_source(config)[1]


def test_without_columns_for_them_ids_are_rows_and_answers_none(tmp_path: Path):
    config = write_jsonl(tmp_path)
    config.columns = ColumnsConfig(question="problem", answer=None)
    assert open_source(config)[2] == Record("rows.jsonl/train/2", "What is 3 - 1?")


def test_jsonl_answers_may_mix_types(tmp_path: Path):
    config = write_jsonl(tmp_path, [ROWS[0], {**ROWS[1], "solution": "2x"}])
    source = open_source(config)
    assert [source[0].answer, source[1].answer] == ["2", "2x"]


def test_compressed_jsonl_and_file_urls_are_read(tmp_path: Path):
    path = tmp_path / "rows.jsonl.gz"
    path.write_bytes(gzip.compress(json.dumps(ROWS[0]).encode()))
    config = DatasetConfig(source="jsonl", name=f"file://{path}", columns=COLUMNS)
    assert open_source(config)[0].prompt_id == "p-1"


def test_memory_url_of_fsspec_is_read_as_parquet():
    import fsspec

    with fsspec.open("memory://rows.parquet", "wb") as file:
        pq.write_table(pa.Table.from_pylist(ROWS), file)
    config = DatasetConfig(source="parquet", name="memory://rows.parquet", columns=COLUMNS)
    assert open_source(config)[2].answer == "6"


def test_directory_of_parquet_files_is_one_dataset(tmp_path: Path):
    for number, row in enumerate(ROWS):
        pq.write_table(pa.Table.from_pylist([row]), tmp_path / f"{number}.parquet")
    source = open_source(DatasetConfig(source="parquet", name=str(tmp_path), columns=COLUMNS))
    assert [source[index].prompt_id for index in range(3)] == ["p-1", "p-2", "p-3"]


@pytest.mark.parametrize(
    ("line", "message"), [("{", "line 1 is not JSON"), ("[1]", "must hold a JSON object, got list")]
)
def test_bad_jsonl_line_is_an_error(tmp_path: Path, line: str, message: str):
    path = tmp_path / "bad.jsonl"
    path.write_text(line)
    with pytest.raises(DataError, match=message):
        open_source(DatasetConfig(source="jsonl", name=str(path)))


def test_empty_file_is_an_error(tmp_path: Path):
    path = tmp_path / "empty.jsonl"
    path.write_text("")
    with pytest.raises(DataError, match=r"has no column 'question' \(columns: none\)"):
        open_source(DatasetConfig(source="jsonl", name=str(path)))
    with pytest.raises(DataError, match="has no rows"):
        open_source(write_parquet_without_rows(tmp_path))


def write_parquet_without_rows(directory: Path) -> DatasetConfig:
    config = write_parquet(directory)
    pq.write_table(pq.read_table(config.name).slice(0, 0), config.name)
    return config


def test_not_parquet_is_an_error(tmp_path: Path):
    path = tmp_path / "rows.parquet"
    path.write_text("no parquet")
    with pytest.raises(DataError, match="cannot be read"):
        open_source(DatasetConfig(source="parquet", name=str(path)))


def test_saved_dataset_gives_the_asked_split(tmp_path: Path):
    config = write_hf(tmp_path)
    config.split = "test"
    assert open_source(config).size == 1
    config.split = "tests"
    with pytest.raises(DataError, match=r"no split 'tests': did you mean 'test'\? \(splits: train, test\)"):
        open_source(config)


def test_saved_single_dataset_is_read(tmp_path: Path):
    import datasets

    datasets.Dataset.from_list(ROWS).save_to_disk(tmp_path / "one")
    config = DatasetConfig(source="hf", name=str(tmp_path / "one"), columns=COLUMNS)
    assert open_source(config)[0].prompt_id == "p-1"


def test_embedded_source_yields_the_task():
    source = open_source(DatasetConfig(name="arithmetic", split="eval", seed=4))
    item = arithmetic(12, seed=4, split="eval")
    assert source.size is None
    assert source[12] == Record("arithmetic/eval/12", item.question, item.answer)


def test_embedded_source_passes_on_what_the_task_says_of_grading():
    record = open_source(DatasetConfig(name="bilingual_choices"))[1]
    assert (record.task, record.domain, record.metadata) == ("choice", "stem", {"target_language": "zh"})
    assert open_source(DatasetConfig(name="bilingual_choices", domain="logic"))[1].domain == "logic"


def test_unknown_embedded_task_or_split_is_an_error():
    with pytest.raises(DataError, match=r"must be one of arithmetic, .*word_problems_few_shot, got 'maths'"):
        open_source(DatasetConfig(name="maths"))
    with pytest.raises(DataError, match="split must be one of train, eval, got 'dev'"):
        open_source(DatasetConfig(name="arithmetic", split="dev"))


# reasoning_gym imports cellpylib, whose source has `is` comparisons with literals.
@pytest.mark.filterwarnings("ignore::SyntaxWarning")
class TestReasoningGym:
    def config(self, **changes: Any) -> DatasetConfig:
        return DatasetConfig(**{"source": "reasoning_gym", "name": "chain_sum", "size": 20, "seed": 7, **changes})

    def test_train_split_is_what_reasoning_gym_makes_itself(self):
        import reasoning_gym

        expected = reasoning_gym.create_dataset("chain_sum", size=20, seed=7, max_terms=3)[5]
        record = open_source(self.config(options={"max_terms": 3}))[5]
        assert (record.prompt_id, record.question, record.answer) == (
            "chain_sum/train/5",
            expected["question"],
            expected["answer"],
        )
        assert record.metadata["source_dataset"] == "chain_sum"

    def test_splits_start_far_apart(self):
        assert generator_seed(7, "train") == 7
        assert 2**29 <= generator_seed(0, "eval") < 2**31
        train, held_out = open_source(self.config()), open_source(self.config(split="eval"))
        assert {train[i].question for i in range(20)}.isdisjoint({held_out[i].question for i in range(20)})

    @pytest.mark.parametrize(
        ("changes", "message"),
        [
            ({"name": "chain_sums"}, r"no generator 'chain_sums': did you mean 'chain_sum'\?"),
            ({"size": None}, "size must be set"),
            ({"options": {"no_such": 1}}, "refuses its options: .*no_such"),
            ({"options": {"min_terms": 9, "max_terms": 2}}, "refuses its options"),
            ({"options": {"seed": 1}}, "options must not hold 'seed'"),
        ],
    )
    def test_impossible_generator_is_an_error(self, changes: dict[str, Any], message: str):
        with pytest.raises(DataError, match=message):
            open_source(self.config(**changes))

    def test_missing_gold_answer_is_an_error(self):
        source = open_source(self.config(name="countdown", size=2))
        source._items = [{"question": "q", "answer": None, "metadata": {}}] * 2
        with pytest.raises(DataError, match="countdown/train/1 has no gold answer"):
            source[1]


def test_data_package_imports_without_torch():
    heavy = "{'torch', 'transformers', 'datasets', 'pyarrow', 'ray', 'vllm', 'reasoning_gym'}"
    code = f"import sys, r1ray.data.cursor, r1ray.data.sources, r1ray.data.prompts; print({heavy} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=60)
    assert done.stdout.strip() == "set()"
