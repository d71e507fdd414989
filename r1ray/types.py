"""The records that travel through the system, one per arrow of the flow.

    Prompt --rollout--> Completion --grade--> Grade --group--> Group
    Group --advantage--> TrainingBatch --learn--> policy version --sync--> rollout

Plain frozen dataclasses over plain Python and NumPy-free lists: they are pickled by Ray many times a
second and must import without torch, ray or vllm. Nothing here computes.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any, Literal

FinishReason = Literal["stop", "length", "abort"]

# The domain of a prompt whose dataset names none.
DOMAIN_OF_TASK = {"math": "math", "choice": "stem", "code": "code", "text": "general"}


class Verdict(StrEnum):
    """What a grader concluded. `ERROR` is the grader's failure, never the completion's."""

    CORRECT = "correct"
    WRONG = "wrong"
    UNPARSEABLE = "unparseable"
    TIMEOUT = "timeout"
    ERROR = "error"


@dataclass(frozen=True, slots=True)
class Prompt:
    """One question, templated and tokenized.

    Attributes:
        prompt_id: unique and stable within its dataset, e.g. `arithmetic/train/17`.
        question: the bare question, before templating.
        text: what the model sees, after templating.
        prompt_ids: [P] token ids of `text`.
        answer: gold answer for rule rewards; None where the task has none.
        task: what kind of grading applies (`math`, `choice`, `code`, `text`).
        domain: which rewards apply (`math`, `code`, `stem`, `logic`, `general` or the user's own).
        metadata: further dataset columns, for custom rewards.
    """

    prompt_id: str
    question: str
    text: str
    prompt_ids: tuple[int, ...]
    answer: str | None = None
    task: str = "math"
    metadata: dict[str, Any] = field(default_factory=dict)
    domain: str = "math"


@dataclass(frozen=True, slots=True)
class SamplingParams:
    """How to sample; the same fields for every engine.

    Attributes:
        temperature: 0 is greedy.
        top_p: nucleus mass; training keeps 1.0 so that logprobs are those of the policy.
        max_completion_tokens: a completion that reaches it ends with `finish_reason` `length`.
        stop: strings that end a completion; the matched string stays in the text and its tokens count.
    """

    temperature: float
    top_p: float
    max_completion_tokens: int
    stop: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class GroupRequest:
    """Asks a rollout worker for the completions of one prompt.

    Attributes:
        group_id: unique within the run, e.g. `12/arithmetic/train/17` (rollout phase, prompt).
        seeds: one sampling seed per completion asked for; fixed by the run seed and the group id, so a
            resent request samples the same completions from the same weights.
        sample_indices: position of each completion in its group; a retry may ask for some of them only.
        step: optimizer step it will be trained on in, which decides what scheduled rewards apply.
    """

    group_id: str
    prompt: Prompt
    sampling: SamplingParams
    seeds: tuple[int, ...]
    sample_indices: tuple[int, ...]
    step: int = 0


@dataclass(frozen=True, slots=True)
class Completion:
    """One sampled completion.

    Attributes:
        completion_ids: [C] generated token ids, EOS included where it was sampled.
        rollout_logprobs: [C] log-probability of each token as the engine sampled it (after temperature).
        policy_versions: [C] optimizer step of the weights that produced each token.
        text: decoded completion without EOS.
    """

    group_id: str
    prompt_id: str
    sample_index: int
    text: str
    completion_ids: tuple[int, ...]
    rollout_logprobs: tuple[float, ...]
    policy_versions: tuple[int, ...]
    finish_reason: FinishReason
    worker: str = ""


@dataclass(frozen=True, slots=True)
class GradeRequest:
    """Asks for the grade of one completion, at the optimizer step it will be trained on in."""

    prompt: Prompt
    completion: Completion
    step: int = 0


@dataclass(frozen=True, slots=True)
class Grade:
    """The reward of one completion.

    Attributes:
        reward: weighted sum over `breakdown`.
        breakdown: raw value per reward name, before weights.
        verdict: of the accuracy reward where there is one.
        detail: one line for people: the extracted answer, or what went wrong.
    """

    reward: float
    breakdown: dict[str, float]
    verdict: Verdict
    detail: str = ""


@dataclass(frozen=True, slots=True)
class GradedCompletion:
    """A completion with its grade."""

    completion: Completion
    grade: Grade


@dataclass(frozen=True, slots=True)
class Group:
    """The graded completions of one prompt, sorted by sample index.

    Completions whose verdict is `error` are already removed, so a group may be smaller than
    `group_size`.
    """

    group_id: str
    prompt: Prompt
    graded: tuple[GradedCompletion, ...]


@dataclass(frozen=True, slots=True)
class TrainingSample:
    """One completion as the learner sees it.

    Attributes:
        prompt_ids: [P].
        completion_ids: [C].
        rollout_logprobs: [C] float.
        policy_versions: [C] int.
        advantage: the same for every token.
        trained: False masks every token of the sample out of the loss (overlong by config).
        prompt_key: samples with the same key share their prompt, which packing uses.
        group_tokens: trained tokens of all completions of the prompt in this optimizer step, for means over prompts.
        old_logprobs: [C] the learner's own at the start of the update; None means "those of this very
            forward pass", which holds for the first update after a rollout phase.
        ref_logprobs: [C] the reference model's, where they are already known.
    """

    prompt_ids: tuple[int, ...]
    completion_ids: tuple[int, ...]
    rollout_logprobs: tuple[float, ...]
    policy_versions: tuple[int, ...]
    advantage: float
    trained: bool = True
    prompt_key: str = ""
    group_tokens: int = 0
    old_logprobs: tuple[float, ...] | None = None
    ref_logprobs: tuple[float, ...] | None = None


@dataclass(frozen=True, slots=True)
class TrainingBatch:
    """Samples for one call of the learner, in an order fixed by the driver."""

    samples: tuple[TrainingSample, ...]

    @property
    def tokens(self) -> int:
        """Completion tokens, and those of prompts: once for samples that follow each other with the same prompt."""
        total, previous = 0, ""
        for sample in self.samples:
            shares = sample.prompt_key == previous and previous != ""
            total += len(sample.completion_ids) + (0 if shares else len(sample.prompt_ids))
            previous = sample.prompt_key
        return total
