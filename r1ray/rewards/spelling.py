r"""One spelling for the many ways to write an answer: LaTeX that math-verify reads.

    ½ → \frac{1}{2}    2√3 → 2\sqrt{3}    1.2e-5 → 1.2\times 10^{-5}    3 1/2 → (3+\frac{1}{2})

Works on text alone, in time linear in it, and knows nothing of what an answer means: that is `math_child.py`.
"""

from __future__ import annotations

import functools
import re
import unicodedata
from decimal import Decimal

_SCRIPTS = {
    "⁰¹²³⁴⁵⁶⁷⁸⁹⁺⁻ⁿ": ("^", "0123456789+-n"),
    "₀₁₂₃₄₅₆₇₈₉₊₋ₙ": ("_", "0123456789+-n"),
}
_SYMBOLS = {
    "−": "-", "–": "-", "—": "-", "\u2044": "/", "÷": "/", "×": r"\times ", "⋅": r"\cdot ", "·": r"\cdot ",
    "≤": r"\le ", "⩽": r"\le ", "≥": r"\ge ", "⩾": r"\ge ", "≠": r"\ne ", "∞": r"\infty ", "∪": r"\cup ",
    "∩": r"\cap ", "∅": r"\emptyset ", "∈": r"\in ", "±": r"\pm ", "°": r"^\circ ", "、": ",", "⟨": r"\langle ",
    "⟩": r"\rangle ", "∠": "", "ℝ": r"\mathbb{R}", "|": "|", "“": '"', "”": '"', "\u00a0": " ",
    "∛": r"\sqrt[3]", "ℤ": r"\mathbb{Z}",
    "α": r"\alpha ", "β": r"\beta ", "γ": r"\gamma ", "δ": r"\delta ", "θ": r"\theta ", "λ": r"\lambda ",
    "μ": r"\mu ", "π": r"\pi ", "ρ": r"\rho ", "σ": r"\sigma ", "φ": r"\phi ", "ω": r"\omega ",
}  # fmt: skip
_REALS = re.compile(
    r"^(?:x\s*\\in\s*)?(?:\\mathbb\s*\{?R\}?|\\R|(?:all|the set of(?: all)?) real(?: number)?s"
    r"|全体实数|实数集|一切实数|任意实数)$",
    re.I,
)
_SET_BUILDER = re.compile(r"^\\?\{\s*([a-z])\s*(?:\\in\s*\\mathbb\s*\{?R\}?\s*)?(?:\\mid|\\vert|\||:)\s*(.+?)\\?\}$")
_WORDED = re.compile(
    r"\\(?:mathrm|operatorname|textrm|textbf|textit|mbox|rm)\s*"
    r"\{((?=[\s~]*[A-Za-z])(?:[A-Za-z ./^0-9~]|\{[^{}]*\}){2,})\}"
)
_TABLE = str.maketrans(_SYMBOLS)
_WRAPPERS = re.compile(
    r"\\(?:mathbf|mathrm|mathit|mathsf|boldsymbol|bm|operatorname|displaystyle|textstyle|rm|bf)\b\s*(?![a-z])"
)
_SPACES = re.compile(r"(?<!\\)\\[,;:! ]|\\q?quad\b|~|\\hspace\{[^{}]*\}")
_NESTED_LIST = re.compile(r"^\[\s*(\[[^\[\]]*\](?:\s*,\s*\[[^\[\]]*\])*)\s*\]$")
_FUNCTIONS = "arcsin|arccos|arctan|sinh|cosh|tanh|sin|cos|tan|cot|sec|csc|log|ln|exp"
# An approximate value is judged as the value it states.
_ABOUT = re.compile(
    r"^(?:\\(?:approx|sim|simeq)\b|≈|~|(?:\\text\{\s*)?(?:(?:about|approximately|around|approx)\b\.?|大?约为?)\s*\}?)\s*",
    re.IGNORECASE,
)
_TRIGONOMETRIC = re.compile(r"\\(?:sin|cos|tan|cot|sec|csc)\b")
_MAGNITUDES = {"thousand": 3, "million": 6, "billion": 9, "trillion": 12, "万": 4, "亿": 8}


def spell(text: str) -> str:
    """Return an answer in the one spelling."""
    text = _spell_latex(_spell_plain(_spell_unicode(text))).strip()
    text = re.sub(r"(?<!\\)\\$", "", text).strip()
    text = _ABOUT.sub("", text)
    if _REALS.match(re.sub(r"\\text\{([^{}]*)\}", r"\1", text)):
        return r"(-\infty,\infty)"
    return re.sub(r"^<(.+,.+)>$", r"\\langle \1\\rangle ", _SET_BUILDER.sub(r"\2", text))


def _spell_unicode(text: str) -> str:
    for characters, (mark, plain) in _SCRIPTS.items():
        table = str.maketrans(characters, plain)
        text = re.sub(f"[{characters}]+", functools.partial(_script, mark, table), text)
    text = re.sub(r"(\d)([¼-¾⅐-⅞])", r"\1 \2", text)
    # Twice, since the normal form of some symbols is another symbol, and that of others a letter.
    return unicodedata.normalize("NFKC", text.translate(_TABLE)).translate(_TABLE)


def _script(mark: str, table: dict[int, int], match: re.Match[str]) -> str:
    return f"{mark}{{{match[0].translate(table)}}}"


def _spell_plain(text: str) -> str:
    """Give what is written as in a program or on a keyboard its LaTeX form."""
    text = text.replace("**", "^")
    if text.count("$") % 2 == 0:
        text = re.sub(r"(?<!\\)\$", " ", text)
    for plain, latex in (("<=", r"\le "), (">=", r"\ge "), ("=<", r"\le "), ("!=", r"\ne ")):
        text = text.replace(plain, latex)
    text = re.sub(r"(?<=[\d.])[eE]([+-]?\d+)(?![\d.A-Za-z])", lambda m: rf"\times 10^{{{int(m[1])}}}", text)
    text = re.sub(r"(?<=\d)\s*[x*]\s*(?=10\s*\^)", r"\\times ", text)
    text = re.sub(r"\^\s*([+-]?\d+(?:\.\d+)?)", r"^{\1}", text)
    text = _grouped(text, re.compile(r"\^\s*\("), "^{", "}")
    text = _grouped(text, re.compile(r"(?<![\\A-Za-z])sqrt\s*\("), r"\sqrt{", "}")
    text = re.sub(r"[√]\s*(\d+(?:\.\d+)?|[a-zA-Z])", r"\\sqrt{\1}", text)
    text = _grouped(text, re.compile(r"√\s*\("), r"\sqrt{", "}").replace("√", r"\sqrt")
    text = re.sub(rf"(?<![\\A-Za-z])({_FUNCTIONS})(?![A-Za-z])", r"\\\1", text)
    text = re.sub(r"(?<![\\A-Za-z])(pi|theta|alpha|beta|phi|omega)(?![A-Za-z])", r"\\\1 ", text)
    text = re.sub(r"(?<![\\A-Za-z])(?:infinity|infty|inf|oo)(?![A-Za-z])", r"\\infty ", text)
    return re.sub(r"(?<=[\w)}])\s*\*\s*(?=[\w(\\])", r"\\cdot ", text)


def _spell_latex(text: str) -> str:
    text = re.sub(rf"\\(?:mathrm|operatorname|textrm)\s*\{{({_FUNCTIONS})\}}", r"\\\1 ", text)
    text = _WORDED.sub(_text, text)
    text = re.sub(r"\\(?:underline|boxed|fbox|overbrace|underbrace)\s*\{([^{}]*)\}", r"\1", text)
    cases = re.match(r"^\\begin\{cases\}(.*)\\end\{cases\}$", text.strip(), re.DOTALL)
    text = re.sub(r"\\\\", ",", cases[1]).replace("&", " ") if cases else text
    text = _NESTED_LIST.sub(_matrix, text.strip())
    text = _WRAPPERS.sub("", re.sub(r"\\[dtc]frac\b|\\[dtc]frac(?=\d)", r"\\frac", text))
    text = re.sub(r"\\(?:left|right|bigl?|bigr?|Bigl?|Bigr?)\b\.?", "", text).replace(r"\(", "").replace(r"\)", "")
    text = re.sub(r"\\(?:lvert|rvert|vert)\b", "|", text)
    text = re.sub(r"\\[dt]binom\b", r"\\binom", text)
    text = re.sub(r"\\(?:leqslant|leq)\b", r"\\le ", re.sub(r"\\(?:geqslant|geq)\b", r"\\ge ", text))
    text = re.sub(r"\\varnothing\b|\\\{\s*\\\}", r"\\emptyset", text)
    text = re.sub(r"(?<=\d)\s*\{,\}\s*(?=\d)", ",", text)
    text = re.sub(r"(?<=\d)(?:\\[,;! ]|,\\!|\s)+(?=\d{3}(?:\D|$))", _joins_thousands(text), text)
    text = _SPACES.sub(" ", text).replace("{:}", ":")
    text = re.sub(r"\\log_\{?e\}?", r"\\ln", text)
    text = re.sub(r"\\frac\s*(\d)\s*(\d)", r"\\frac{\1}{\2}", text)
    text = re.sub(r"\\frac\s*(\d|[a-z])\s*\{", r"\\frac{\1}{", text)
    text = re.sub(r"(\\frac\s*\{[^{}]*\})\s*(\d|[a-z])", r"\1{\2}", text)
    text = re.sub(r"\\sqrt(\s*\[\d\])?\s*(\d|[a-z])", r"\\sqrt\1{\2}", text)
    text = re.sub(r"\\frac\s*(\\[a-z]+)\s*(\d|[a-z])", r"\\frac{\1}{\2}", text)
    if _TRIGONOMETRIC.search(text):
        text = re.sub(r"(\d+(?:\.\d+)?)\s*\^\s*\{?\s*\\circ\s*\}?", r"(\1\\cdot\\frac{\\pi}{180})", text)
    text = re.sub(r"\\textcircled\s*\{(\d)\}", r"\1", text)
    return _spell_numbers(text)


def _text(match: re.Match[str]) -> str:
    return r"\text{" + re.sub("[{}]", "", match[1]).replace("~", " ") + "}"


def _matrix(match: re.Match[str]) -> str:
    rows = re.findall(r"\[([^\[\]]*)\]", match[1])
    return r"\begin{pmatrix}" + r"\\".join(row.replace(",", "&") for row in rows) + r"\end{pmatrix}"


def _joins_thousands(text: str) -> str:
    """Return what stands for a space between digits: nothing in `1 234 567`, itself in anything else."""
    plain = re.sub(r"\\[,;! ]|,\\!", " ", text).strip()
    return "" if re.fullmatch(r"\W*\d{1,3}(?:[ ,]+\d{3})+(?:\.\d+)?\D*", plain) else " "


def _spell_numbers(text: str) -> str:
    text = re.sub(
        rf"(?<![\w.])(\d+(?:\.\d+)?)\s*({'|'.join(_MAGNITUDES)})(?![A-Za-z])",
        lambda m: rf"{m[1]}\times 10^{{{_MAGNITUDES[m[2]]}}}",
        text,
    )
    text = re.sub(r"(?<![\w.^{])(-?\d+(?:\.\d+)?)\s*\\(?:times|cdot)\s*10\^\{(-?\d{1,3})\}", _decimal, text)
    # 0.333... repeats its last digit.
    text = re.sub(r"(\d*)\.(\d*?)(\d)\3{2,}\s*(?:\.\.\.|\\[lc]?dots)()", _repeating, text)
    text = re.sub(r"(\d*)\.(\d*)(?:\\(?:overline|bar|dot)\{(\d+)\}|\\(?:overline|bar|dot)(\d))", _repeating, text)
    # Mixed numbers, which math-verify reads as products or not at all.
    text = re.sub(r"(?<![\w.}^])(\d+)\s+(\d+)\s*/\s*(\d+)(?![\d.])", r"(\1+\\frac{\2}{\3})", text)
    return re.sub(r"(?<![\w.}^])(\d+)\s*\\frac\{(\d+)\}\{(\d+)\}", r"(\1+\\frac{\2}{\3})", text)


def _decimal(match: re.Match[str]) -> str:
    return format(Decimal(match[1]).scaleb(int(match[2])), "f")


def _repeating(match: re.Match[str]) -> str:
    r"""Return `0.1\overline{6}` as a fraction: (16 - 1) / 90."""
    whole, fixed, period = match[1] or "0", match[2], match[3] or match[4]
    numerator = int(whole + fixed + period) - int(whole + fixed)
    return rf"\frac{{{numerator}}}{{{(10 ** len(period) - 1) * 10 ** len(fixed)}}}"


def _grouped(text: str, opening: re.Pattern[str], left: str, right: str) -> str:
    """Replace `opening`..`)` by `left`..`right`, parentheses inside matched, from the innermost out."""
    for match in reversed(list(opening.finditer(text))):
        close = _closing(text, match.end())
        if close is not None:
            text = text[: match.start()] + left + text[match.end() : close] + right + text[close + 1 :]
    return text


def _closing(text: str, start: int) -> int | None:
    depth = 1
    for index in range(start, len(text)):
        depth += {"(": 1, ")": -1}.get(text[index], 0)
        if depth == 0:
            return index
    return None
