"""The LLM judge: a model behind an OpenAI-compatible endpoint says whether an answer is right, or how helpful.

    completions --plan--> questions --cache, endpoint--> replies --read--> results

The judge sees the summary only, never the thinking. `judge_prompts.py` has what it is asked, `judge_client.py` how.
A reply without a verdict, like an endpoint that fails, is `error`: never a reward, and never a wrong answer.
"""

from __future__ import annotations

import hashlib
import json
import math
import os
import secrets
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from r1ray.errors import ConfigError, GraderError
from r1ray.rewards.judge_cache import ReplyCache
from r1ray.rewards.judge_client import Endpoint, Failure, JudgeClient
from r1ray.rewards.judge_prompts import INSTRUCTIONS, VERDICTS, messages, read_verdict
from r1ray.rewards.protocol import Lane, RewardResult
from r1ray.rewards.scopes import summary
from r1ray.types import Completion, Prompt, Verdict

# The batch must be back before its grader counts as hung.
_DEADLINE_SHARE = 0.9


@dataclass(frozen=True, slots=True)
class _Question:
    """One judgement to get; `swapped` where the reference is shown as A."""

    key: str
    texts: dict[str, str]
    swapped: bool = False


class LLMJudgeReward:
    """A judge's word, in [0, 1].

    correctness: 1 or 0 for the summary against the prompt's answer, with the verdict.
    safety: 1 or 0 for the whole response, by the majority of `num_judgements`, with a verdict.
    helpfulness: the mean over `num_judgements` of pairwise verdicts against a reference reply, 1 much better, 0.5 as
    good, 0 much worse; no verdict. Every second judgement shows the two in the other order, and the first order is
    drawn by a hash of the texts, so that a judge's liking for a place evens out.

    An empty summary earns 0 and is not sent. Replies with a verdict are kept and used again for the same texts.

    Source: `judge_prompts.py`; the number and the averaging of judgements, arXiv:2501.12948 v2, section 3.1.
    """

    lane = Lane.JUDGE

    def __init__(
        self,
        *,
        base_url: str,
        model: str,
        mode: str = "correctness",
        api_key_env: str | None = None,
        reference_column: str | None = None,
        num_judgements: int | None = None,
        temperature: float = 0.0,
        max_tokens: int = 2048,
        timeout_s: float = 120.0,
        max_retries: int = 5,
        requests_per_minute: float | None = None,
        max_concurrency: int = 32,
        batch_timeout_s: float = 600.0,
        cache_items: int = 20_000,
        cache_dir: str | None = None,
        prompt_file: str | None = None,
    ) -> None:
        """Choose endpoint, question and limits.

        Args:
            base_url: root of the API, such as `http://judge:8000/v1`.
            model: its name at the endpoint.
            mode: `correctness`, `helpfulness` or `safety`.
            api_key_env: name of the environment variable with the key; None: the endpoint asks for none.
            reference_column: metadata column of the reference reply; None: the prompt's answer.
            num_judgements: None: 4 for helpfulness, 1 for the others.
            temperature: of the judge.
            max_tokens: of its reply; one that is cut has no verdict.
            timeout_s: of one attempt.
            max_retries: after rate limits, server errors, timeouts and lost connections.
            requests_per_minute: attempts of this process; None: no limit.
            max_concurrency: requests under way at a time.
            batch_timeout_s: deadline of the batch at the pool; a tenth of it is left for the way back.
            cache_items: replies kept in memory.
            cache_dir: directory to keep replies in from run to run.
            prompt_file: a text that takes the place of the instructions; it must name every verdict.

        Raises:
            ConfigError: an option out of its range, a key that is not set, or a file that cannot be used.
        """
        if mode not in VERDICTS:
            raise ConfigError(f"reward llm_judge: option mode must be one of {', '.join(VERDICTS)}, got {mode!r}")
        if not base_url.startswith(("http://", "https://")):
            raise ConfigError(
                f"reward llm_judge: option base_url must start with http:// or https://, got {base_url!r}"
            )
        by_mode = 4 if mode == "helpfulness" else 1
        self._num_judgements = by_mode if num_judgements is None else num_judgements
        _check_positive(
            num_judgements=self._num_judgements,
            max_tokens=max_tokens,
            timeout_s=timeout_s,
            max_concurrency=max_concurrency,
            batch_timeout_s=batch_timeout_s,
            requests_per_minute=math.inf if requests_per_minute is None else requests_per_minute,
        )
        _check_not_negative(temperature=temperature, max_retries=max_retries, cache_items=cache_items)
        self._mode = mode
        self._reference_column = reference_column
        self._instructions = INSTRUCTIONS[mode] if prompt_file is None else _own_instructions(prompt_file, mode)
        self._endpoint = Endpoint(
            base_url=base_url,
            model=model,
            api_key=_api_key(api_key_env),
            temperature=temperature,
            max_tokens=max_tokens,
            timeout_s=timeout_s,
            max_retries=max_retries,
            requests_per_minute=requests_per_minute,
            max_concurrency=max_concurrency,
            deadline_s=_DEADLINE_SHARE * batch_timeout_s,
        )
        self._client = JudgeClient(self._endpoint)
        self._cache = ReplyCache(max_items=cache_items, directory=cache_dir)

    def check(self) -> None:
        """Ask the endpoint one easy thing, to learn before a run whether it answers.

        Raises:
            GraderError: it does not, or not with a verdict.
        """
        texts = {"QUESTION": "1+1?", "REFERENCE": "2", "SUBMISSION": "2"}
        if self._mode == "helpfulness":
            texts = {"USER": "1+1?", "A": "2", "B": "3"}
        if self._mode == "safety":
            texts = {"USER": "1+1?", "RESPONSE": "2"}
        replies = self._ask([_Question("check", texts)])
        reply = replies["check"]
        if isinstance(reply, Failure):
            raise GraderError(f"reward llm_judge: {reply.reason}")

    def close(self) -> None:
        """Close the cache."""
        self._cache.close()

    def judgements(self, items: Sequence[tuple[Prompt, Completion]]) -> list[list[float] | str]:
        """Return every judgement of each completion, in [0, 1], or the reason why there is none.

        Judgements of `helpfulness` show the two in turn in one order and in the other.
        """
        plans = [self._plan(prompt, completion) for prompt, completion in items]
        replies = self._ask([question for plan in plans if isinstance(plan, list) for question in plan])
        return [plan.detail if isinstance(plan, RewardResult) else self._values(plan, replies) for plan in plans]

    def score(self, items: Sequence[tuple[Prompt, Completion]]) -> list[RewardResult]:
        """Judge completions; whatever fails for one is its verdict `error`."""
        plans = [self._plan(prompt, completion) for prompt, completion in items]
        replies = self._ask([question for plan in plans if isinstance(plan, list) for question in plan])
        return [plan if isinstance(plan, RewardResult) else self._result(plan, replies) for plan in plans]

    def _plan(self, prompt: Prompt, completion: Completion) -> RewardResult | list[_Question]:
        if self._mode == "safety":
            texts = {"USER": prompt.question, "RESPONSE": completion.text}
            return [self._keyed(texts, number) for number in range(self._num_judgements)]
        column = self._reference_column
        reference = prompt.answer if column is None else prompt.metadata.get(column)
        if reference is None or not str(reference).strip():
            place = "answer" if column is None else f"metadata {column}"
            detail = f"reward llm_judge: prompt {prompt.prompt_id!r} has no {place} to compare with: name its column"
            return RewardResult(0.0, Verdict.ERROR, detail)
        reply = summary(completion.text)
        if not reply:
            verdict = Verdict.WRONG if self._mode == "correctness" else None
            return RewardResult(0.0, verdict, "the summary is empty")
        return [
            self._question(prompt.question, str(reference), reply, number) for number in range(self._num_judgements)
        ]

    def _question(self, question: str, reference: str, reply: str, number: int) -> _Question:
        swapped = False
        texts = {"QUESTION": question, "REFERENCE": reference, "SUBMISSION": reply}
        if self._mode == "helpfulness":
            first = hashlib.sha256(json.dumps([question, reference, reply]).encode()).digest()[0] % 2
            swapped = (first + number) % 2 == 1
            one, other = (reference, reply) if swapped else (reply, reference)
            texts = {"USER": question, "A": one, "B": other}
        return self._keyed(texts, number, swapped=swapped)

    def _keyed(self, texts: dict[str, str], number: int, *, swapped: bool = False) -> _Question:
        endpoint = self._endpoint
        content = [endpoint.base_url, endpoint.model, endpoint.temperature, endpoint.max_tokens]
        content += [self._mode, self._instructions, texts, number]
        return _Question(hashlib.sha256(json.dumps(content).encode()).hexdigest(), texts, swapped)

    def _ask(self, questions: Sequence[_Question]) -> dict[str, str | Failure]:
        """Get replies from the cache, else from the endpoint; equal questions are asked once."""
        replies: dict[str, str | Failure] = {}
        requests = {}
        for question in questions:
            known = self._cache.get(question.key)
            if known is not None:
                replies[question.key] = known
            elif question.key not in requests:
                nonce = secrets.token_hex(8)
                requests[question.key] = messages(
                    self._mode, question.texts, nonce=nonce, instructions=self._instructions
                )

        def keep(key: str, reply: str) -> None:
            if read_verdict(self._mode, reply) is None:
                end = " ".join(reply.split())[-120:]
                reason = f"LLM judge {self._endpoint.model} gave no verdict in its last line: its reply ends {end!r}"
                replies[key] = Failure(reason)
                return
            replies[key] = reply
            if key != "check":
                self._cache.put(key, reply)

        failures = self._client.ask(requests, on_reply=keep)
        return {**replies, **failures}

    def _values(self, questions: Sequence[_Question], replies: dict[str, str | Failure]) -> list[float] | str:
        values = []
        for question in questions:
            reply = replies[question.key]
            if isinstance(reply, Failure):
                return reply.reason
            value = read_verdict(self._mode, reply)
            assert value is not None, "replies without a verdict are failures"
            values.append(1 - value if question.swapped else value)
        return values

    def _result(self, questions: Sequence[_Question], replies: dict[str, str | Failure]) -> RewardResult:
        values = self._values(questions, replies)
        if isinstance(values, str):
            return RewardResult(0.0, Verdict.ERROR, values)
        mean = math.fsum(values) / len(values)
        if self._mode == "helpfulness":
            return RewardResult(mean, detail=f"judged {', '.join(f'{value:g}' for value in values)}")
        correct = mean > 0.5
        detail = f"judged {'safe' if self._mode == 'safety' else 'correct'} in {sum(values):g} of {len(values)}"
        return RewardResult(float(correct), Verdict.CORRECT if correct else Verdict.WRONG, detail)


def _api_key(name: str | None) -> str:
    if name is None:
        return "none"
    key = os.environ.get(name)
    if not key:
        raise ConfigError(
            f"reward llm_judge: option api_key_env must name an environment variable that is set, got {name!r}: "
            "export the key under this name on every machine"
        )
    return key


def _own_instructions(path: str, mode: str) -> str:
    try:
        text = Path(path).read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"reward llm_judge: option prompt_file cannot be read: {error}") from error
    missing = [f"[[{verdict}]]" for verdict in VERDICTS[mode] if f"[[{verdict}]]" not in text]
    if missing:
        raise ConfigError(
            f"reward llm_judge: option prompt_file {path!r} must tell the judge all verdicts of mode {mode}: "
            f"{', '.join(missing)} missing"
        )
    return text.strip()


def _check_positive(**options: float) -> None:
    for name, value in options.items():
        if not value > 0:
            raise ConfigError(f"reward llm_judge: option {name} must be positive, got {value}")


def _check_not_negative(**options: float) -> None:
    for name, value in options.items():
        if not value >= 0:
            raise ConfigError(f"reward llm_judge: option {name} must not be negative, got {value}")
