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
from collections.abc import Callable, Iterable
from typing import Any, cast

from r1ray.config.schema import RewardsConfig, RewardTerm, SandboxConfig
from r1ray.errors import ConfigError, DataError
from r1ray.rewards.accuracy import AccuracyReward, check_task
from r1ray.rewards.control import RandomReward
from r1ray.rewards.format import FormatReward, TagCountReward
from r1ray.rewards.language import LanguageReward
from r1ray.rewards.length import CosineReward, LengthReward, OverlongReward
from r1ray.rewards.llm_judge import LLMJudgeReward
from r1ray.rewards.protocol import Lane
from r1ray.rewards.repetition import RepetitionReward
from r1ray.rewards.reward_model import RewardModelReward
from r1ray.types import Prompt

# Constructor parameters that are filled from the config, where a term's options leave them out or may not give them.
_FROM_CONFIG = ("time_limit_s", "memory_limit_bytes", "max_completion_tokens", "batch_timeout_s", "sandbox")
_OURS: dict[str, Callable[..., Any]] = {
    "accuracy": AccuracyReward,
    "format": FormatReward,
    "tag_count": TagCountReward,
    "language": LanguageReward,
    "overlong": OverlongReward,
    "length": LengthReward,
    "cosine": CosineReward,
    "repetition": RepetitionReward,
    "llm_judge": LLMJudgeReward,
    "reward_model": RewardModelReward,
    "random": RandomReward,
}


def resolve(term: RewardTerm, rewards: RewardsConfig, sandbox: SandboxConfig) -> Any:
    """Return the reward that a term names, its options bound.

    Args:
        term: name and options.
        rewards: limits for rewards that work in a child process.
        sandbox: where programs run.

    Returns:
        A `Reward`, `BatchReward` or `VerdictReward`.

    Raises:
        ConfigError: unknown name, module that cannot be imported, something that cannot be called, or options
            that do not fit.
    """
    found = _find(term.name)
    if not inspect.isclass(found):
        _check_options(term, found, given=2)
        return functools.partial(found, **term.options) if term.options else found
    offered = {"sandbox": sandbox} | {key: getattr(rewards, key) for key in _FROM_CONFIG if key != "sandbox"}
    taken = {key: offered[key] for key in inspect.signature(found).parameters if key in offered}
    _check_options(term, found, taken=taken)
    try:
        return found(**taken, **term.options)
    except TypeError as error:
        raise ConfigError(f"rewards.terms: an option of {term.name!r} has the wrong type: {error}") from error


def lane_of(name: str) -> Lane:
    """Return which processes a reward runs in."""
    return Lane(getattr(_find(name), "lane", Lane.RULES))


def needs_verdict(name: str) -> bool:
    """Whether a reward comes after the verdict of the others."""
    return hasattr(_find(name), "after")


def _find(name: str) -> Callable[..., Any]:
    if ":" in name:
        return _import(name)
    if name not in _OURS:
        near = difflib.get_close_matches(name, _OURS, n=1)
        hint = f"did you mean {near[0]!r}?" if near else "a function of your own is named module:function"
        raise ConfigError(f"rewards.terms: name must be one of {', '.join(_OURS)}, got {name!r}: {hint}")
    return _OURS[name]


def check_rewards(rewards: RewardsConfig, sandbox: SandboxConfig) -> None:
    """Refuse terms that could not be resolved or weighed; imports the modules that users name.

    Raises:
        ConfigError: as for `resolve`, or a weight that is not finite.
    """
    for term in rewards.terms:
        resolve(term, rewards, sandbox)
        if not math.isfinite(term.weight):
            raise ConfigError(f"rewards.terms: weight of {term.name!r} must be finite, got {term.weight}")


def check_prompts(rewards: RewardsConfig, prompts: Iterable[Prompt]) -> None:
    """Refuse prompts that the rewards cannot judge; to be called with a dataset before a run.

    Raises:
        DataError: a task that the accuracy reward does not know, or a domain that no term is for.
    """
    for domain, task in sorted({(prompt.domain, prompt.task) for prompt in prompts}):
        fitting = [term for term in rewards.terms if not term.domains or domain in term.domains]
        if not fitting:
            named = ", ".join(sorted({name for term in rewards.terms for name in term.domains}))
            raise DataError(
                f"no term of rewards.terms is for prompts of domain {domain!r}, only for {named}: add a term with "
                f"domains: [{domain}], or one without domains"
            )
        if any(term.name == "accuracy" for term in fitting):
            check_task(task)


def check_judges(rewards: RewardsConfig, sandbox: SandboxConfig) -> None:
    """Ask every LLM judge one question, before compute is spent on completions it could not judge.

    Raises:
        GraderError: an endpoint is down, refuses the key or does not know the model.
    """
    for term in rewards.terms:
        if lane_of(term.name) is Lane.JUDGE:
            check = getattr(resolve(term, rewards, sandbox), "check", None)
            if callable(check):
                check()


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
