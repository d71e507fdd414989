"""Turns values into JSON and back, in a program's own process.

Scalars and lists are themselves, everything else is {"$": type, "v": content}. Subclasses of plain types are read
through the base class, so that what they claim of themselves does not count.
"""

from __future__ import annotations

import builtins
import collections
import decimal
import fractions
import math
from typing import Any

MAX_DEPTH = 200
SEQUENCES: tuple[tuple[Any, str | None], ...] = (
    (list, None),
    (tuple, "tuple"),
    (set, "set"),
    (frozenset, "set"),
    (collections.deque, "list"),
)


class Plain:
    """Both sides; they differ in what they do with values that are not plain data."""

    def encode(self, value: Any, depth: int = 0) -> Any:
        """Return JSON for a value."""
        if depth > MAX_DEPTH:
            raise ValueError("the value is nested too deeply")
        kind = type(value)
        if value is None or kind is bool:
            return value
        if isinstance(value, int):
            number = int.__index__(value)
            # JSON readers may not keep more than 53 bits.
            return {"$": "int", "v": format(number, "x")} if abs(number) >> 53 else number
        if isinstance(value, float):
            real = float.__float__(value)
            return real if math.isfinite(real) else {"$": "float", "v": repr(real)}
        if isinstance(value, str):
            return str.__str__(value).encode("utf-8", "surrogatepass").decode("utf-8", "replace")
        for base, name in SEQUENCES:
            if isinstance(value, base):
                items = [self.encode(item, depth + 1) for item in base.__iter__(value)]
                return items if name is None else {"$": name, "v": items}
        if isinstance(value, dict):
            items = [[self.encode(k, depth + 1), self.encode(v, depth + 1)] for k, v in dict.items(value)]
            return {"$": "dict", "v": items}
        return self.encode_rare(value)

    def encode_rare(self, value: Any) -> Any:
        """Return JSON for what few solutions return."""
        kind = type(value)
        if kind in (bytes, bytearray):
            return {"$": "bytes", "v": value.hex()}
        if kind is complex:
            return {"$": "complex", "v": [value.real, value.imag]}
        if kind is fractions.Fraction:
            return {"$": "fraction", "v": [format(value.numerator, "x"), format(value.denominator, "x")]}
        if kind is decimal.Decimal:
            return {"$": "decimal", "v": str(value)}
        if kind is range:
            return {"$": "range", "v": [value.start, value.stop, value.step]}
        name = getattr(value, "__name__", None)
        if type(name) is str and value is getattr(builtins, name, None):
            return {"$": "builtin", "v": name}
        return self.keep(value)

    def keep(self, value: Any) -> Any:
        """Return what stands for a value that is not plain data."""
        raise NotImplementedError

    def fetch(self, target: Any) -> Any:
        """Return what `keep` of the other side called an object of the solution."""
        raise NotImplementedError

    def function(self, number: int) -> Any:
        """Return a stand-in for a function of the tests."""
        raise TypeError("a solution cannot pass functions of the tests")

    def decode(self, value: Any) -> Any:
        """Return the value that JSON stands for."""
        if isinstance(value, list):
            return [self.decode(item) for item in value]
        if not isinstance(value, dict):
            return value
        kind, content = value["$"], value["v"]
        match kind:
            case "dict":
                return {self.decode(k): self.decode(v) for k, v in content}
            case "list" | "tuple" | "set":
                items = [self.decode(item) for item in content]
                return items if kind == "list" else tuple(items) if kind == "tuple" else set(items)
            case "object":
                return self.fetch(content)
            case "function":
                return self.function(content)
        return _decode_rare(kind, content)


def _decode_rare(kind: str, content: Any) -> Any:
    match kind:
        case "int":
            return int(content, 16)
        case "float":
            return float(content)
        case "bytes":
            return bytes.fromhex(content)
        case "complex":
            return complex(*content)
        case "fraction":
            return fractions.Fraction(int(content[0], 16), int(content[1], 16))
        case "decimal":
            return decimal.Decimal(content)
        case "range":
            return range(*content)
        case "builtin":
            return getattr(builtins, content)
    raise TypeError(f"no value of kind {kind!r:.40}")
