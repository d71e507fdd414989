"""Asks an OpenAI-compatible endpoint many things at a time, within a deadline.

The `openai` client retries with growing pauses and heeds Retry-After; this adds a common rate limit (of attempts,
retries included), bounded concurrency, a deadline for the whole batch, and failures in words for people.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

Messages = list[dict[str, str]]

_REMEDIES = {
    400: "the endpoint refuses the request: see whether it takes these parameters, and texts of this length",
    401: "set the environment variable that option api_key_env names to a valid key",
    403: "set the environment variable that option api_key_env names to a key that may use this model",
    404: "see whether option model names a model of this endpoint and base_url ends in its API's root, mostly /v1",
    429: "lower option requests_per_minute or max_concurrency, or raise max_retries",
}


@dataclass(frozen=True, slots=True)
class Endpoint:
    """Where and how to ask; the options of the reward.

    Attributes:
        requests_per_minute: attempts started in a minute; None: no limit.
        timeout_s: of one attempt.
        deadline_s: of one batch.
    """

    base_url: str
    model: str
    api_key: str
    temperature: float
    max_tokens: int
    timeout_s: float
    max_retries: int
    requests_per_minute: float | None
    max_concurrency: int
    deadline_s: float


@dataclass(frozen=True, slots=True)
class Failure:
    """Why there is no reply."""

    reason: str


class JudgeClient:
    """Sends requests; remembers when the last ones went out."""

    def __init__(self, endpoint: Endpoint) -> None:
        """Connects to nothing yet."""
        self._endpoint = endpoint
        self._next_start = 0.0

    def ask(self, requests: Mapping[str, Messages], *, on_reply: Callable[[str, str], None]) -> dict[str, Failure]:
        """Send requests and wait for the last reply or the deadline.

        Args:
            requests: messages by key.
            on_reply: called as `on_reply(key, text)` when a reply has come, in any order.

        Returns:
            By key, why there was no reply.
        """
        return asyncio.run(self._ask(requests, on_reply)) if requests else {}

    async def _ask(self, requests: Mapping[str, Messages], on_reply: Callable[[str, str], None]) -> dict[str, Failure]:
        import openai

        endpoint = self._endpoint
        failures: dict[str, Failure] = {}
        slots = asyncio.Semaphore(endpoint.max_concurrency)
        # A hook on requests sees every attempt, and its waiting does not count against the attempt's timeout.
        http = openai.DefaultAsyncHttpxClient(event_hooks={"request": [self._wait_for_turn]})
        async with openai.AsyncOpenAI(
            base_url=endpoint.base_url,
            api_key=endpoint.api_key,
            timeout=endpoint.timeout_s,
            max_retries=endpoint.max_retries,
            http_client=http,
        ) as client:

            async def ask_one(key: str, messages: Messages) -> None:
                async with slots:
                    reply = await self._reply(client, messages)
                if isinstance(reply, Failure):
                    failures[key] = reply
                else:
                    on_reply(key, reply)

            tasks = {asyncio.create_task(ask_one(key, messages)): key for key, messages in requests.items()}
            done, late = await asyncio.wait(tasks, timeout=endpoint.deadline_s)
            for task in late:
                task.cancel()
                failures[tasks[task]] = self._failure(
                    f"no reply within the {endpoint.deadline_s:.0f} s of a batch",
                    "raise rewards.batch_timeout_s or option max_concurrency, or use a faster endpoint",
                )
            await asyncio.gather(*late, return_exceptions=True)
            for task in done:
                task.result()
        return failures

    async def _reply(self, client: Any, messages: Sequence[dict[str, str]]) -> str | Failure:
        import openai

        endpoint = self._endpoint
        try:
            answer = await client.chat.completions.create(
                model=endpoint.model,
                messages=messages,
                temperature=endpoint.temperature,
                max_tokens=endpoint.max_tokens,
            )
        except openai.APIStatusError as error:
            remedy = _REMEDIES.get(error.status_code, "see the endpoint's log")
            return self._failure(f"HTTP {error.status_code}: {_line(error.message)}", remedy)
        except openai.APITimeoutError:
            return self._failure(f"no reply within {endpoint.timeout_s:g} s", "raise option timeout_s")
        except openai.APIConnectionError as error:
            cause = error.__cause__ or error
            return self._failure(f"no connection ({_line(str(cause))})", "start the endpoint, or mend option base_url")
        except (openai.OpenAIError, ValueError) as error:
            return self._failure(f"not an answer in the OpenAI form ({_line(str(error))})", "mend option base_url")
        return self._text_of(answer)

    def _text_of(self, answer: Any) -> str | Failure:
        choices = getattr(answer, "choices", None)
        if not choices or getattr(choices[0], "message", None) is None:
            return self._failure("not an answer in the OpenAI form", "see whether option base_url is an API's root")
        if choices[0].finish_reason == "length":
            return self._failure("the reply was cut at max_tokens before its verdict", "raise option max_tokens")
        return str(choices[0].message.content or "")

    async def _wait_for_turn(self, _: Any) -> None:
        per_minute = self._endpoint.requests_per_minute
        if per_minute is None:
            return
        turn = max(self._next_start, time.monotonic())
        self._next_start = turn + 60 / per_minute
        await asyncio.sleep(turn - time.monotonic())

    def _failure(self, what: str, remedy: str) -> Failure:
        return Failure(f"LLM judge {self._endpoint.model} at {self._endpoint.base_url}: {what}: {remedy}")


def _line(text: str) -> str:
    return " ".join(text.split())[:300]
