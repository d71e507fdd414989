"""What the bilingual tasks share: seeded streams, splits by content, and the language of a place."""

from __future__ import annotations

import random
import zlib

from r1ray.errors import DataError

SPLITS = ("train", "eval")
LANGUAGES = ("en", "zh")
_EVAL_ONE_IN = 10


def open_stream(task: str, index: int, *, seed: int, split: str) -> random.Random:
    """Return the random stream of one place, the same in every process and Python release.

    Raises:
        DataError: unknown split or negative index.
    """
    if split not in SPLITS:
        raise DataError(f"split must be one of {', '.join(SPLITS)}, got {split!r}")
    if index < 0:
        raise DataError(f"index must be >= 0, got {index}")
    return random.Random(f"{task}:{split}:{seed}:{index}")


def split_of(content: object) -> str:
    """Return the one split that questions with this content belong to, however they are worded."""
    return "eval" if zlib.crc32(str(content).encode()) % _EVAL_ONE_IN == 0 else "train"


def language_at(index: int) -> str:
    """Return the language of a place: every other question is Chinese."""
    return LANGUAGES[index % 2]
