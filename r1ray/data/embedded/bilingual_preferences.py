"""Supplied general data in two languages: pairs of notes, labelled replies, and samples to imitate.

    bilingual_note_preferences   two notes on one occasion, and which one the rater prefers     -> helpful reward model
    bilingual_request_labels     a reply with 1 (safe) or 0                                     -> safety reward model
    bilingual_general_samples    notes and replies of good quality in R1's form                 -> supervised finetuning

The pairs are judged with noise and come from notes as people write them, with two courtesies at most, so that a reward
model trained on them cannot know that more are worse.
"""

from __future__ import annotations

import random

from r1ray.data.embedded.bilingual_notes import ask_for, draw_note, draw_occasion, thought_about, write_note
from r1ray.data.embedded.bilingual_requests import ask, draw_wish, reply_to
from r1ray.data.embedded.item import TaskItem
from r1ray.data.embedded.note_texts import COURTESIES
from r1ray.data.embedded.rater import note_quality
from r1ray.data.embedded.request_texts import THOUGHTS
from r1ray.data.embedded.streams import language_at, open_stream
from r1ray.template import THINK_CLOSE, THINK_OPEN

_JUDGEMENT_NOISE = 0.1
_THOUGHTLESS_SHARE = 0.25
_COURTEOUS_SHARE = 0.7


def bilingual_note_preferences(index: int, *, seed: int, split: str) -> TaskItem:
    """Return a pair of notes; metadata `chosen` and `rejected` are bare notes.

    Args:
        index: place in the stream, at least 0; even places are English, odd ones Chinese.
        seed: which stream.
        split: `train` or `eval`, as in `bilingual_notes`.

    Raises:
        DataError: unknown split or negative index.
    """
    draw = open_stream("bilingual_note_preferences", index, seed=seed, split=split)
    occasion = draw_occasion(draw, language_at(index), split=split)
    question = ask_for(occasion, draw)
    first = draw_note(occasion, draw)
    second = draw_note(occasion, draw)
    while second == first:
        second = draw_note(occasion, draw)
    scores = [note_quality(question, note) + draw.gauss(0.0, _JUDGEMENT_NOISE) for note in (first, second)]
    chosen, rejected = (first, second) if scores[0] >= scores[1] else (second, first)
    metadata = {"chosen": chosen, "rejected": rejected, "target_language": occasion.language}
    return TaskItem(question, None, task="text", domain="helpful", metadata=metadata)


def bilingual_request_labels(index: int, *, seed: int, split: str) -> TaskItem:
    """Return a reply to a request; metadata `completion` is the bare reply and `label` 1 if it is safe, else 0.

    Args:
        index: place in the stream, at least 0; even places are English, odd ones Chinese.
        seed: which stream.
        split: `train` or `eval`, as in `bilingual_requests`.

    Raises:
        DataError: unknown split or negative index.
    """
    draw = open_stream("bilingual_request_labels", index, seed=seed, split=split)
    language = language_at(index)
    topic, name = draw_wish(draw, language, split=split)
    label = draw.randrange(2)
    completion = reply_to(topic, language, draw, safe=bool(label))
    metadata = {"completion": completion, "label": label, "target_language": language}
    return TaskItem(ask(topic, name, language, draw), None, task="text", domain="harmless", metadata=metadata)


def bilingual_general_samples(index: int, *, seed: int, split: str) -> TaskItem:
    r"""Return a good note or safe reply; metadata `completion` is `<think>\n..\n</think>\n\n` and the answer.

    A quarter of the thoughts are empty: the question is trivial.

    Args:
        index: place in the stream, at least 0; even places are English, odd ones Chinese, two notes before two replies.
        seed: which stream.
        split: `train` or `eval`, as in `bilingual_notes` and `bilingual_requests`.

    Raises:
        DataError: unknown split or negative index.
    """
    draw = open_stream("bilingual_general_samples", index, seed=seed, split=split)
    language = language_at(index)
    domain = ("helpful", "harmless")[index // 2 % 2]
    write = _note_sample if domain == "helpful" else _reply_sample
    question, thought, answer = write(draw, language, split)
    if draw.random() < _THOUGHTLESS_SHARE:
        thought = ""
    completion = f"{THINK_OPEN}\n{thought}\n{THINK_CLOSE}\n\n{answer}"
    metadata = {"completion": completion, "target_language": language}
    return TaskItem(question, None, task="text", domain=domain, metadata=metadata)


def _note_sample(draw: random.Random, language: str, split: str) -> tuple[str, str, str]:
    occasion = draw_occasion(draw, language, split=split)
    courtesies = draw.sample(COURTESIES[language], int(draw.random() < _COURTEOUS_SHARE))
    note = write_note(occasion, named=True, concrete=True, courtesies=courtesies)
    return ask_for(occasion, draw), thought_about(occasion), note


def _reply_sample(draw: random.Random, language: str, split: str) -> tuple[str, str, str]:
    topic, name = draw_wish(draw, language, split=split)
    reply = reply_to(topic, language, draw, safe=True)
    return ask(topic, name, language, draw), THOUGHTS[language, topic.harmful], reply
