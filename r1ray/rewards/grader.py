"""Runs rewards on completions: those of some lanes in a grader process, or all of them in any process.

    GradeRequest --Grader.run--> results by term --Combiner.combine--> Grade

`pool.py` spreads graders over actors, one lane each, and combines what they return. Does not decide what an
overlong completion earns: that is the driver's.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from r1ray.config.schema import RewardsConfig, SandboxConfig
from r1ray.errors import SandboxError
from r1ray.rewards.protocol import Lane, RewardResult
from r1ray.rewards.registry import lane_of, needs_verdict, resolve
from r1ray.rewards.terms import Term, first_verdict, name_terms, weigh
from r1ray.types import Completion, Grade, GradeRequest, Prompt, Verdict

logger = logging.getLogger(__name__)

Results = dict[str, RewardResult]


class Combiner:
    """Knows which terms a completion needs, and makes its grade of their results."""

    def __init__(self, rewards: RewardsConfig, sandbox: SandboxConfig) -> None:
        """Resolve the terms that depend on a verdict; the others are the graders'.

        Raises:
            ConfigError: a term cannot be resolved.
        """
        self.terms = name_terms(rewards.terms)
        self._lanes = {id(term): lane_of(term.config.name) for term in self.terms}
        late = [term for term in self.terms if needs_verdict(term.config.name)]
        self._late = {id(term): resolve(term.config, rewards, sandbox) for term in late}

    @property
    def all_lanes(self) -> set[Lane]:
        """Lanes that some term runs in."""
        return {lane for key, lane in self._lanes.items() if key not in self._late}

    def applying(self, request: GradeRequest) -> list[Term]:
        """Return the terms that apply to a completion."""
        return [t for t in self.terms if t.applies(domain=request.prompt.domain, step=request.step)]

    def lanes(self, request: GradeRequest) -> set[Lane]:
        """Return the lanes whose graders a completion has to pass."""
        return {self._lanes[id(term)] for term in self.applying(request) if id(term) not in self._late}

    def combine(self, request: GradeRequest, results: Mapping[str, RewardResult]) -> Grade:
        """Make the grade: verdict `error` where no term is for the domain, reward 0 where none applies in this step."""
        terms = self.applying(request)
        if not terms:
            domain = request.prompt.domain
            if not any(term.in_domain(domain) for term in self.terms):
                detail = f"cannot grade: no term of rewards.terms is for domain {domain!r}"
                return Grade(0.0, {}, Verdict.ERROR, detail)
            return Grade(0.0, {}, Verdict.WRONG, f"no term for domain {domain!r} applies in step {request.step}")
        results = dict(results)
        verdict = first_verdict(terms, results)
        for term in terms:
            reward = self._late.get(id(term))
            if reward is not None:
                results[term.key] = _guarded(term.key, reward.after, request, verdict)
        return weigh(terms, results)

    def fail(self, request: GradeRequest, detail: str) -> Grade:
        """Return the grade of a completion that cannot be graded."""
        return Grade(0.0, {term.key: 0.0 for term in self.applying(request)}, Verdict.ERROR, detail)


class Grader:
    """The rewards of one config, ready to judge. Not for use by several threads at once."""

    def __init__(
        self, rewards: RewardsConfig, sandbox: SandboxConfig | None = None, *, lanes: Sequence[Lane] = tuple(Lane)
    ) -> None:
        """Resolve the reward terms.

        Args:
            rewards: terms and limits.
            sandbox: where programs run.
            lanes: only terms of these are run by `run`.

        Raises:
            ConfigError: a term cannot be resolved.
        """
        sandbox = sandbox or SandboxConfig()
        self._combiner = Combiner(rewards, sandbox)
        self._rewards: list[tuple[Term, Any]] = [
            (term, resolve(term.config, rewards, sandbox))
            for term in self._combiner.terms
            if lane_of(term.config.name) in lanes and not needs_verdict(term.config.name)
        ]

    def run(self, requests: Sequence[GradeRequest]) -> list[Results]:
        """Run the terms that apply to each completion; returns their results, in order.

        Whatever goes wrong in a term becomes verdict `error`, never a wrong answer.
        """
        results: list[Results] = [{} for _ in requests]
        for term, reward in self._rewards:
            chosen = [i for i, r in enumerate(requests) if term.applies(domain=r.prompt.domain, step=r.step)]
            given = _run_term(term.key, reward, [requests[i] for i in chosen])
            for i, result in zip(chosen, given, strict=True):
                results[i][term.key] = result
        return results

    def grade(self, prompt: Prompt, completion: Completion, *, step: int = 0) -> Grade:
        """Grade one completion, as `weigh` says."""
        request = GradeRequest(prompt, completion, step)
        return self._combiner.combine(request, self.run([request])[0])

    def start(self) -> None:
        """Let the rewards start what takes time, such as child processes, without waiting for it."""
        self._call_all("start")

    def close(self) -> None:
        """Free what the rewards hold."""
        self._call_all("close")

    def _call_all(self, method: str) -> None:
        for _, reward in self._rewards:
            call = getattr(reward, method, None)
            if callable(call):
                call()


def _run_term(key: str, reward: Any, requests: Sequence[GradeRequest]) -> list[RewardResult]:
    if not requests or not hasattr(reward, "score"):
        return [_guarded(key, reward, request) for request in requests]
    try:
        scored = list(reward.score([(request.prompt, request.completion) for request in requests]))
        if len(scored) != len(requests):
            raise ValueError(f"score returned {len(scored)} results for {len(requests)} completions")
    except Exception as error:  # the worker boundary: a user's reward may raise anything
        logger.warning("reward %s failed on %d completions", key, len(requests), exc_info=True)
        return [_failed(key, error)] * len(requests)
    return [_checked(key, result, request) for result, request in zip(scored, requests, strict=True)]


def _guarded(key: str, reward: Callable[..., Any], request: GradeRequest, *more: Any) -> RewardResult:
    try:
        return _checked(key, reward(request.prompt, request.completion, *more), request)
    except SandboxError:
        raise  # true of every program on this machine: the run stops, with the remedy
    except Exception as error:  # the worker boundary: a user's reward may raise anything
        logger.warning("reward %s failed on %s", key, request.completion.group_id, exc_info=True)
        return _failed(key, error)


def _failed(key: str, error: Exception) -> RewardResult:
    return RewardResult(0.0, Verdict.ERROR, f"reward {key} raised {type(error).__name__}: {error}")


def _checked(key: str, given: Any, request: GradeRequest) -> RewardResult:
    result = given if isinstance(given, RewardResult) else RewardResult(float(given))
    if not math.isfinite(result.value):
        logger.warning("reward %s returned %s on %s", key, result.value, request.completion.group_id)
        return RewardResult(0.0, Verdict.ERROR, f"reward {key} returned {result.value}, which is not finite")
    return result
