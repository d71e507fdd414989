"""The tests of a programming problem, as datasets bring them.

    {"kind": "stdio",    "cases": [{"stdin": "..", "stdout": ".."}], ...}
    {"kind": "function", "entry_point": "f", "cases": [{"args": [..], "expected": ..}], ...}
    {"kind": "asserts",  "code": "assert f(1) == 2", ...}

each with optional `time_limit_s` and `memory_limit_bytes` per case, and `checker` for stdio.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

from r1ray.errors import DataError

KINDS = ("stdio", "function", "asserts")
CHECKERS = ("tokens", "float", "unordered_lines", "program")
DEFAULT_TIME_LIMIT_S = 2.0
DEFAULT_MEMORY_LIMIT_BYTES = 1 << 28
_KEYS = {"kind", "cases", "entry_point", "code", "checker", "time_limit_s", "memory_limit_bytes"}


@dataclass(frozen=True, slots=True)
class Checker:
    """How the output of a program is compared with the expected one.

    Attributes:
        kind: `tokens`: same words; `float`: words that are numbers may differ by `tolerance`, absolutely or
            relatively; `unordered_lines`: same lines in any order; `program`: `code` decides, see `judge.py`.
        tolerance: for `float`.
        code: Python source of a checker program.
    """

    kind: Literal["tokens", "float", "unordered_lines", "program"] = "tokens"
    tolerance: float = 1e-6
    code: str = ""


@dataclass(frozen=True, slots=True)
class StdioCase:
    """Input and expected output of a program."""

    stdin: str
    stdout: str


@dataclass(frozen=True, slots=True)
class FunctionCase:
    """Arguments and expected result of a function, as JSON values."""

    args: Sequence[Any]
    expected: Any


@dataclass(frozen=True, slots=True)
class CodeTests:
    """All tests of one problem.

    Attributes:
        kind: `stdio`, `function` or `asserts`.
        cases: of the first two kinds.
        entry_point: the function, or the method of a class `Solution`.
        code: the assertions.
        checker: for `stdio`.
        time_limit_s: processor time of one case; of all assertions together.
        memory_limit_bytes: of one case.
    """

    kind: Literal["stdio", "function", "asserts"]
    cases: tuple[StdioCase | FunctionCase, ...] = ()
    entry_point: str = ""
    code: str = ""
    checker: Checker = Checker()
    time_limit_s: float = DEFAULT_TIME_LIMIT_S
    memory_limit_bytes: int = DEFAULT_MEMORY_LIMIT_BYTES


def parse_tests(raw: Any) -> CodeTests:
    """Read the `tests` of a problem, a mapping or JSON text of one.

    Raises:
        DataError: what is wrong with them.
    """
    if isinstance(raw, str):
        try:
            raw = json.loads(raw)
        except ValueError as error:
            raise DataError(f"tests must be a JSON object, got text that is not JSON: {error}") from error
    if not isinstance(raw, Mapping):
        raise DataError(f"tests must be a JSON object with a kind, got {type(raw).__name__}")
    unknown = sorted(set(raw) - _KEYS)
    if unknown:
        raise DataError(f"tests may have {', '.join(sorted(_KEYS))}, got {unknown[0]!r}")
    kind = raw.get("kind")
    if kind not in KINDS:
        raise DataError(f"tests.kind must be one of {', '.join(KINDS)}, got {kind!r}")
    limited = CodeTests(
        kind=kind,
        time_limit_s=_positive(raw, "time_limit_s", DEFAULT_TIME_LIMIT_S),
        memory_limit_bytes=int(_positive(raw, "memory_limit_bytes", DEFAULT_MEMORY_LIMIT_BYTES)),
    )
    if kind == "asserts":
        return replace(limited, code=_text(raw, "code"))
    cases = raw.get("cases")
    if not isinstance(cases, Sequence) or isinstance(cases, str) or not cases:
        raise DataError(f"tests.cases must be a list of at least one case, got {cases!r:.60}")
    if kind == "stdio":
        parsed = tuple(StdioCase(_text(case, "stdin"), _text(case, "stdout")) for case in cases)
        return replace(limited, cases=parsed, checker=_checker(raw.get("checker")))
    functions = tuple(FunctionCase(_args(case), _field(case, "expected")) for case in cases)
    return replace(limited, cases=functions, entry_point=_text(raw, "entry_point"))


def _field(mapping: Any, name: str) -> Any:
    if not isinstance(mapping, Mapping) or name not in mapping:
        raise DataError(f"tests: {name} is missing in {mapping!r:.60}")
    return mapping[name]


def _text(mapping: Any, name: str) -> str:
    value = _field(mapping, name)
    if not isinstance(value, str):
        raise DataError(f"tests: {name} must be text, got {value!r:.60}")
    return value


def _args(case: Any) -> Sequence[Any]:
    value = _field(case, "args")
    if not isinstance(value, Sequence) or isinstance(value, str):
        raise DataError(f"tests: args must be a list, got {value!r:.60}")
    return list(value)


def _positive(raw: Mapping[str, Any], name: str, default: float) -> float:
    value = raw.get(name)
    if value is None:
        return default
    if isinstance(value, bool) or not isinstance(value, int | float) or not value > 0:
        raise DataError(f"tests.{name} must be a number > 0, got {value!r}")
    return float(value)


def _checker(raw: Any) -> Checker:
    if raw is None:
        return Checker()
    if isinstance(raw, str):
        raw = {"kind": raw}
    kind = _text(raw, "kind")
    if kind not in CHECKERS:
        raise DataError(f"tests.checker.kind must be one of {', '.join(CHECKERS)}, got {kind!r}")
    tolerance = _positive(raw, "tolerance", Checker().tolerance)
    return Checker(kind, tolerance, _text(raw, "code") if kind == "program" else "")  # type: ignore[arg-type]
