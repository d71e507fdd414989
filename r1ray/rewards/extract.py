r"""Finds the final answer in a completion, and the gold answer in a dataset's answer column.

Only what follows `</think>` counts, and of several answers the last. Looked for in this order: the last `<answer>`
tag; the last `\boxed{}` or `\fbox{}`; what the last "the answer is", "final answer:", "答案是" or `####` announces; and
where a completion announces nothing, a last line that is nothing but an answer ("42", "$x=5$", "(B)"). A number
inside a sentence is no answer. Takes time linear in the text.
"""

from __future__ import annotations

import re

from r1ray.template import ANSWER_OPEN, answer_section, last_answer_tag

# The longest last line that can be an answer by itself.
_MAX_BARE_CHARS = 120

_BOXED = re.compile(r"\\(?:f?boxed|fbox)\s*(?:\{|(?P<bare>[A-Za-z0-9]))")
_BRACE = re.compile(r"\\.|[{}]", re.DOTALL)
_ANNOUNCED = re.compile(
    r"(?:\b(?:final|correct|right|best)\s+(?:answer|option|choice)|\b(?:the|my|our)\s+answer|\bmy\s+(?:choice|pick)|\banswer|\bans|^\W{0,4}correct(?=\s*:))"
    r"[ \t]*(?:\([^()\n]{0,40}\)[ \t]*)?(?:\*\*)?[ \t]*(?:would be|is|:|=|\uff1a)"
    r"(?:[ \t]*(?:therefore|thus|simply|:|=|\*\*))*\s*(?=\S)"
    r"|^\W{0,6}(?:final answer|answer|solution)\W{0,6}$\s*(?=\S)"
    r"|####[ \t]*(?=\S)"
    r"|(?:最终|最后|正确)?(?:答案|结果|答)(?:\**\s*)(?:应该|应)?(?:是|为|[:\uff1a=])[\s*:\uff1a]*(?=\S)"
    r"|(?:故|因此|所以|应|正确)?(?:选择?|选项)(?:是|为|项)?[\s*:\uff1a]*(?=[\uff08(\u3010]?(?-i:[A-Z](?![a-z])))",
    re.IGNORECASE | re.MULTILINE,
)
# "3.5 apples. Then" ends after "apples": a dot inside a number is not the end of the sentence.
_SENTENCE_END = re.compile(r"\n|(?<!\ba)(?<!\bp)(?<!\bm)\.(?=\s|$)|[。；]|(?<=\S)\*\*(?![\w(])")
# The words around an answer that a sentence about it goes on with.
_GOES_ON = re.compile(r"\s*(?:,?\s(?:because|since|which|as|so|hence|where|for)\b|，(?:因为|所以)).*", re.DOTALL)
_DELIMITERS = (("$$", "$$"), ("$", "$"), (r"\(", r"\)"), (r"\[", r"\]"))
_PROSE = re.compile(r"(?<![\\A-Za-z{])[A-Za-z]{2,}")
_MATH_WORDS = {
    "or", "and", "pi", "sqrt", "sin", "cos", "tan", "log", "ln", "exp", "cm", "mm", "km", "kg", "mol", "am", "pm",
    "true", "false", "yes", "no", "option", "infinity", "inf",
}  # fmt: skip
_GSM8K_MARK = "####"


def extract_answer(completion: str) -> str | None:
    """Return the bare answer of a completion, or None where it gives none."""
    section = answer_section(completion)
    tagged = last_answer_tag(section)
    text = section if tagged is None else tagged
    answer = last_boxed(text)
    if answer is None:
        answer = announced(text)
    if answer is None:
        answer = tagged if tagged is not None else bare_line(section)
    return bare(answer) or None if answer is not None else None


def extract_gold(gold: str) -> str:
    """Return the bare gold answer of a dataset's answer column: a box, GSM8K's `#### 42`, or the answer itself."""
    boxed = last_boxed(gold)
    return bare(gold.rpartition(_GSM8K_MARK)[2] if boxed is None else boxed)


def last_boxed(text: str) -> str | None:
    r"""Return the content of the closed `\boxed{}` that starts last, braces nested at will, or None."""
    starts: set[int] = set()
    last, content = -1, None
    for match in _BOXED.finditer(text):
        if match["bare"]:
            last, content = match.start(), match["bare"]
        else:
            starts.add(match.end())
    # One pass over all braces keeps this linear for a thousand boxes left open.
    open_braces: list[int] = []
    for brace in _BRACE.finditer(text) if starts else ():
        if brace[0] == "{":
            open_braces.append(brace.end())
        elif brace[0] == "}" and open_braces:
            start = open_braces.pop()
            if start in starts and start > last:
                last, content = start, text[start : brace.start()]
    return content


def announced(text: str) -> str | None:
    """Return what follows the last announcement of an answer, up to the end of its sentence, or None."""
    end = max((match.end() for match in _ANNOUNCED.finditer(text)), default=None)
    if end is None:
        return None
    for opening, closing in _DELIMITERS:
        # A formula right after it is the answer, whatever follows; several are not one.
        if text.startswith(opening, end) and (close := text.find(closing, end + len(opening))) > 0:
            rest = text[close + len(closing) :]
            stop = _SENTENCE_END.search(rest)
            if not re.search(r"\d|\$|\\\(", rest[: stop.start()] if stop else rest):
                return text[end : close + len(closing)]
            break
    stop = _SENTENCE_END.search(text, end)
    return _GOES_ON.sub("", text[end : stop.start() if stop else len(text)])


def bare_line(text: str) -> str | None:
    """Return the last line if it is nothing but an answer, or None."""
    line = text.strip().rpartition("\n")[2].strip()
    if not line or len(line) > _MAX_BARE_CHARS or ANSWER_OPEN in line or _BOXED.search(line):
        return None
    plain = re.sub(r"\\(?:text|mathrm|textbf|mathbf)\{[^{}]*\}", "", line)
    words = [word for word in _PROSE.findall(plain) if word.lower() not in _MATH_WORDS]
    # One word beside a number is its unit.
    allowed = 1 if re.search(r"\d", line) else 0
    return line if len(words) <= allowed and not re.search("[。？！?!]$", line) else None


def bare(text: str) -> str:
    """Strip white space, the full stop, bold marks and math delimiters around an answer."""
    text = text.strip().strip("*").strip().rstrip("。．；;，,").rstrip()
    # A whole sentence in Chinese around one number.
    sentence = re.fullmatch(r"[\u4e00-\u9fff，：]+?([-+]?\d[\d.,/]*%?)\s*[\u4e00-\u9fff]*", text)
    if sentence and not text.startswith("选"):
        return sentence[1]
    if not re.search(r"\b[ap]\.m\.$", text):
        text = text if text.endswith("...") else text.removesuffix(".").rstrip()
    # A sentence around one formula.
    around = re.fullmatch(r"([^$]*)\$([^$]+)\$([^$]*)", text)
    if around and re.search(r"[A-Za-z]{2}", around[1] + around[3]) and not re.search(r"[\d\\]", around[1] + around[3]):
        return around[2].strip()
    for opening, closing in _DELIMITERS:
        inner = text[len(opening) : -len(closing)]
        if len(text) > len(opening) + len(closing) and text.startswith(opening) and text.endswith(closing):
            # "$1$ or $2$" is not one formula.
            return text if opening in inner else inner.strip()
    return text
