"""Reading problems and programs, and comparing outputs: no sandbox needed."""

from typing import Any

import pytest

from r1ray.errors import DataError
from r1ray.rewards.code.compare import same_output
from r1ray.rewards.code.extract import extract_program
from r1ray.rewards.code.problem import Checker, parse_tests


@pytest.mark.parametrize(
    ("completion", "expected"),
    [
        ("```python\nprint(1)\n```", "print(1)\n"),
        ("```python\nprint(1)\n```\nBetter:\n```py\nprint(2)\n```\nDone.", "print(2)\n"),
        ("<think>```python\nprint(1)\n```</think>```\nprint(2)\n```", "print(2)\n"),
        ("<think>```python\nprint(1)\n```</think>I give up.", None),
        ("<answer>```python\nprint(3)\n```</answer>", "print(3)\n"),
        ("```python\nprint('never closed')", "print('never closed')"),
        ("def f():\n    return 1", "def f():\n    return 1"),
        ("The answer is 3.", None),
    ],
)
def test_the_last_program_after_the_thinking_counts(completion: str, expected: str | None) -> None:
    found = extract_program(completion, language="python")
    assert (found and found[0]) == expected


def test_a_problem_in_any_language_takes_the_label_of_the_block() -> None:
    assert extract_program("```cpp\nint main() {}\n```", language="any") == ("int main() {}\n", "c++")
    assert extract_program("```cpp\nint main() {}\n```", language="C++17") == ("int main() {}\n", "c++")


@pytest.mark.parametrize(
    ("tests", "fault"),
    [
        ([], "JSON object"),
        ("{", "not JSON"),
        ({"kind": "magic"}, "tests.kind must be one of stdio, function, asserts"),
        ({"kind": "stdio", "cases": []}, "at least one case"),
        ({"kind": "stdio", "cases": [{"stdin": "1"}]}, "stdout is missing"),
        ({"kind": "stdio", "cases": [{"stdin": 1, "stdout": "1"}]}, "stdin must be text"),
        ({"kind": "function", "cases": [{"args": [1], "expected": 1}]}, "entry_point is missing"),
        ({"kind": "function", "entry_point": "f", "cases": [{"args": 1, "expected": 1}]}, "args must be a list"),
        ({"kind": "asserts", "code": "", "time_limit_s": 0}, "time_limit_s must be a number > 0"),
        ({"kind": "asserts", "code": "", "timeout": 3}, "'timeout'"),
        ({"kind": "stdio", "cases": [{"stdin": "", "stdout": ""}], "checker": "magic"}, "checker.kind"),
    ],
)
def test_tests_that_cannot_be_used_are_named(tests: Any, fault: str) -> None:
    with pytest.raises(DataError, match=fault):
        parse_tests(tests)


@pytest.mark.parametrize(
    ("output", "expected", "checker", "same"),
    [
        ("1 2\n3\n", "1 2 3", Checker(), True),
        ("1 2\n", "1 3", Checker(), False),
        ("1.0", "1", Checker(), False),
        ("0.33333333", "0.3333333", Checker("float"), True),
        ("0.3334", "0.3333", Checker("float"), False),
        ("nan", "1", Checker("float"), False),
        ("b\na\n", "a\nb", Checker("unordered_lines"), True),
        ("a\na\n", "a", Checker("unordered_lines"), False),
    ],
)
def test_outputs_compare_as_the_checker_says(output: str, expected: str, checker: Checker, same: bool) -> None:
    assert same_output(output, expected, checker) is same
