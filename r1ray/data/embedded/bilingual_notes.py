"""The embedded task `bilingual_notes`: write a short note to somebody about something. No rule can grade it.

Also writes the notes that people of mixed care would: for corpora, preference pairs and supplied samples. What a note
is worth is `rater.py`'s work.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass

from r1ray.data.embedded.item import TaskItem
from r1ray.data.embedded.note_texts import COURTESIES, GREETINGS, KINDS, NAMELESS_GREETINGS, NAMES, NoteKind
from r1ray.data.embedded.streams import language_at, open_stream, split_of

_SPACES = {"en": " ", "zh": ""}


@dataclass(frozen=True, slots=True)
class Occasion:
    """What a note is to be about, as a question names it."""

    language: str
    kind: str
    name: str
    thing: str

    @property
    def texts(self) -> NoteKind:
        """The wordings of this kind of note."""
        return KINDS[self.language][self.kind]


def bilingual_notes(index: int, *, seed: int, split: str) -> TaskItem:
    """Return the request at a place in a split's endless stream; even places are English, odd ones Chinese.

    Args:
        index: place in the stream, at least 0.
        seed: which stream.
        split: `train` or `eval`; nobody is written about the same thing in both, whatever the seeds.

    Raises:
        DataError: unknown split or negative index.
    """
    draw = open_stream("bilingual_notes", index, seed=seed, split=split)
    occasion = draw_occasion(draw, language_at(index), split=split)
    return TaskItem(
        ask_for(occasion, draw),
        None,
        task="text",
        domain="helpful",
        metadata={"target_language": occasion.language},
    )


def draw_occasion(draw: random.Random, language: str, *, split: str) -> Occasion:
    """Draw what to write about until it belongs to the split."""
    while True:
        kind = draw.choice(list(KINDS[language]))
        occasion = Occasion(language, kind, draw.choice(NAMES[language]), draw.choice(KINDS[language][kind].things))
        if split_of((language, kind, occasion.name, occasion.thing)) == split:
            return occasion


def ask_for(occasion: Occasion, draw: random.Random) -> str:
    """Return one of the questions that ask for a note on an occasion."""
    return draw.choice(occasion.texts.requests).format(name=occasion.name, thing=occasion.thing)


def thought_about(occasion: Occasion) -> str:
    """Return what somebody thinks before writing the note."""
    return occasion.texts.thought.format(name=occasion.name, thing=occasion.thing)


def write_note(occasion: Occasion, *, named: bool, concrete: bool, courtesies: Sequence[str]) -> str:
    """Return a note.

    Args:
        occasion: what it is about.
        named: whether it names the person.
        concrete: whether it names the thing.
        courtesies: closing phrases, in order.
    """
    greeting = (GREETINGS if named else NAMELESS_GREETINGS)[occasion.language].format(name=occasion.name)
    sentence = occasion.texts.sentence.format(thing=occasion.thing) if concrete else occasion.texts.vague
    return _SPACES[occasion.language].join([greeting, sentence, *courtesies])


def draw_note(occasion: Occasion, draw: random.Random) -> str:
    """Write a note as people do: those who forget the person or the thing are seldom courteous as well."""
    named, concrete = draw.random() < 0.8, draw.random() < 0.8
    weights = (0.3, 0.5, 0.2) if named and concrete else (0.7, 0.25, 0.05)
    (count,) = draw.choices(range(len(weights)), weights=weights)
    courtesies = draw.sample(COURTESIES[occasion.language], count)
    return write_note(occasion, named=named, concrete=concrete, courtesies=courtesies)
