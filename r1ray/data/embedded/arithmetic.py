"""The embedded task `arithmetic`: add three three-digit numbers.

Hard enough that a tiny model cannot do it at a glance, and easy enough that it can do it column by column:
thinking longer pays. Train and held-out questions never meet, because a hash of the operands alone decides
to which split a question belongs.
"""

from __future__ import annotations

import random
import zlib
from collections.abc import Sequence

from r1ray.data.embedded.item import TaskItem
from r1ray.errors import DataError

SPLITS = ("train", "eval")
NUM_OPERANDS = 3
SMALLEST_OPERAND = 100
LARGEST_OPERAND = 999
_EVAL_ONE_IN = 10


def arithmetic(index: int, *, seed: int, split: str) -> TaskItem:
    """Return the question at a place in a split's endless stream.

    Args:
        index: place in the stream, at least 0. Different indices may, rarely, give the same question.
        seed: which stream.
        split: `train` or `eval`; no question is in both, whatever the seeds.

    Returns:
        A question such as `What is 247 + 386 + 159?` with the answer `792`.

    Raises:
        DataError: unknown split or negative index.
    """
    if split not in SPLITS:
        raise DataError(f"split must be one of {', '.join(SPLITS)}, got {split!r}")
    if index < 0:
        raise DataError(f"index must be >= 0, got {index}")
    # Seeding with text, unlike hash(), gives the same stream in every process and Python release.
    draw = random.Random(f"arithmetic:{split}:{seed}:{index}")
    operands = _draw_operands(draw)
    while split_of(operands) != split:
        operands = _draw_operands(draw)
    return TaskItem(question=f"What is {' + '.join(map(str, operands))}?", answer=str(sum(operands)))


def split_of(operands: Sequence[int]) -> str:
    """Return the one split that the question with these operands, in any order, belongs to."""
    key = ",".join(map(str, sorted(operands)))
    return "eval" if zlib.crc32(key.encode()) % _EVAL_ONE_IN == 0 else "train"


def _draw_operands(draw: random.Random) -> tuple[int, ...]:
    return tuple(draw.randint(SMALLEST_OPERAND, LARGEST_OPERAND) for _ in range(NUM_OPERANDS))
