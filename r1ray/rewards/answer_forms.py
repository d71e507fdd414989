r"""The forms an answer can have besides a formula: words, percentages, times, ratios, numerals, lists, brackets.

Text in, parts out; `math_child.py` compares the parts. Texts are in the one spelling of `spelling.spell`.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

_OPEN, _CLOSE = "([{", ")]}"
_SEPARATOR = re.compile(
    r"[,;]\s*(?:(?:and|or)\b)?|\\(?:text|textrm|mathrm|mbox)\s*\{\s*(?:,\s*)?(?:and|or|或|和)\s*\}|(?<![A-Za-z\\])(?:and|or)(?![A-Za-z])"
    r"|\\(?:quad|lor|vee)\b|[或和与]"
)
_ASSIGNED = re.compile(r"^\s*(?:\\?[A-Za-z]+(?:_\{?\w+\}?)?(?:\s*\([a-z](?:,\s*[a-z])*\))?)\s*=(?!=)\s*(?=\S)")
_TIME = re.compile(r"^(\d{1,2}):([0-5]\d)(?::([0-5]\d))?\s*([ap])?\.?\s*(?:m\.?)?$")
_NUMERAL = re.compile(r"^\(?([0-9A-F]+)\)?_\{?([0-9]+|[a-z]+)\}?$")
_BASES = {"two": "2", "three": "3", "four": "4", "five": "5", "six": "6", "seven": "7", "eight": "8", "ten": "10"}
_NUMBER_WORDS = [
    *("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten", "eleven", "twelve"),
    *("thirteen", "fourteen", "fifteen", "sixteen", "seventeen", "eighteen", "nineteen", "twenty"),
]
_TENS = ["twenty", "thirty", "forty", "fifty", "sixty", "seventy", "eighty", "ninety"]
ROW_END = r"\\\\(?:\[[^\]]*\])?"
_VECTOR = re.compile(
    r"^\\begin\{[pbB]?matrix\}\s*([^&]*?|(?:(?!\\\\).)*?)\s*(?:\\\\)?\s*\\end\{[pbB]?matrix\}$", re.DOTALL
)
_TRUTH = {"yes", "no", "true", "false", "odd", "even", "none", "all", "both"}
_KNOWN_WORDS = re.compile(
    r"\b(?:sin|cos|tan|cot|sec|csc|arcsin|arccos|arctan|log|ln|exp|max|min|gcd|lcm|mod|det|dim)\b"
)


@dataclass(frozen=True, slots=True)
class Bracketed:
    """Something in brackets, or a list without: (1, 2), [0, 1), {1, 2}, `1, 2`.

    Attributes:
        left: opening bracket, `{` for sets, empty for a bare list.
        right: closing bracket.
        items: what stands between the commas.
    """

    left: str
    right: str
    items: tuple[str, ...]

    @property
    def ordered(self) -> bool:
        """Whether the items have an order."""
        return self.left in ("(", "[", "<")


def words_of(text: str) -> str | None:
    r"""Return an answer in words, normalised; None where it is a formula.

    `\text{Alice and Bob}`, `no solution`, `Monday`: a comparison of letters as variables would call "listen" and
    "silent" equal.
    """
    if re.match(r"[-+$]*\d", text):
        return None
    plain = re.sub(r"\\(?:text|textbf|textit|textrm|mathrm|mbox|emph)\s*\{([^{}]*)\}", r" \1 ", text)
    worded = plain != text and re.search(r"[A-Za-z\u4e00-\u9fff]", plain) is not None
    if "\\" in plain or re.search(r"[=<>^_+*/|()\[\]{}]", plain) or (re.search(r"\d", plain) and not worded):
        return None
    normal = " ".join(re.findall(r"[^\W_]+", plain.lower()))
    normal = re.sub(r"^(?:the|a|an)\s+", "", normal)
    if normal == "dne":
        return "does not exist"
    long = re.search(r"[a-z]{4,}|[^\x00-\x7f]", _KNOWN_WORDS.sub("", normal)) or " " in normal
    if (
        normal in _TRUTH
        or normal in _NUMBER_WORDS
        or (worded and len(normal) > 1)
        or (long and re.search(r"[^\W\d]{2}", normal))
    ):
        return normal
    return None


def number_of_words(words: str) -> str | None:
    """Return the digits of a number in words below a hundred."""
    tens, _, ones = words.partition(" ")
    if tens in _TENS and (not ones or ones in _NUMBER_WORDS[1:10]):
        return str(10 * (2 + _TENS.index(tens)) + (_NUMBER_WORDS.index(ones) if ones else 0))
    return str(_NUMBER_WORDS.index(words)) if words in _NUMBER_WORDS else None


def percent_of(text: str) -> str | None:
    """Return the number before a percent sign."""
    match = re.match(
        r"^(.*[^\s\\])\s*(?:\\?%|\\(?:text|mathrm)\{\s*(?:\\?%|percent)\s*\}|per\s?cent(?:age)?)\.?$", text, re.DOTALL
    )
    return match[1] if match else None


def time_of(text: str) -> tuple[int, int, int, str] | None:
    """Return hours, minutes, seconds and `a`, `p` or nothing."""
    plain = re.sub(r"\\(?:text|mathrm)\s*\{([^{}]*)\}", r"\1", text).lower().replace("{", "").replace("}", "").strip()
    match = _TIME.match(plain)
    return (int(match[1]), int(match[2]), int(match[3] or 0), match[4] or "") if match else None


def hour_of(time: tuple[int, int, int, str]) -> int:
    """Return the hour of 24."""
    return time[0] % 12 + 12 * (time[3] == "p") if time[3] else time[0]


def ratio_of(text: str) -> list[str] | None:
    """Return the parts of a ratio such as 3:4:5."""
    parts = re.split(r"\s*(?::|\\colon)\s*", text)
    return parts if len(parts) > 1 and all(re.fullmatch(r"[\w\\{}.^ ]+", part) for part in parts) else None


def numeral_of(text: str) -> tuple[str, str] | None:
    """Return digits and base of a numeral such as 1011_2."""
    plain = re.sub(r"\\(?:text|mathrm)\s*\{([^{}]*)\}", r"\1", text).replace(" ", "")
    match = _NUMERAL.match(plain)
    base = _BASES.get(match[2], match[2]) if match else ""
    return (match[1].lstrip("0") or "0", base) if match and base.isdigit() else None


def strip_assignment(text: str) -> str:
    """Return `5` of `x = 5` and `x^2` of `f(x) = x^2`."""
    match = _ASSIGNED.match(text)
    if match and not re.search(r"[=<>]|\\(?:le|ge|lt|gt|ne)\b", text[match.end() :]):
        return text[match.end() :].strip()
    several = re.match(r"^\s*\(\s*[A-Za-z](?:\s*,\s*[A-Za-z])+\s*\)\s*=\s*(?=\()", text)
    if several:
        return text[several.end() :].strip()
    backwards = re.match(r"^([^=<>A-Za-z]+)=\s*[A-Za-z]$", text)
    return backwards[1].strip() if backwards else re.sub(r"^\s*[A-Za-z]\s*\\in\s*", "", text).strip()


def name_of(text: str) -> str | None:
    """Return `x` of `x = 5`; None where nothing is named, or a function, which goes by many names."""
    match = re.match(r"^\s*\\?([A-Za-z]+)(?:_\{?\w+\}?)?\s*=(?!=)", text)
    return None if match is None or (match[1] in ("y", "f") and not re.search(r"=\s*-?[\d.]+$", text)) else match[1]


def strip_remarks(text: str) -> str:
    """Return an answer without what only explains it: `(k is an integer)`, `(twelve)`."""
    text = re.sub(
        r"[,;]?\s*\(?\s*(?:\\text\{\s*(?:for|where)?\s*\})?\s*[kn]\s*\\in\s*(?:\\mathbb\s*)?\{?[ZN]\}?\s*\)?$", "", text
    )
    return re.sub(r"(?<=\d)\s*\([A-Za-z][A-Za-z ]+\)$", "", text)


def assignments(text: str) -> dict[str, str] | None:
    """Return the values of several named unknowns, `x=1, y=2`; None for anything else.

    Names that differ in their index only, x_1 and x_2, are roots of one unknown.
    """
    items = split_items(text) or []
    matches = [re.match(r"^\\?([A-Za-z]+)\s*=\s*([^=<>]+)$", item) for item in items]
    found = {match[1]: match[2].strip() for match in matches if match}
    return found if len(found) == len(items) > 1 else None


def point_of(text: str, other: str) -> str:
    r"""Return a row or column of a matrix as a point `(1,2)`, where what it is compared with is one."""
    vector = _VECTOR.match(text.strip())
    if vector is None or "\\begin" in other or not re.match(r"[(\[]|\\langle", other.strip()):
        return text
    return f"({re.sub(r'&|' + ROW_END, ',', vector[1])})"


def bracketed(text: str) -> Bracketed | None:
    """Take a tuple, an interval, a set or a bare list apart; None for anything else."""
    text = text.strip()
    for left, right, opening, closing in (
        ("{", "}", r"\{", r"\}"),
        ("<", ">", r"\langle", r"\rangle"),
        ("(", ")", "(", ")"),
        ("(", "]", "(", "]"),
        ("[", ")", "[", ")"),
        ("[", "]", "[", "]"),
        ("{", "}", "{", "}"),
    ):
        if text.startswith(opening) and text.endswith(closing):
            inner = text[len(opening) : len(text) - len(closing)]
            items = split_items(inner, grouped=False)
            if items is not None and (len(items) > 1 or left == "{"):
                return Bracketed(left, right, tuple(items))
    items = split_items(text)
    return Bracketed("", "", tuple(items)) if items is not None and len(items) > 1 else None


def split_items(text: str, *, grouped: bool = True) -> list[str] | None:
    r"""Split at separators outside brackets, `\pm` into both signs; None where brackets do not match.

    Args:
        text: list without its brackets.
        grouped: 1,234 is one number.
    """
    number = grouped and re.fullmatch(r"[+-]?[1-9]\d{0,2}(?:,\d{3})+(?:\.\d+)?", text.strip())
    if number or "\\begin" in text:
        return [text]
    items, depth, start, at = [], 0, 0, 0
    while at < len(text):
        character = text[at]
        if text.startswith(("\\{", "\\}"), at):
            depth += 1 if text[at + 1] == "{" else -1
            at += 2
            continue
        separator = _SEPARATOR.match(text, at) if depth == 0 else None
        if separator:
            items.append(text[start:at])
            start = at = separator.end()
            continue
        depth += (character in _OPEN) - (character in _CLOSE)
        if depth < 0:
            return None
        at += 1
    if depth:
        return None
    items = [item.strip() for item in [*items, text[start:]] if item.strip()]
    return [signed for item in items for signed in _both_signs(item)]


def _both_signs(item: str) -> list[str]:
    if item.count(r"\pm") != 1:
        return [item]
    return [item.replace(r"\pm", "+").removeprefix("+"), item.replace(r"\pm", "-")]
