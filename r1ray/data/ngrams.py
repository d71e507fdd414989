"""Decontamination: which training texts share an n-gram of words with an evaluation set.

A word is a run of letters and digits; where a language writes none, each ideograph is one. Case and punctuation do not
matter. A text of fewer than n words is compared as a whole.

Source: arXiv:2501.12948 v2: any training text that shares a 10-gram with an evaluation question or solution is dropped.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator

import regex

_WORD = regex.compile(r"[\p{Script=Han}\p{Script=Hiragana}\p{Script=Katakana}]|[\p{L}\p{M}\p{N}]+", regex.V1)
_EACH = regex.compile(r"[\p{Script=Han}\p{Script=Hiragana}\p{Script=Katakana}]|[^\p{Han}\p{Hiragana}\p{Katakana}]+")


class NgramIndex:
    """The n-grams of evaluation texts."""

    def __init__(self, texts: Iterable[str], *, n: int) -> None:
        """Read the texts.

        Args:
            texts: questions and answers of evaluation sets.
            n: words of an n-gram.
        """
        self._n = n
        self._grams: set[tuple[str, ...]] = set()
        # Texts of fewer words, by their number of words.
        self._short: set[tuple[str, ...]] = set()
        for text in texts:
            units = words(text)
            if len(units) >= n:
                self._grams.update(_grams(units, n))
            elif units:
                self._short.add(tuple(units))

    def __len__(self) -> int:
        """Return how many n-grams and short texts there are."""
        return len(self._grams) + len(self._short)

    def meets(self, text: str) -> bool:
        """Whether a text shares an n-gram with an evaluation text, or is a short one itself."""
        units = words(text)
        if len(units) < self._n:
            return tuple(units) in self._short
        return any(gram in self._grams for gram in _grams(units, self._n))


def words(text: str) -> list[str]:
    """Return the words of a text, in lower case."""
    found: list[str] = []
    for match in _WORD.finditer(text.lower()):
        found += _EACH.findall(match[0])
    return found


def _grams(units: list[str], n: int) -> Iterator[tuple[str, ...]]:
    return (tuple(units[i : i + n]) for i in range(len(units) - n + 1))
