"""What runs in a program's own process inside the sandbox, and the frames it talks in.

A `script` runs and is done. A `serve` defines the solution's functions and calls them as outside asks. A `test` runs
assertions about functions that live outside. Knows the standard library only; see `runner.py`.
"""

from __future__ import annotations

import builtins
import collections
import importlib
import io
import json
import math
import os
import struct
import sys
from collections.abc import Sequence
from typing import Any

# Solutions import these more often than others; forks get them for nothing.
for _name in ("bisect", "copy", "dataclasses", "datetime", "decimal", "fractions", "functools", "heapq", "itertools"):
    importlib.import_module(_name)
for _name in ("operator", "random", "re", "statistics", "string", "typing"):
    importlib.import_module(_name)

HEADER = struct.Struct(">I")
MAX_FRAME_BYTES = 1 << 26
CHANNEL = 3
MAX_DEPTH = 200
RECURSION_LIMIT = 20_000


def encode_frame(value: Any) -> bytes:
    """Return one frame."""
    body = json.dumps(value).encode()
    return HEADER.pack(len(body)) + body


def take_frames(buffer: bytearray) -> list[Any]:
    """Take all whole frames off the front of a buffer.

    Raises:
        ValueError: what stands there is no frame.
    """
    frames = []
    while len(buffer) >= HEADER.size:
        size = HEADER.unpack_from(buffer)[0]
        if size > MAX_FRAME_BYTES:
            raise ValueError("the frame is too long")
        if len(buffer) < HEADER.size + size:
            break
        frames.append(json.loads(bytes(buffer[HEADER.size : HEADER.size + size])))
        del buffer[: HEADER.size + size]
    return frames


def write_frame(descriptor: int, value: Any) -> None:
    """Write one frame."""
    rest = memoryview(encode_frame(value))
    while rest:
        rest = rest[os.write(descriptor, rest) :]


def read_frame(descriptor: int) -> Any:
    """Read one frame; None at the end, or where it is not one."""
    header = _read(descriptor, HEADER.size)
    size = HEADER.unpack(header)[0] if header else MAX_FRAME_BYTES + 1
    body = _read(descriptor, size) if size <= MAX_FRAME_BYTES else None
    try:
        return None if body is None else json.loads(body)
    except (ValueError, RecursionError):
        return None


def _read(descriptor: int, size: int) -> bytes | None:
    got = bytearray()
    while len(got) < size:
        try:
            piece = os.read(descriptor, min(size - len(got), 1 << 20))
        except OSError:
            return None
        if not piece:
            return None
        got += piece
    return bytes(got)


def _fresh_streams() -> None:
    sys.stdin = io.TextIOWrapper(io.BufferedReader(io.FileIO(0, closefd=False)), encoding="utf-8")
    sys.stdout = io.TextIOWrapper(io.BufferedWriter(io.FileIO(1, "w", closefd=False)), encoding="utf-8")
    sys.stderr = io.TextIOWrapper(io.BufferedWriter(io.FileIO(2, "w", closefd=False)), encoding="utf-8")


def _execute(source: str, name: str) -> dict[str, Any]:
    """Run source as a module called `name`; returns its namespace."""
    module = type(sys)(name)
    module.__dict__["__builtins__"] = builtins
    sys.modules[name] = module
    sys.argv = ["solution.py"]
    exec(compile(source, "solution.py", "exec"), module.__dict__)
    return module.__dict__


def script(case: dict[str, Any]) -> int:
    """Run the source as a program."""
    _fresh_streams()
    _execute(case["source"], "__main__")
    return 0


def serve(case: dict[str, Any]) -> int:
    """Define the solution's functions and call them as outside asks."""
    sys.setrecursionlimit(RECURSION_LIMIT)
    _fresh_streams()
    plain = Plain()
    namespace = _execute(case["source"], "solution")
    write_frame(CHANNEL, {"names": sorted(n for n in namespace if isinstance(n, str) and not n.startswith("__"))})
    while (call := read_frame(CHANNEL)) is not None:
        try:
            reply = _answer(call, namespace, plain)
        except BaseException as error:
            reply = {"error": type(error).__name__, "message": text_of(error)}
        write_frame(CHANNEL, reply)
    return 0


def _answer(call: dict[str, Any], namespace: dict[str, Any], plain: Plain) -> dict[str, Any]:
    """Do what outside asks: look something up, or call it."""
    found = plain.objects[call["object"]] if "object" in call else _find(namespace, call["name"])
    if "attribute" in call:
        found = getattr(found, call["attribute"])
    if "args" not in call:
        return {"value": plain.encode(found)}
    arguments = [plain.decode(value) for value in call["args"]]
    named = {key: plain.decode(value) for key, value in call.get("kwargs", {}).items()}
    result = found(*arguments, **named)
    if hasattr(type(result), "__next__"):
        result = list(result)
    return {"value": plain.encode(result), "args": [plain.encode(a) for a in arguments]}


def test(case: dict[str, Any]) -> int:
    """Run assertions about functions that live outside; say how they end."""
    sys.setrecursionlimit(RECURSION_LIMIT)
    _fresh_streams()
    module = type(sys)("tests")
    sys.modules["tests"] = module
    for name in case["names"]:
        module.__dict__[name] = Remote({"name": name})
    try:
        exec(compile(case["source"], "tests.py", "exec"), module.__dict__)
        verdict: dict[str, Any] = {"passed": True}
    except AssertionError as error:
        verdict = {"passed": False, "message": "assertion failed " + text_of(error)}
    except Exception as error:
        verdict = {"passed": False, "message": f"{type(error).__name__}: {text_of(error)}"}
    write_frame(CHANNEL, verdict)
    return 0


class RemoteError(Exception):
    """Something that a solution raised and that has no built-in name."""


class Remote:
    """Stands in the tests for a function or an object of the solution.

    Two of them are equal if they are the same thing: what the solution says of its objects' equality does not count.
    """

    def __init__(self, target: dict[str, Any]) -> None:
        self.__dict__["_target"] = target

    def __getattr__(self, attribute: str) -> Any:
        if attribute.startswith("__"):
            raise AttributeError(attribute)
        return self._ask({**self._target, "attribute": attribute})

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """Call it outside."""
        plain = RemotePlain()
        call = {
            **self._target,
            "args": [plain.encode(a) for a in args],
            "kwargs": {key: plain.encode(value) for key, value in kwargs.items()},
        }
        return self._ask(call, args)

    def _ask(self, call: dict[str, Any], args: Sequence[Any] = ()) -> Any:
        write_frame(CHANNEL, {"call": call})
        reply = read_frame(CHANNEL)
        if reply is None:
            raise RemoteError("the solution is gone")
        if "error" in reply:
            known = getattr(builtins, str(reply["error"]), None)
            fits = isinstance(known, type) and issubclass(known, Exception)
            kind: type[Exception] = known if isinstance(known, type) and fits else RemoteError
            raise kind(reply.get("message", ""))
        plain = RemotePlain()
        for argument, changed in zip(args, reply.get("args", ()), strict=False):
            _take_over(argument, plain.decode(changed))
        return plain.decode(reply["value"])

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Remote) and other._target == self._target

    def __hash__(self) -> int:
        return hash(json.dumps(self._target))


def _take_over(argument: Any, changed: Any) -> None:
    """Give a mutable argument the content that the solution left in it."""
    if isinstance(argument, list) and isinstance(changed, list):
        argument[:] = changed
    elif isinstance(argument, (dict, set)) and isinstance(changed, type(argument)):
        argument.clear()
        argument.update(changed)


def _find(namespace: dict[str, Any], name: str) -> Any:
    """Return a function, or a method of a fresh `Solution`."""
    if name in namespace:
        return namespace[name]
    if "Solution" in namespace:
        return getattr(namespace["Solution"](), name)
    raise NameError(name + " is not defined")


def text_of(error: BaseException) -> str:
    """Return an exception's message, which may fail in any way."""
    try:
        return str(error)[:500]
    except BaseException:
        return ""


SEQUENCES: tuple[tuple[Any, str | None], ...] = (
    (list, None),
    (tuple, "tuple"),
    (set, "set"),
    (frozenset, "set"),
    (collections.deque, "list"),
)


class Plain:
    """Turns values into JSON and back; what is not plain data stays here and travels as a number.

    Subclasses of plain types are read through the base class, so that what they claim of themselves does not count.
    """

    def __init__(self) -> None:
        self.objects: list[Any] = []

    def encode(self, value: Any, depth: int = 0) -> Any:
        """Return JSON for a value: scalars and lists as they are, others as {"$": type, ...}."""
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
        if isinstance(value, (bytes, bytearray)):
            return {"$": "bytes", "v": bytes(value).hex()}
        if isinstance(value, complex):
            return {"$": "complex", "v": [value.real, value.imag]}
        return self.keep(value)

    def keep(self, value: Any) -> Any:
        """Hold on to what is not plain data; returns what stands for it."""
        self.objects.append(value)
        return {"$": "object", "v": len(self.objects) - 1}

    def decode(self, value: Any) -> Any:
        """Return the value that JSON stands for."""
        if isinstance(value, list):
            return [self.decode(item) for item in value]
        if not isinstance(value, dict):
            return value
        kind, content = value["$"], value["v"]
        if kind == "dict":
            return {self.decode(k): self.decode(v) for k, v in content}
        if kind in ("list", "tuple", "set"):
            items = [self.decode(item) for item in content]
            return items if kind == "list" else tuple(items) if kind == "tuple" else set(items)
        if kind == "object":
            return self.fetch(content)
        if kind == "int":
            return int(content, 16)
        if kind == "float":
            return float(content)
        return bytes.fromhex(content) if kind == "bytes" else complex(*content)

    def fetch(self, number: int) -> Any:
        """Return what was kept under a number."""
        return self.objects[number]


class RemotePlain(Plain):
    """The same in the tests, where objects are the solution's."""

    def keep(self, value: Any) -> Any:
        """Return what stands for an object of the solution."""
        if isinstance(value, Remote) and "object" in value._target:
            return {"$": "object", "v": value._target["object"]}
        raise TypeError(f"tests can pass plain data and the solution's own objects, not {type(value).__name__}")

    def fetch(self, number: int) -> Any:
        """Return a stand-in for an object of the solution."""
        return Remote({"object": number})
