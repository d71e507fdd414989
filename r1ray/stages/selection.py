"""Which sampled completions become training data: one reason for each that does not.

    graded group -> reason or none, per completion -> at most `max_kept_per_prompt`, chosen

Source: arXiv:2501.12948, section 2.3.3: only correct ones are kept; chains with mixed languages, long paragraphs and
code blocks are dropped.
"""

from __future__ import annotations

import random
import re
from collections.abc import Sequence
from dataclasses import dataclass

from r1ray.config.stage_sections import SelectionConfig
from r1ray.data.ngrams import NgramIndex
from r1ray.rewards.language import LanguageReward
from r1ray.rewards.repetition import count_repeated
from r1ray.template import THINK_CLOSE, THINK_OPEN, Parts, parse_r1, parse_r1_zero
from r1ray.types import Completion, GradedCompletion, Group, Prompt, Verdict

NOT_GRADED = "could not be graded"
TRUNCATED = "cut off at the limit"
WRONG = "not correct"
LOW_REWARD = "reward too low"
FORM = "not in the template's form"
LANGUAGE = "mixed languages"
SHORT = "chain too short"
PARAGRAPH = "over-long paragraph"
CODE = "code block in the reasoning"
REPETITION = "repetition"
DUPLICATE = "same text as another of its prompt"
CONTAMINATED = "shares an n-gram with an evaluation set"
NOT_CHOSEN = "another one was chosen"

_REPEATED_WORDS = 20
_CODE_BLOCK = re.compile(r"```|~~~")


@dataclass(frozen=True, slots=True)
class Judged:
    """A completion with what was decided about it.

    Attributes:
        reason: why it is not kept; None: it is.
        text: in R1's form, or as it is where it has no form.
        rewritten: whether `text` is somebody else's version of it.
    """

    graded: GradedCompletion
    reason: str | None
    text: str
    rewritten: bool = False


class Selector:
    """Applies `selection` to groups."""

    def __init__(self, config: SelectionConfig, *, template: str, seed: int, contamination: NgramIndex) -> None:
        """Take the limits.

        Args:
            config: of the stage.
            template: that completions were sampled with; says what their form is.
            seed: of the run, by which one is chosen of several.
            contamination: n-grams of evaluation sets.
        """
        self._config = config
        self._parse = parse_r1_zero if template == "r1_zero" else parse_r1
        self._seed = seed
        self._contamination = contamination
        self._language = LanguageReward()

    def judge(self, group: Group) -> list[Judged]:
        """Decide about every completion of a prompt."""
        texts: set[str] = set()
        judged = []
        contaminated = self._contamination.meets(group.prompt.question)
        for graded in group.graded:
            reason = CONTAMINATED if contaminated else self.reason(group, graded)
            text = self.in_r1_form(graded.completion.text)
            if reason is None and self._contamination.meets(text):
                reason = CONTAMINATED
            if reason is None and text in texts:
                reason = DUPLICATE
            if reason is None:
                texts.add(text)
            judged.append(Judged(graded, reason, text))
        return self._choose(group, judged)

    def contaminated(self, *texts: str) -> str | None:
        """Return the reason not to keep texts that share something with an evaluation set; None: they do not."""
        return CONTAMINATED if any(map(self._contamination.meets, texts)) else None

    def reason(self, group: Group, graded: GradedCompletion) -> str | None:
        """Return the first reason not to keep a completion for its own sake; None: it is good."""
        config, completion, grade = self._config, graded.completion, graded.grade
        if grade.verdict is Verdict.ERROR:
            return NOT_GRADED
        if completion.finish_reason == "length":
            return TRUNCATED
        if config.correct_only and grade.verdict is not Verdict.CORRECT:
            return WRONG
        if config.min_reward is not None and grade.reward < config.min_reward:
            return LOW_REWARD
        parts = self._parse(completion.text)
        if parts is None and config.require_format:
            return FORM
        thinking = parts.think if parts is not None else completion.text.partition(THINK_CLOSE)[0]
        return self.unreadable(group.prompt, completion, thinking)

    def unreadable(self, prompt: Prompt, completion: Completion, thinking: str) -> str | None:
        """Return what makes a completion hard to read; None: nothing."""
        config = self._config
        if len(thinking.strip()) < config.min_chain_chars:
            return SHORT
        if config.drop_code_blocks and _CODE_BLOCK.search(thinking):
            return CODE
        if config.max_paragraph_chars and max(map(len, thinking.split("\n\n"))) > config.max_paragraph_chars:
            return PARAGRAPH
        if self._language(prompt, completion).value < config.min_language_consistency:
            return LANGUAGE
        repeated, total = count_repeated(completion.text, n=_REPEATED_WORDS)
        if total and repeated / total > config.max_repetition:
            return REPETITION
        return None

    def in_r1_form(self, completion: str) -> str:
        """Return a completion as R1 writes: thinking in its tags, an empty line, the summary."""
        parts = self._parse(completion)
        return as_r1(parts) if parts is not None else completion.strip()

    def _choose(self, group: Group, judged: Sequence[Judged]) -> list[Judged]:
        good = [i for i, one in enumerate(judged) if one.reason is None]
        order = list(good)
        random.Random(f"{self._seed}/{group.prompt.prompt_id}").shuffle(order)
        if self._config.choose == "shortest":
            order.sort(key=lambda i: len(judged[i].graded.completion.completion_ids))
        elif self._config.choose == "best":
            order.sort(key=lambda i: -judged[i].graded.grade.reward)
        kept = set(order[: self._config.max_kept_per_prompt])
        return [
            one if one.reason is not None or i in kept else Judged(one.graded, NOT_CHOSEN, one.text)
            for i, one in enumerate(judged)
        ]


def as_r1(parts: Parts) -> str:
    r"""Return `<think>\n .. \n</think>\n\n summary`."""
    return f"{THINK_OPEN}\n{parts.think.strip()}\n{THINK_CLOSE}\n\n{parts.answer.strip()}"
