"""Tells languages of one script apart, with py3langid.

Loads its model when it is first needed, in about a second; keeps one view of it for each script.
"""

from __future__ import annotations

import copy
import functools
from typing import Any

from r1ray.rewards.language_names import RELATIVES

# How much likelier (in the model's natural-log units) another language must be than the favoured one: formulas leave
# few words to go by, and names and loan words look foreign.
_FAVOUR = 8.0


def prepare() -> None:
    """Load the model."""
    _view("Latin")


def best_language(text: str, script: str, *, favoured: str | None) -> str:
    """Return the likeliest language among those of a script.

    Args:
        text: words of that script.
        script: Unicode name of a script that several supported languages share.
        favoured: ISO 639-1 code of the language that wins unless another is likelier by a margin.
    """
    ranked = _view(script).rank(text)
    best, score = ranked[0]
    if favoured is not None and dict(ranked)[favoured] >= score - _FAVOUR:
        return favoured
    return str(best)


@functools.cache
def _model() -> Any:
    from py3langid.langid import MODEL_FILE, LanguageIdentifier

    return LanguageIdentifier.from_model_file(MODEL_FILE)


@functools.cache
def _view(script: str) -> Any:
    view = copy.copy(_model())
    view.set_languages(RELATIVES[script])
    return view
