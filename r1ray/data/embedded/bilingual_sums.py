"""The embedded task `bilingual_sums`: add three three-digit numbers, asked in English or Chinese.

Too hard for a tiny model at a glance, and easy digit by digit. A hash of the operands alone decides the split.
"""

from __future__ import annotations

import random

from r1ray.data.embedded.item import TaskItem
from r1ray.data.embedded.streams import language_at, open_stream, split_of

NUM_OPERANDS = 3
SMALLEST_OPERAND = 100
LARGEST_OPERAND = 999
_PHRASINGS = {
    "en": ("What is {sum}?", "Add {list}.", "Find the sum {sum}."),
    "zh": ("请问 {sum} 等于多少？", "请计算 {sum}。", "求 {list} 的和。"),
}
_SEPARATORS = {"en": ", ", "zh": "、"}


def bilingual_sums(index: int, *, seed: int, split: str) -> TaskItem:
    """Return the question at a place in a split's endless stream; even places are English, odd ones Chinese.

    Args:
        index: place in the stream, at least 0.
        seed: which stream.
        split: `train` or `eval`; no three operands are in both, whatever the seeds.

    Raises:
        DataError: unknown split or negative index.
    """
    draw = open_stream("bilingual_sums", index, seed=seed, split=split)
    operands = _draw_operands(draw)
    while split_of(sorted(operands)) != split:
        operands = _draw_operands(draw)
    language = language_at(index)
    shown = [str(operand) for operand in operands]
    question = draw.choice(_PHRASINGS[language]).format(sum=" + ".join(shown), list=_SEPARATORS[language].join(shown))
    return TaskItem(question, str(sum(operands)), domain="math", metadata={"target_language": language})


def _draw_operands(draw: random.Random) -> list[int]:
    return [draw.randint(SMALLEST_OPERAND, LARGEST_OPERAND) for _ in range(NUM_OPERANDS)]
