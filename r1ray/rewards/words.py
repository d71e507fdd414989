r"""Words of a text that mixes prose with code and mathematics.

    text --prose--> sentences --words--> (script, word)

Code blocks and inline code, LaTeX ($..$, \(..\), \[..\], environments, \commands), URLs, numbers, symbols and the
template's tags are no words, nor are single letters, which are variables more often than not. Everything is linear in
the text's length, whatever stands in it.

Words follow the default boundaries of Unicode (UAX #29): a run of letters of one script with its marks and inner
apostrophes; but each Han ideograph, each hiragana, and each letter of the scripts of South-East Asia that are written
without spaces is a word of its own. Knows nothing of languages: that is `language.py`.
"""

# Punctuation of many scripts stands in the patterns:
# ruff: noqa: RUF001

from __future__ import annotations

from collections.abc import Iterator

import regex

from r1ray.template import ANSWER_CLOSE, ANSWER_OPEN, THINK_CLOSE, THINK_OPEN

# An unclosed fence runs to the end, as a truncated completion leaves it.
_CODE = regex.compile(r"```.*?(?:```|\Z)|~~~.*?(?:~~~|\Z)|`[^`\n]+`|\[asy\].*?(?:\[/asy\]|\Z)", regex.DOTALL)
# A dollar opens a formula only before, and closes it only after, something visible, and not before a digit: else
# "$2 an egg, $3 a dozen" would be one. None of these can run past its next delimiter, which keeps them linear.
_MATH = regex.compile(
    r"\$\$[^$]*\$\$|\$(?=\S)[^$\n]*(?<=\S)\$(?!\d)|\\\((?:(?!\\[()]).)*\\\)|\\\[(?:(?!\\[\[\]]).)*\\\]", regex.DOTALL
)
_LATEX = regex.compile(r"[\\^_=]")
_FORMULA_WORDS = 4
_ENVIRONMENT = regex.compile(r"\\(?P<edge>begin|end)\{(?P<name>[A-Za-z]{1,20}\*?)\}")
_TAGS = "|".join(regex.escape(tag) for tag in (THINK_OPEN, THINK_CLOSE, ANSWER_OPEN, ANSWER_CLOSE))
_OTHER = regex.compile(rf"{_TAGS}|(?:https?|ftp)://[^\s<>]+|www\.[^\s<>]+|\\[A-Za-z]+\*?")
_SENTENCE_END = regex.compile(r"(?:[.!?;:…]+[\"'”’)\]]*\s|[。！？；．]|\n)")

_EACH = ("Han", "Hiragana", "Thai", "Lao", "Khmer", "Myanmar")
_RUNS = ("Latin", "Cyrillic", "Greek", "Arabic", "Hebrew", "Hangul", "Katakana", "Devanagari", "Bengali", "Tamil")
# Alphabets whose single letters name variables.
_VARIABLES = ("Latin", "Cyrillic", "Greek", "other")
_LETTER = r"[\p{{Script={0}}}&&\p{{L}}]\p{{M}}*"
_WORD = regex.compile(
    "|".join(
        [rf"(?P<{script}>{_LETTER.format(script)})" for script in _EACH]
        # The long vowel mark of katakana belongs to no one script; possessive, so that nothing is tried twice.
        + [rf"(?P<{script}>{_LETTER.format(script)}(?:['’]?{_LETTER.format(script)}|ー)*+)" for script in _RUNS]
        + [r"(?P<other>(?:\p{L}\p{M}*)++)"]
    ),
    regex.V1,
)


def prose(text: str) -> str:
    """Return the text with everything blanked that is no prose; lines and sentences stay apart."""
    text = _CODE.sub(" ", text)
    text = _without_environments(text)
    text = _MATH.sub(_blank_formula, text)
    return str(_OTHER.sub(" ", text))


def sentences(text: str) -> list[str]:
    """Cut prose at the ends of sentences, clauses after a colon or semicolon, and lines."""
    return [part for part in _SENTENCE_END.split(text) if part.strip()]


def words(text: str) -> Iterator[tuple[str, str]]:
    """Yield (script, word) in order; script is its Unicode name, `other` for scripts not told apart."""
    for match in _WORD.finditer(text):
        script, word = match.lastgroup, match[0]
        if len(word) > 1 or script not in _VARIABLES:
            yield script, word


def _blank_formula(match: regex.Match[str]) -> str:
    """Keep what two amounts of dollars enclose: many plain words and nothing that is typical of LaTeX."""
    found: str = match[0]
    is_prose = not _LATEX.search(found) and sum(1 for _ in words(found)) > _FORMULA_WORDS
    return found if is_prose else " "


def _without_environments(text: str) -> str:
    r"""Blank from each outermost `\begin{x}` to its `\end{x}`; one without the other stays."""
    opened: list[tuple[str, int]] = []
    spans: list[tuple[int, int]] = []
    for match in _ENVIRONMENT.finditer(text):
        if match["edge"] == "begin":
            opened.append((match["name"], match.start()))
        elif opened and opened[-1][0] == match["name"]:
            _, start = opened.pop()
            while spans and spans[-1][0] > start:
                spans.pop()
            spans.append((start, match.end()))
    parts, position = [], 0
    for start, end in spans:
        parts.append(text[position:start])
        position = end
    return " ".join([*parts, text[position:]])
