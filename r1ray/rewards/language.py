"""The language reward: target-language words over all words of the chain of thought.

`words.py` says what a word is. Where a script belongs to one language it decides (hangul is Korean); Han is Japanese
in sentences with kana and Chinese elsewhere. Languages that share a script (Latin, Cyrillic, Arabic, Devanagari) are
told apart by py3langid, a naive Bayes model inside its package (BSD licence, 4.5 MB), on windows of enough words.
Does not judge the answer, nor how well the language is written.

Source: arXiv:2501.12948, section 2.3.2: the proportion of target-language words in the chain of thought.
"""

from __future__ import annotations

import itertools
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

from r1ray.errors import ConfigError, DataError
from r1ray.rewards.langid import best_language, prepare
from r1ray.rewards.language_names import NAMES, RELATIVES, SCRIPTS, language_code
from r1ray.rewards.protocol import RewardResult
from r1ray.rewards.words import prose, sentences, words
from r1ray.template import THINK_CLOSE
from r1ray.types import Completion, Prompt

_SCOPES = ("think", "all")
_METADATA = "target_language"
# Naive Bayes is right on 99% of windows of six words. Shorter sentences are judged together with the like around them.
_WINDOW_WORDS = 6
# A longer sentence may change its language: it is judged in pieces of about this many words.
_PIECE_WORDS = 12
# Kana's share of a sentence above which its ideographs are Japanese; ideographs in a row that must be Chinese.
_KANA_SHARE = 0.1
_LONG_HAN = 8
_KANA = ("Hiragana", "Katakana")


@dataclass(frozen=True, slots=True)
class _Sentence:
    """The words of one sentence, by script."""

    by_script: dict[str, list[str]]

    def count(self, *scripts: str) -> int:
        return sum(len(self.by_script.get(script, ())) for script in scripts)


class LanguageReward:
    """Words of the target language over words, in [0, 1].

    A chain without any words earns `no_words`, by default 0: full credit would teach the policy not to think, or to
    hide its thoughts in code and formulas.
    """

    def __init__(self, *, target: str | None = None, scope: str = "think", no_words: float = 0.0) -> None:
        """Choose the language and the text.

        Args:
            target: ISO 639-1 code or English name; None: per prompt, from its metadata `target_language` where
                it has that, else the language of its question, English where a question has no words.
            scope: `think`: text before the last closing think tag, and the whole text where there is none, since a
                chain cut short or without tags is still a chain; `all`: everything.
            no_words: value of a chain without words.

        Raises:
            ConfigError: unknown language or scope, or `no_words` outside [0, 1].
        """
        if scope not in _SCOPES:
            raise ConfigError(f"reward language: option scope must be one of {', '.join(_SCOPES)}, got {scope!r}")
        if not 0 <= no_words <= 1:
            raise ConfigError(f"reward language: option no_words must be in [0, 1], got {no_words}: it is a share")
        self._target = None
        if target is not None:
            self._target = language_code(target)
            if self._target is None:
                raise ConfigError(f"reward language: option target {_unknown(target)}")
        self._scope = scope
        self._no_words = no_words

    def start(self) -> None:
        """Load the model, which takes a second."""
        prepare()

    def __call__(self, prompt: Prompt, completion: Completion) -> RewardResult:
        """Return the share of words in the target language.

        Raises:
            DataError: the prompt's metadata name a language that is not supported.
        """
        target = self._target or _of_prompt(prompt)
        text = completion.text
        if self._scope == "think" and THINK_CLOSE in text:
            text = text.rpartition(THINK_CLOSE)[0]
        hits, total = count_words(text, target)
        detail = f"{hits} of {total} words are {NAMES[target]}"
        return RewardResult(hits / total if total else self._no_words, detail=detail)


def count_words(text: str, target: str) -> tuple[int, int]:
    """Count words in the language `target` (an ISO 639-1 code), and all words."""
    parts = [_by_script(sentence) for sentence in sentences(prose(text))]
    hits = 0
    for script in SCRIPTS[target]:
        if script == "Han":
            hits += sum(_han_hits(part, target) for part in parts)
        elif len(RELATIVES[script]) == 1:
            hits += sum(part.count(script) for part in parts)
        else:
            hits += _hits_among_relatives([part.by_script.get(script, []) for part in parts], script, target)
    return hits, sum(part.count(*part.by_script) for part in parts)


def detect_language(text: str) -> str:
    """Return the ISO 639-1 code of a text's language; English where there are no words of a known script."""
    part = _by_script(prose(text))
    scripts = Counter({script: len(found) for script, found in part.by_script.items() if script in RELATIVES})
    if not scripts:
        return "en"
    if part.count(*_KANA) and part.count("Han", *_KANA) * 2 > part.count(*part.by_script):
        return "ja" if _is_japanese(part) else "zh"
    script = scripts.most_common(1)[0][0]
    languages = RELATIVES[script]
    if script == "Han" or len(languages) == 1:
        return "zh" if script == "Han" else languages[0]
    return best_language(" ".join(part.by_script[script]), script, favoured="en" if script == "Latin" else None)


def _hits_among_relatives(sentence_words: Sequence[Sequence[str]], script: str, target: str) -> int:
    """Count words of one script that stand in windows of the target language."""
    return sum(
        len(window)
        for window in _windows(sentence_words)
        if best_language(" ".join(window), script, favoured=target) == target
    )


def _windows(sentence_words: Sequence[Sequence[str]]) -> list[list[str]]:
    """Cut long sentences into pieces, and join short ones that follow each other until they are long enough.

    What is left of a row of short sentences joins the window before it, or the one after.
    """
    windows: list[list[str]] = []
    short: list[str] = []
    for sentence in sentence_words:
        if len(sentence) < _WINDOW_WORDS:
            short.extend(sentence)
            if len(short) >= _WINDOW_WORDS:
                windows.append(short)
                short = []
            continue
        number = max(1, len(sentence) // _PIECE_WORDS)
        edges = [len(sentence) * i // number for i in range(number + 1)]
        windows.extend([*sentence[start:end]] for start, end in itertools.pairwise(edges))
    if short and windows:
        windows[-1].extend(short)
    elif short:
        windows.append(short)
    return windows


def _han_hits(sentence: _Sentence, target: str) -> int:
    han = sentence.count("Han")
    if target == "zh":
        return 0 if _is_japanese(sentence) else han
    # A few ideographs without kana are a Japanese heading or label as well.
    return han if _is_japanese(sentence) or (han < _LONG_HAN and not sentence.count(*_KANA)) else 0


def _is_japanese(sentence: _Sentence) -> bool:
    kana = sentence.count(*_KANA)
    return kana > _KANA_SHARE * (kana + sentence.count("Han"))


def _by_script(text: str) -> _Sentence:
    found: dict[str, list[str]] = {}
    for script, word in words(text):
        found.setdefault(script, []).append(word)
    return _Sentence(found)


def _of_prompt(prompt: Prompt) -> str:
    named = prompt.metadata.get(_METADATA)
    if named is None:
        return detect_language(prompt.question)
    code = language_code(str(named))
    if code is None:
        raise DataError(f"reward language: metadata {_METADATA} of prompt {prompt.prompt_id!r} {_unknown(named)}")
    return code


def _unknown(got: object) -> str:
    known = ", ".join(f"{code} ({name})" for code, name in sorted(NAMES.items()))
    return f"must be the ISO 639-1 code or English name of a supported language, got {got!r}: supported are {known}"
