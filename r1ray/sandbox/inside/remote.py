"""Stand-ins, in the process of the tests, for the functions and objects of a solution that runs elsewhere."""

from __future__ import annotations

import builtins
import json
from collections.abc import Iterator, Sequence
from typing import Any, ClassVar

from r1ray.sandbox.inside.frames import read_frame, write_frame
from r1ray.sandbox.inside.plain import Plain

CHANNEL = 3
# Raised by a solution, these would end a loop of the tests instead of failing them.
_LOOP_ENDS = ("StopIteration", "StopAsyncIteration")


class RemoteError(Exception):
    """Something that a solution raised and that has no built-in name."""


class Remote:
    """Stands in the tests for a function or an object of the solution.

    Two of them are equal if they are the same thing: what the solution says of its objects' equality does not count,
    nor does their order or arithmetic. Their text, length, elements and attributes are fetched.
    """

    def __init__(self, target: dict[str, Any]) -> None:
        self.__dict__["_target"] = target

    def __getattr__(self, attribute: str) -> Any:
        # The language's own protocols, copying among them, must not find what is not defined below.
        if attribute.startswith("__"):
            raise AttributeError(attribute)
        return _ask({**self._target, "attribute": attribute})

    def __setattr__(self, attribute: str, value: Any) -> None:
        self._operate("setattr", attribute, value)

    def __setitem__(self, key: Any, value: Any) -> None:
        self._operate("setitem", key, value)

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """Call it there."""
        plain = RemotePlain()
        call = {
            **self._target,
            "args": [plain.encode(a) for a in args],
            "kwargs": {key: plain.encode(value) for key, value in kwargs.items()},
        }
        return _ask(call, args)

    def _operate(self, operation: str, *args: Any) -> Any:
        plain = RemotePlain()
        return _ask({**self._target, "operation": operation, "args": [plain.encode(a) for a in args]})

    def __str__(self) -> str:
        return str(self._operate("str"))

    def __repr__(self) -> str:
        return str(self._operate("repr"))

    def __len__(self) -> int:
        return int(self._operate("len"))

    def __bool__(self) -> bool:
        return bool(self._operate("bool"))

    def __getitem__(self, key: Any) -> Any:
        return self._operate("getitem", key)

    def __iter__(self) -> Iterator[Any]:
        return iter(self._operate("list"))

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Remote) and other._target == self._target

    def __hash__(self) -> int:
        return hash(json.dumps(self._target))


class RemotePlain(Plain):
    """Encoding in the tests, where objects are the solution's and functions are the tests' own."""

    functions: ClassVar[list[Any]] = []  # one process has one set of tests

    def keep(self, value: Any) -> Any:
        """Return what stands for an object of the solution, or for a function of the tests."""
        if isinstance(value, Remote):
            return {"$": "object", "v": value._target}
        if callable(value):
            self.functions.append(value)
            return {"$": "function", "v": len(self.functions) - 1}
        raise TypeError(
            f"tests can pass plain data, functions and the solution's own objects, not {type(value).__name__}"
        )

    def fetch(self, target: Any) -> Any:
        """Return a stand-in for an object of the solution."""
        return Remote({"object": int(target)})


def _ask(call: dict[str, Any], args: Sequence[Any] = ()) -> Any:
    """Have the solution do something; meanwhile it may call functions of the tests."""
    message = {"call": call}
    while True:
        write_frame(CHANNEL, message)
        reply = read_frame(CHANNEL)
        if reply is None:
            raise RemoteError("the solution is gone")
        if "callback" not in reply:
            break
        message = _called_back(reply)
    if "error" in reply:
        raise _exception(str(reply["error"]), str(reply.get("message", "")))
    plain = RemotePlain()
    for argument, changed in zip(args, reply.get("args", ()), strict=False):
        _take_over(argument, plain.decode(changed))
    return plain.decode(reply["value"])


def _called_back(reply: dict[str, Any]) -> dict[str, Any]:
    plain = RemotePlain()
    try:
        function = plain.functions[reply["callback"]]
        returned = function(*[plain.decode(value) for value in reply["args"]])
        return {"call": {"returned": plain.encode(returned)}}
    except Exception as error:
        return {"call": {"raised": type(error).__name__, "message": text_of(error)}}


def _exception(name: str, message: str) -> Exception:
    if name in _LOOP_ENDS:
        return RuntimeError(f"the solution raised {name}")
    known = getattr(builtins, name, None)
    fits = isinstance(known, type) and issubclass(known, Exception)
    try:
        return known(message) if isinstance(known, type) and fits else RemoteError(f"{name}: {message}")
    except TypeError:
        # UnicodeDecodeError and its like take more than a message.
        return RemoteError(f"{name}: {message}")


def _take_over(argument: Any, changed: Any) -> None:
    """Give a mutable argument the content that the solution left in it."""
    if isinstance(argument, list) and isinstance(changed, list):
        argument[:] = changed
    elif isinstance(argument, (dict, set)) and isinstance(changed, type(argument)):
        argument.clear()
        argument.update(changed)


def text_of(error: BaseException) -> str:
    """Return an exception's message, which may fail in any way."""
    try:
        return str(error)[:500]
    except BaseException:
        return ""
