"""The child that compares math answers: `python -m r1ray.rewards.math_child`, started by `accuracy.py`.

Takes `{"gold", "answer", "bare_percent"}`, bare texts, and returns a verdict. Formulas are math-verify's; around it,
answers are brought to one spelling (`spelling.py`) and taken apart where they are more than a formula: units
(`units.py`), words, percentages, lists, brackets, times, ratios, numerals (`answer_forms.py`). math-verify's own time
limits are off, since they need SIGALRM and an interruptible computation: the parent kills instead.
"""

from __future__ import annotations

import logging
import re
from functools import lru_cache
from typing import Any

from latex2sympy2_extended.latex2sympy2 import NormalizationConfig
from math_verify import LatexExtractionConfig, parse, verify
from sympy import EmptySet, Equality, Float, I, Rational, Set, Union
from sympy.logic.boolalg import Boolean

from r1ray.rewards import answer_forms as forms
from r1ray.rewards.math_answer import compare_plain_numbers
from r1ray.rewards.spelling import spell
from r1ray.rewards.units import same_unit, split_unit
from r1ray.sandbox.server import serve
from r1ray.types import Verdict

# Digits after the point to which a decimal has to agree with an exact value.
_ROUNDING = 6
# Units are ours: math-verify's own list takes variables for them.
_NORMALISATION = NormalizationConfig(
    basic_latex=True, units=False, malformed_operators=True, nits=True, boxed="all", equations=False
)
_EXTRACTION = [LatexExtractionConfig(boxed_match_priority=0, normalization_config=_NORMALISATION)]
# Letters beside which i is the imaginary unit, and no index.
_COMPLEX_NAMES = {"i", "x", "y", "z", "t", "theta", "omega", "phi"}
_PAIRS = (("{", "}"), ("(", ")"), (r"\begin", r"\end"))
_UNKNOWN = re.compile(r"\s*[A-Za-z]\s*=")
_NO_SOLUTION = re.compile(
    r"\\emptyset|(?:there (?:is|are) )?no (?:real |such )?(?:solution|root|value|number)s?(?: exists?)?|empty set"
    r"|没有解|无解|空集|无实数解"
)
_RELATION = re.compile(r"[<>]|\\(?:le|ge|lt|gt)\b")


def judge(request: dict[str, Any]) -> str:
    """Return the verdict on one answer: `correct`, `wrong`, `unparseable`, or `error` for an unparseable gold.

    Raises:
        MemoryError: the comparison needs more than the limit.
    """
    gold = spell(request["gold"])
    if not _read_gold(gold):
        # Symbols beyond the parser can be right only to the letter, and nothing else can be called wrong.
        letter_for_letter = _is_well_formed(gold) and _squeezed(gold) == _squeezed(spell(request["answer"]))
        return Verdict.CORRECT if letter_for_letter else Verdict.ERROR
    try:
        answer = spell(request["answer"])
        if same(gold, answer, bare_percent=request["bare_percent"]):
            return Verdict.CORRECT
        return Verdict.WRONG if _readable(answer) else Verdict.UNPARSEABLE
    except MemoryError:
        raise
    except Exception:  # the worker boundary: what cannot be worked through is no answer
        return Verdict.UNPARSEABLE


def _is_well_formed(text: str) -> bool:
    return bool(re.search(r"[^\W_]", text)) and all(text.count(left) == text.count(right) for left, right in _PAIRS)


@lru_cache(maxsize=1024)
def _read_gold(gold: str) -> bool:
    try:
        return _readable(gold)
    except RecursionError:
        return False


def same(gold: str, answer: str, *, bare_percent: bool) -> bool:
    """Whether two answers in the one spelling are the same."""
    if _squeezed(gold) == _squeezed(answer) and answer:
        return True
    for form in (_same_numerals, _same_times, _same_words, _same_ratios):
        decided = form(gold, answer)
        if decided is not None:
            return decided
    percent = _same_percent(gold, answer, bare_percent=bare_percent)
    if percent is not None:
        return percent
    gold_value, gold_unit = split_unit(gold)
    value, unit = split_unit(answer)
    if not same_unit(gold_unit, unit):
        return False
    gold_value, value = _without_assignments(forms.strip_remarks(gold_value), forms.strip_remarks(value))
    if (gold_value, value) != (gold, answer):
        return _squeezed(gold_value) == _squeezed(value) or same(gold_value, value, bare_percent=bare_percent)
    decided = _same_assignments(gold_value, value)
    if decided is None:
        decided = _same_brackets(gold_value, value)
    return _same_formula(gold_value, value) if decided is None else decided


def _without_assignments(gold: str, answer: str) -> tuple[str, str]:
    """Take `x =` off both sides, unless the other is an equation of another form."""
    wanted, given = forms.strip_assignment(gold), forms.strip_assignment(answer)
    names = [forms.name_of(text) for text in (gold, answer)]
    if None not in names and names[0] != names[1]:
        return gold, answer
    # y = 2x and x = y/2 each give one unknown by the other, and are one equation.
    if _UNKNOWN.match(gold) and _UNKNOWN.match(answer) and gold.lstrip()[0] in given and gold.lstrip()[0] not in wanted:
        return gold, answer
    kept_equation = any(after == before and "=" in before for before, after in ((gold, wanted), (answer, given)))
    return (gold, answer) if kept_equation else (wanted, given)


def _squeezed(text: str) -> str:
    return re.sub(r"\s+", "", text)


def _readable(text: str) -> bool:
    if forms.words_of(text) or forms.numeral_of(text) or forms.time_of(text) or forms.ratio_of(text):
        return True
    value = forms.strip_assignment(split_unit(forms.percent_of(text) or text)[0])
    brackets = forms.bracketed(value)
    return bool(brackets) or bool(_parse(value)) or bool(_parse(text))


def _same_words(gold: str, answer: str) -> bool | None:
    wanted, given = forms.words_of(gold), forms.words_of(answer)
    if all(_NO_SOLUTION.fullmatch(words or text) for words, text in ((wanted, gold.strip()), (given, answer.strip()))):
        return True
    if wanted is None:
        number = given and forms.number_of_words(given)
        return number == _squeezed(gold) if number else None
    if given is not None:
        return wanted == given
    return _squeezed(answer) == forms.number_of_words(wanted) or answer.lower() == wanted


def _same_numerals(gold: str, answer: str) -> bool | None:
    wanted, given = forms.numeral_of(gold), forms.numeral_of(answer)
    if wanted is None or (given is None and not re.fullmatch("[0-9A-F]+", answer)):
        return None
    return wanted == (given or (answer.lstrip("0") or "0", wanted[1]))


def _same_times(gold: str, answer: str) -> bool | None:
    wanted, given = forms.time_of(gold), forms.time_of(answer)
    if wanted is None or given is None:
        return None
    hours = {forms.hour_of(wanted), forms.hour_of(given)}
    same_hour = len(hours) == 1 or (wanted[0] == given[0] and "" in (wanted[3], given[3]))
    return same_hour and wanted[1:3] == given[1:3]


def _same_ratios(gold: str, answer: str) -> bool | None:
    wanted, given = forms.ratio_of(gold), forms.ratio_of(answer)
    if wanted is None:
        return None
    if given is None:
        return len(wanted) == 2 and _same_formula(rf"\frac{{{wanted[0]}}}{{{wanted[1]}}}", answer)
    crossed = [(rf"({a})\cdot({given[0]})", rf"({b})\cdot({wanted[0]})") for a, b in zip(wanted, given, strict=False)]
    return len(wanted) == len(given) and all(_same_formula(left, right) for left, right in crossed)


def _same_percent(gold: str, answer: str, *, bare_percent: bool) -> bool | None:
    wanted, given = forms.percent_of(gold), forms.percent_of(answer)
    if wanted is None and given is None:
        return None
    if wanted is not None and given is not None:
        return _same_formula(wanted, given)
    percent, other, bare = (given, gold, bare_percent) if given is not None else (wanted, answer, bare_percent)
    assert percent is not None
    return _same_formula(rf"\frac{{{percent}}}{{100}}", other) or (bare and _same_formula(percent, other))


def _same_assignments(gold: str, answer: str) -> bool | None:
    """Compare the values of several unknowns by name, or with a tuple in the order of their names."""
    wanted, given = forms.assignments(gold), forms.assignments(answer)
    if wanted is None and given is None:
        return None
    if wanted is not None and given is not None:
        return wanted.keys() == given.keys() and all(_same_item(wanted[name], given[name]) for name in wanted)
    named, other = (wanted, answer) if given is None else (given, gold)
    assert named is not None
    plain = forms.bracketed(other)
    if plain is None or plain.left not in ("", "(", "<") or any(re.search(r"=", item) for item in plain.items):
        return False
    values = [named[name] for name in sorted(named)]
    return len(values) == len(plain.items) and all(_same_item(a, b) for a, b in zip(values, plain.items, strict=True))


def _same_brackets(gold: str, answer: str) -> bool | None:
    """Compare lists, sets, tuples and intervals item by item; None where that is no matter of items."""
    gold, answer = forms.point_of(gold, answer), forms.point_of(answer, gold)
    wanted, given = forms.bracketed(gold), forms.bracketed(answer)
    if any(re.search(r"\\(?:cup|cap|le|ge|lt|gt|begin|setminus)\b|[<>]", text) for text in (gold, answer)):
        return None
    if wanted is None and given is None:
        return None
    if wanted is None or given is None:
        # A set of one is what it holds; a list is not one of its items.
        single = wanted or given
        assert single is not None
        if single.left != "{" or len(single.items) != 1:
            return False if wanted is None or wanted.left in ("", "{") else None
        return _same_item(*((single.items[0], answer) if wanted else (gold, single.items[0])))
    if len(wanted.items) != len(given.items):
        return False
    if wanted.ordered and (given.ordered or len(wanted.items) != 2):
        pairs = zip(wanted.items, given.items, strict=True)
        two = len(wanted.items) == 2
        brackets = (
            not two or (wanted.left, wanted.right) == (given.left, given.right) or "<" in (wanted.left, given.left)
        )
        return brackets and all(_same_item(a, b) for a, b in pairs)
    if wanted.left == "(" and not given.left and not given.right:
        # A point without its parentheses: only in its order.
        return (
            len(wanted.items) == len(given.items)
            and wanted.right == ")"
            and all(_same_item(a, b) for a, b in zip(wanted.items, given.items, strict=True))
        )
    if wanted.ordered or given.ordered:
        return given.ordered and not wanted.left and _same_unordered(wanted.items, given.items)
    return _same_unordered(wanted.items, given.items)


def _same_unordered(wanted: tuple[str, ...], given: tuple[str, ...]) -> bool:
    left = list(given)
    for item in wanted:
        match = next((i for i, other in enumerate(left) if _same_item(item, other)), None)
        if match is None:
            return False
        del left[match]
    return True


def _same_item(gold: str, answer: str) -> bool:
    return same(gold, answer, bare_percent=False)


def _same_formula(gold: str, answer: str) -> bool:
    equal = compare_plain_numbers(answer, gold)
    if equal is not None:
        return equal
    try:
        if _RELATION.search(gold) or _RELATION.search(answer):
            sets = _as_set(gold), _as_set(answer)
            if None not in sets:
                return bool(sets[0] == sets[1])
        wanted, given = _parse(gold), _parse(answer)
        if not wanted or not given:
            return False
        wanted, given = _with_imaginary_unit(wanted[0], given[0])
        # Equality has no direction, and math-verify sometimes sees it from one side only.
        return _verified(wanted, given) or _verified(given, wanted)
    except MemoryError:
        raise
    except Exception:  # sympy raises nearly anything on nonsense, and nonsense equals nothing
        return False


def _with_imaginary_unit(*sides: Any) -> tuple[Any, Any]:
    """Read the letter i as the imaginary unit, where no other letter says that it counts something."""
    symbols = set().union(*(getattr(side, "free_symbols", set()) for side in sides))
    unit = {symbol: I for symbol in symbols if symbol.name == "i"}
    if not unit or any(symbol.name not in _COMPLEX_NAMES for symbol in symbols):
        return sides[0], sides[1]
    first, second = (side.subs(unit) if hasattr(side, "subs") else side for side in sides)
    return first, second


def _verified(gold: Any, answer: Any) -> bool:
    return bool(
        verify(
            gold,
            answer,
            float_rounding=_ROUNDING,
            allow_set_relation_comp=True,
            timeout_seconds=None,
            raise_on_error=True,
        )
    )


def _ascending(text: str) -> str:
    """Return `3 > x > 1` as `1 < x < 3`."""
    parts = re.split(r"\s*(>|\\ge\b|\\gt\b)\s*", text)
    if len(parts) != 5:
        return text
    turned = [r"\le " if sign == r"\ge" else "<" for sign in (parts[3], parts[1])]
    return f"{parts[4]}{turned[0]}{parts[2]}{turned[1]}{parts[0]}"


def _as_set(text: str) -> Set | None:
    """Return the set that an interval, or inequalities in one variable joined by `or`, describe; else None."""
    union: Set = EmptySet
    for item in [text] if forms.bracketed(text) is None else forms.split_items(text) or ():
        parsed = _parse(_ascending(item))
        if not parsed:
            return None
        found = parsed[0]
        # 0.5 and 1/2 bound the same set.
        found = found.xreplace({number: Rational(str(number)) for number in found.atoms(Float)})
        if isinstance(found, Boolean) and not isinstance(found, Equality) and len(found.free_symbols) == 1:
            found = found.as_set()
        if not isinstance(found, Set):
            return None
        union = Union(union, found)
    return union


@lru_cache(maxsize=1024)
def _parse(text: str) -> tuple[Any, ...]:
    """Return the parsed formula, or nothing. The completions of a group share their gold's."""
    return tuple(parse(rf"\boxed{{{text}}}", _EXTRACTION, parsing_timeout=None, fallback_mode="no_fallback")[:1])


if __name__ == "__main__":
    # math-verify warns once that its time limits are off.
    logging.disable(logging.CRITICAL)
    # The parsers are loaded at the first formula, which takes seconds that no answer should be charged for.
    judge({"gold": r"\frac{1}{2}", "answer": "0.5", "bare_percent": False})
    serve(judge)
