"""Compares what a solution gave with what was expected; runs outside the sandbox, on plain data."""

from __future__ import annotations

import json
import math
from collections import Counter
from typing import Any

from r1ray.rewards.code.problem import Checker

_RELATIVE, _ABSOLUTE = 1e-6, 1e-9
# Elements of a set that are compared each with each.
_TRIED_ELEMENTS = 500


def same_output(output: str, expected: str, checker: Checker) -> bool:
    """Compare two outputs of a program; white space at line ends and between words never counts."""
    if checker.kind == "unordered_lines":
        return _lines(output) == _lines(expected)
    got, wanted = output.split(), expected.split()
    if checker.kind == "tokens" or len(got) != len(wanted):
        return got == wanted
    return all(_same_word(a, b, checker.tolerance) for a, b in zip(got, wanted, strict=True))


def _lines(text: str) -> Counter[tuple[str, ...]]:
    return Counter(tuple(line.split()) for line in text.strip().splitlines())


def _same_word(got: str, wanted: str, tolerance: float) -> bool:
    if got == wanted:
        return True
    try:
        a, b = float(got), float(wanted)
    except ValueError:
        return False
    # Integers too long for a float are all infinite.
    if math.isinf(a) or math.isinf(b):
        return a == b and not any(character.isdigit() for character in got + wanted)
    return math.isclose(a, b, rel_tol=tolerance, abs_tol=tolerance)


def same_value(got: Any, expected: Any) -> bool:
    """Compare a result as the sandbox encoded it with an expected JSON value.

    Numbers compare by value, floats to six digits; tuples and lists alike; a set equals a list of the same elements;
    dictionary keys that are not text equal their JSON text.
    """
    if isinstance(got, dict):
        return _same_tagged(got["$"], got["v"], expected)
    if isinstance(got, list):
        return isinstance(expected, list) and _same_items(got, expected)
    if isinstance(got, bool) or isinstance(expected, bool) or got is None or expected is None:
        return got is expected
    if isinstance(got, int | float) and isinstance(expected, int | float):
        if isinstance(got, int) and isinstance(expected, int):
            return got == expected
        return math.isclose(got, expected, rel_tol=_RELATIVE, abs_tol=_ABSOLUTE)
    return type(got) is type(expected) and bool(got == expected)


def _same_tagged(kind: str, content: Any, expected: Any) -> bool:
    match kind:
        case "int":
            return same_value(int(content, 16), expected)
        case "fraction":
            return same_value(int(content[0], 16) / int(content[1], 16), expected)
        case "decimal":
            return same_value(float(content), expected)
        case "float":
            # NaN and infinity, which JSON text writes as Python does.
            return isinstance(expected, float) and str(expected) == str(float(content))
        case "tuple" | "list":
            return isinstance(expected, list) and _same_items(content, expected)
        case "set":
            return isinstance(expected, list) and _same_elements(content, expected)
        case "dict":
            return isinstance(expected, dict) and _same_entries(content, expected)
    return False


def _same_items(got: list[Any], expected: list[Any]) -> bool:
    return len(got) == len(expected) and all(same_value(a, b) for a, b in zip(got, expected, strict=True))


def _same_elements(got: list[Any], expected: list[Any]) -> bool:
    if len(got) != len(expected):
        return False
    # What is written alike is equal; only the rest, such as floats, is tried each with each.
    unmatched = Counter(json.dumps(element, sort_keys=True) for element in expected)
    rest = []
    for element in got:
        text = json.dumps(element, sort_keys=True)
        if unmatched[text] > 0:
            unmatched[text] -= 1
        else:
            rest.append(element)
    got, left = rest, [json.loads(text) for text in unmatched.elements()]
    if len(got) > _TRIED_ELEMENTS:
        return False
    for element in got:
        match = next((i for i, candidate in enumerate(left) if same_value(element, candidate)), None)
        if match is None:
            return False
        del left[match]
    return True


def _same_entries(got: list[list[Any]], expected: dict[str, Any]) -> bool:
    if len(got) != len(expected):
        return False
    for key, value in got:
        name = key if isinstance(key, str) else _key_text(key)
        if name not in expected or not same_value(value, expected[name]):
            return False
    return True


def _key_text(key: Any) -> str:
    if key is None or isinstance(key, bool):
        return {None: "null", True: "true", False: "false"}[key]
    return str(key)
