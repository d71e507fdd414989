"""From a reward's name in the config to the function that judges.

A short name is one of ours; `module:function` is the user's. Imports neither sympy nor ray, so that names,
options and tasks are checked before anything heavy starts.
"""

from __future__ import annotations

import difflib
import functools
import importlib
import inspect
import math
from collections.abc import Callable, Iterable, Sequence
from typing import Any, cast

from r1ray.config.schema import RewardsConfig, RewardTerm
from r1ray.errors import ConfigError
from r1ray.rewards.accuracy import AccuracyReward, check_task
from r1ray.rewards.control import RandomReward
from r1ray.rewards.format import FormatReward
from r1ray.rewards.protocol import Reward

# Keyword arguments that a reward takes from RewardsConfig and not from its own options.
_FROM_CONFIG: dict[str, tuple[str, ...]] = {"accuracy": ("time_limit_s", "memory_limit_bytes")}
_OURS: dict[str, Callable[..., Reward]] = {"accuracy": AccuracyReward, "format": FormatReward, "random": RandomReward}


def resolve(term: RewardTerm, rewards: RewardsConfig) -> Reward:
    """Return the reward that a term names, its options bound.

    Args:
        term: name and options.
        rewards: limits for rewards that work in a child process.

    Raises:
        ConfigError: unknown name, module that cannot be imported, something that cannot be called, or options
            that do not fit.
    """
    if ":" in term.name:
        function = _import(term.name)
        _check_options(term, function, given=2)
        return functools.partial(function, **term.options) if term.options else cast(Reward, function)
    if term.name not in _OURS:
        near = difflib.get_close_matches(term.name, _OURS, n=1)
        hint = f"did you mean {near[0]!r}?" if near else "a function of your own is named module:function"
        raise ConfigError(f"rewards.terms: name must be one of {', '.join(_OURS)}, got {term.name!r}: {hint}")
    taken = {key: getattr(rewards, key) for key in _FROM_CONFIG.get(term.name, ())}
    _check_options(term, _OURS[term.name], taken=taken)
    try:
        return _OURS[term.name](**taken, **term.options)
    except TypeError as error:
        raise ConfigError(f"rewards.terms: an option of {term.name!r} has the wrong type: {error}") from error


def check_names(terms: Sequence[RewardTerm]) -> None:
    """Refuse terms that could not be resolved or weighed; imports the modules that users name.

    Raises:
        ConfigError: as for `resolve`, or a weight that is not finite.
    """
    for term in terms:
        resolve(term, RewardsConfig())
        if not math.isfinite(term.weight):
            raise ConfigError(f"rewards.terms: weight of {term.name!r} must be finite, got {term.weight}")


def check_tasks(terms: Sequence[RewardTerm], tasks: Iterable[str]) -> None:
    """Refuse tasks that the rewards cannot judge; to be called with the tasks of a dataset before a run.

    Raises:
        DataError: names the task and those supported.
    """
    if any(term.name == "accuracy" for term in terms):
        for task in sorted(set(tasks)):
            check_task(task)


def _import(name: str) -> Callable[..., Any]:
    module_name, _, attribute = name.partition(":")
    try:
        module = importlib.import_module(module_name)
    except Exception as error:  # a user's module may raise anything while it is imported
        raise ConfigError(
            f"rewards.terms: cannot import {module_name!r} for {name!r} ({type(error).__name__}: {error}): "
            "install the module or put its directory on PYTHONPATH"
        ) from error
    found: Any = getattr(module, attribute, None)
    if not callable(found):
        functions = [key for key, value in vars(module).items() if callable(value)]
        near = difflib.get_close_matches(attribute, functions, n=1)
        got = "nothing" if found is None else f"a {type(found).__name__}"
        hint = f"did you mean {module_name}:{near[0]}?" if near else "name a function (prompt, completion) -> float"
        raise ConfigError(f"rewards.terms: {name!r} must be a function, got {got}: {hint}")
    return cast(Callable[..., Any], found)


def _check_options(
    term: RewardTerm, function: Callable[..., Any], *, given: int = 0, taken: dict[str, Any] | None = None
) -> None:
    """Compare a term's options with the parameters beyond the `given` first ones and those `taken`."""
    try:
        signature = inspect.signature(function)
    except ValueError:  # some built-in functions have none
        return
    parameters = [p for p in list(signature.parameters.values())[given:] if p.name not in (taken or {})]
    if any(p.kind is p.VAR_KEYWORD for p in parameters):
        return
    allowed = [p.name for p in parameters if p.kind in (p.KEYWORD_ONLY, p.POSITIONAL_OR_KEYWORD)]
    wrong = [key for key in term.options if key not in allowed]
    needed = [p.name for p in parameters if p.name in allowed and p.default is p.empty and p.name not in term.options]
    if wrong or needed:
        fault = f"got {wrong[0]!r}" if wrong else f"{needed[0]!r} is missing"
        raise ConfigError(
            f"rewards.terms: options of {term.name!r} must be among {', '.join(allowed) or 'none'}: {fault}"
        )
