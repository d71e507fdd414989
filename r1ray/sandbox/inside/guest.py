"""What runs in a program's own process.

A `script` runs and is done. A `serve` defines the solution's functions and calls them as outside asks. A `test` runs
assertions about functions that live outside.
"""

from __future__ import annotations

import atexit
import builtins
import contextlib
import importlib
import io
import operator
import re
import sys
import threading
import typing
from typing import Any

from r1ray.sandbox.inside.frames import read_frame, write_frame
from r1ray.sandbox.inside.plain import Plain
from r1ray.sandbox.inside.remote import CHANNEL, Remote, text_of

RECURSION_LIMIT = 20_000
# What solutions import more often than the rest; the runner loads it while it waits, and forks get it for nothing.
USUAL_MODULES = (
    *("math", "collections", "heapq", "bisect", "itertools", "functools", "operator", "string", "copy", "random"),
    *("datetime", "statistics", "dataclasses", "array", "cmath", "textwrap", "hashlib", "enum", "abc", "time"),
)
_SOLUTION_CLASS = re.compile(r"^class\s+Solution\b", re.MULTILINE)
# Sites that ask for a class `Solution` import these for it, with every name of some.
_SITE_MODULES = (
    "math",
    "collections",
    "heapq",
    "bisect",
    "itertools",
    "functools",
    "operator",
    "string",
    "random",
    "re",
)
_SITE_NAMES = ("collections", "heapq", "bisect", "itertools", "functools", "math")


def _fresh_streams() -> None:
    sys.stdin = io.TextIOWrapper(io.BufferedReader(io.FileIO(0, closefd=False)), encoding="utf-8")
    sys.stdout = io.TextIOWrapper(io.BufferedWriter(io.FileIO(1, "w", closefd=False)), encoding="utf-8")
    errors = io.BufferedWriter(io.FileIO(2, "w", closefd=False))
    sys.stderr = io.TextIOWrapper(errors, encoding="utf-8", errors="backslashreplace", line_buffering=True)
    sys.__stdin__, sys.__stdout__, sys.__stderr__ = sys.stdin, sys.stdout, sys.stderr  # type: ignore[misc]


def _execute(source: str, name: str, prelude: dict[str, Any] | None = None) -> dict[str, Any]:
    """Run source as a module called `name`; returns its namespace."""
    module = type(sys)(name)
    module.__dict__.update(prelude or {})
    module.__dict__["__builtins__"] = builtins
    sys.modules[name] = module
    sys.argv = ["solution.py"]
    exec(compile(source, "solution.py", "exec", dont_inherit=True), module.__dict__)
    return module.__dict__


def script(case: dict[str, Any]) -> int:
    """Run the source as a program, with the end that an interpreter gives it."""
    _fresh_streams()
    _execute(case["source"], "__main__")
    finish()
    return 0


def finish() -> None:
    """Wait for threads and run exit handlers, as an interpreter does."""
    with contextlib.suppress(AttributeError):
        threading._shutdown()  # type: ignore[attr-defined]
        atexit._run_exitfuncs()


def serve(case: dict[str, Any]) -> int:
    """Define the solution's functions and call them as outside asks."""
    sys.setrecursionlimit(RECURSION_LIMIT)
    _fresh_streams()
    prelude = _prelude(case["source"])
    solution = Solution(_execute(case["source"], "solution", prelude))
    write_frame(CHANNEL, {"names": solution.names(prelude)})
    while (call := read_frame(CHANNEL)) is not None:
        write_frame(CHANNEL, solution.reply(call))
    return 0


def _prelude(source: str) -> dict[str, Any]:
    """Return names that solutions use without importing them."""
    names: dict[str, Any] = {name: getattr(typing, name) for name in typing.__all__}
    # Those which solutions define more often than they annotate with them.
    for name in ("Text", "Final", "final", "overload", "cast"):
        names.pop(name, None)
    if not _SOLUTION_CLASS.search(source):
        return names
    modules = {name: importlib.import_module(name) for name in _SITE_MODULES}
    for name in _SITE_NAMES:
        public = getattr(modules[name], "__all__", None) or [n for n in vars(modules[name]) if not n.startswith("_")]
        names |= {n: getattr(modules[name], n) for n in public}
    # `pow` of math would hide the one that takes a modulus.
    names.pop("pow", None)
    return names | modules | {"inf": float("inf")}


class Solution(Plain):
    """The solution's namespace and those of its objects that the tests hold."""

    def __init__(self, namespace: dict[str, Any]) -> None:
        self.namespace = namespace
        self.objects: list[Any] = []

    def names(self, prelude: dict[str, Any]) -> list[str]:
        """Return what the source itself has defined."""
        space = self.namespace
        return sorted(
            n for n in space if isinstance(n, str) and n[:2] != "__" and not (n in prelude and space[n] is prelude[n])
        )

    def reply(self, call: dict[str, Any]) -> dict[str, Any]:
        """Answer what outside asks, or say what was raised."""
        try:
            return self.answer(call)
        except BaseException as error:
            return {"error": type(error).__name__, "message": text_of(error)}

    def answer(self, call: dict[str, Any]) -> dict[str, Any]:
        """Do what outside asks: look something up, or call it."""
        found = self.fetch(call)
        if "operation" in call:
            key = [self.decode(value) for value in call["args"]]
            return {"value": self.encode(_OPERATIONS[call["operation"]](found, *key))}
        if "attribute" in call:
            found = getattr(found, call["attribute"])
        if "args" not in call:
            return {"value": self.encode(found)}
        arguments = [self.decode(value) for value in call["args"]]
        named = {key: self.decode(value) for key, value in call.get("kwargs", {}).items()}
        result = found(*arguments, **named)
        if hasattr(type(result), "__next__"):
            result = list(result)
        return {"value": self.encode(result), "args": [self.encode(a) for a in arguments]}

    def keep(self, value: Any) -> Any:
        """Hold on to what is not plain data; returns what stands for it."""
        self.objects.append(value)
        return {"$": "object", "v": len(self.objects) - 1}

    def fetch(self, target: Any) -> Any:
        """Return an object by its number; a function, or a method of a fresh `Solution`, by its name."""
        if "object" in target:
            return self.objects[target["object"]]
        name = target["name"]
        if name in self.namespace:
            return self.namespace[name]
        if "Solution" in self.namespace:
            return getattr(self.namespace["Solution"](), name)
        raise NameError(name + " is not defined")

    def function(self, number: int) -> Any:
        """Return a stand-in for a function of the tests."""
        return lambda *args: self.call_back(number, args)

    def call_back(self, number: int, args: tuple[Any, ...]) -> Any:
        """Call a function of the tests, which may in turn call functions of the solution."""
        message = {"callback": number, "args": [self.encode(a) for a in args]}
        while True:
            write_frame(CHANNEL, message)
            reply = read_frame(CHANNEL)
            if reply is None:
                raise SystemExit(1)
            if "returned" in reply:
                return self.decode(reply["returned"])
            if "raised" in reply:
                kind = getattr(builtins, reply["raised"], RuntimeError)
                raise kind(reply["message"])
            message = self.reply(reply)


_OPERATIONS: dict[str, Any] = {
    "str": str,
    "repr": repr,
    "len": len,
    "bool": bool,
    "list": list,
    "getitem": operator.getitem,
    "setitem": operator.setitem,
    "setattr": setattr,
}


def test(case: dict[str, Any]) -> int:
    """Run assertions about functions that live outside; say how they end."""
    sys.setrecursionlimit(RECURSION_LIMIT)
    _fresh_streams()
    prelude: dict[str, Any] = {name: importlib.import_module(name) for name in case["modules"]}
    prelude |= {name: getattr(importlib.import_module(module), name) for name, module in case["imports"].items()}
    prelude |= {name: Remote({"name": name}) for name in case["names"]}
    try:
        _run_tests(case["source"], prelude)
        verdict: dict[str, Any] = {"passed": True}
    except AssertionError as error:
        verdict = {"passed": False, "message": "assertion failed " + text_of(error)}
    except Exception as error:
        verdict = {"passed": False, "message": f"{type(error).__name__}: {text_of(error)}"}
    write_frame(CHANNEL, verdict)
    return 0


def _run_tests(source: str, prelude: dict[str, Any]) -> None:
    module = type(sys)("tests")
    module.__dict__.update(prelude)
    sys.modules["tests"] = module
    exec(compile(source, "tests.py", "exec", dont_inherit=True), module.__dict__)
