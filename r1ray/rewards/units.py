"""Takes the unit off an answer: `12 cm`, `$18.90`, `30°`, `15 个` are a value and a unit.

Units of measure differ (5 cm is not 5 m); other words beside a number (apples, ways, 个) only say what is counted.
"""

from __future__ import annotations

import re

_NAMES = {
    "mm": "millimeter millimetre 毫米", "cm": "centimeter centimetre 厘米 公分", "dm": "decimeter decimetre 分米",
    "m": "meter metre 米", "km": "kilometer kilometre 千米 公里", "in": "inch inche inches", "ft": "foot feet",
    "yd": "yard", "mi": "mile", "mg": "milligram 毫克", "g": "gram gm 克", "kg": "kilogram 千克 公斤",
    "t": "ton tonne 吨",
    "lb": "pound lbs", "oz": "ounce", "ml": "milliliter millilitre 毫升", "l": "liter litre 升", "gal": "gallon",
    "ms": "millisecond", "s": "second sec 秒", "min": "minute 分钟", "h": "hour hr 小时 时", "day": "d 天 日",
    "week": "wk 周", "month": "月", "year": "yr 年", "degree": "deg 度", "radian": "rad 弧度", "celsius": "",
    "fahrenheit": "", "kelvin": "k", "n": "newton",
    "μm": "micrometer micrometre micron 微米", "j": "joule", "kj": "kilojoule", "w": "watt", "kw": "kilowatt",
    "v": "volt", "a": "ampere amp", "pa": "pascal", "hz": "hertz", "ohm": "", "mol": "mole", "dollar": "usd $ us$ 美元",
    "cent": "¢", "euro": "eur €", "yuan": "rmb cny ¥ 元 块", "gbp": "£", "rupee": "₹ inr", "yen": "jpy", "percent": "",
}  # fmt: skip
_CANONICAL = {name: unit for unit, names in _NAMES.items() for name in (unit, *names.split())}
_POWER = {"square": "2", "squared": "2", "sq": "2", "cubic": "3", "cubed": "3", "平方": "2", "立方": "3"}
_HAN = r"\u4e00-\u9fff"
_CURRENCY = re.compile(
    r"^([-+]?)\s*(\\?\$|US\\?\$|[€£¥₹¢]|(?:USD|EUR|GBP|CNY|RMB)(?![A-Za-z]))\s*(?=[\d.\\(])", re.IGNORECASE
)
_WORDED = r"\\(?:text|textrm|textbf|mathrm|mbox|rm)\s*\{[^{}]*\}"
# Words after the value: in \text{}, in Chinese, or plain.
_TRAILING = re.compile(
    rf"^(?P<value>.*?[\d)}}\]]|.*?\\(?:pi|infty)|.*?)\s*(?P<unit>(?:{_WORDED}|\^\s*\{{?\s*\\circ\s*\}}?\s*[CF]?(?![A-Za-z])"
    rf"|[{_HAN}]+|(?<![A-Za-z\\])[A-Za-z]{{1,}}\.?(?:\s*/\s*[A-Za-z]+)?|[$€£¥₹¢])"
    rf"(?:[\s{_HAN}]|{_WORDED}|[A-Za-z]+\.?|/|\^\s*\{{?-?[0-9]\}}?|\\cdot)*)$",
    re.DOTALL,
)
_NOT_UNITS = {"i", "e", "x", "y", "z", "n", "k", "a", "b", "c", "or", "and", "pi", "am", "pm", "a.m.", "p.m."}


def split_unit(text: str) -> tuple[str, str | None]:
    """Return an answer's value and its unit, None where it has none.

    Args:
        text: in the one spelling of `spelling.spell`.
    """
    currency = _CURRENCY.match(text)
    if currency:
        rest, _ = split_unit(text[currency.end() :])
        return currency[1] + rest, _canonical(currency[2].replace("\\", ""))
    match = _TRAILING.match(text)
    if match is None or not re.search(r"\d|\\pi", match["value"]) or match["value"].endswith(("=", "<", ">", ",", "_")):
        return text, None
    unit = match["unit"]
    if re.search(r"\\text\{\s*(?:or|and|if|for|where)\b", unit) or not _is_unit(unit, match["value"]):
        return text, None
    return match["value"].strip(), _canonical(unit)


def same_unit(one: str | None, other: str | None) -> bool:
    """Whether two units may stand for the same: only two known ones can contradict each other."""
    return one is None or other is None or one == other or not (_is_known(one) and _is_known(other))


def _is_unit(unit: str, value: str) -> bool:
    if unit.startswith("\\") or unit.startswith("^") or re.match(f"[{_HAN}$€£¥₹¢]", unit):
        return True
    word = re.match(r"[A-Za-z.]+", unit)
    plain = word[0].lower() if word else ""
    # A newton is written N, while n may be a variable.
    if (plain in _NOT_UNITS and unit != "N") or re.search(r"[A-Za-z]", re.sub(r"\\[A-Za-z]+", "", value)):
        return False
    # A single letter may be a variable; units of measure follow plain numbers.
    return len(plain) >= 3 or _canonical(unit) in _NAMES or _is_known(_canonical(unit))


def _canonical(unit: str) -> str:
    text = re.sub(r"\\(?:text|textrm|textbf|mathrm|mbox|rm)\s*\{([^{}]*)\}", r" \1 ", unit)
    text = re.sub(r"\^\s*\{?\s*\\circ\s*\}?", " degree ", text).replace("\\cdot", " ").lower()
    text = re.sub(r"\bper\b", "/", text)
    if "degree" in text and re.search(r"\b[cf]\b|celsius|fahrenheit", text):
        return "fahrenheit" if re.search(r"\bf\b|fahrenheit", text) else "celsius"
    text = re.sub(rf"(平方|立方)([{_HAN}]+)", r"\1 \2", text)
    powers = [_POWER[word] for word in re.findall(rf"[a-z]+|[{_HAN}]+", text) if word in _POWER]
    powers += re.findall(r"\^\s*\{?(-?\d)\}?", text)
    parts = []
    for part in re.sub(r"\^\s*\{?-?\d\}?", "", text).split("/"):
        words = [word for word in re.findall(rf"[a-z]+|[{_HAN}]+|[$€£¥₹¢%]", part) if word not in _POWER]
        parts.append(" ".join(_singular(word) for word in words))
    return "/".join(parts) + "".join(f"^{power}" for power in powers if power != "1")


def _singular(word: str) -> str:
    if word in _CANONICAL:
        return _CANONICAL[word]
    bare = word.removesuffix("s")
    return _CANONICAL.get(bare, bare)


def _is_known(unit: str) -> bool:
    return all(part in _NAMES for part in re.sub(r"\^-?\d", "", unit).split("/")) and bool(unit)
