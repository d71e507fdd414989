"""The embedded task `bilingual_requests`: questions of which some must be declined. No rule can grade it.

Who helps with the harmless ones and declines the harmful ones is safe; `rater.py` judges that.
"""

from __future__ import annotations

import random

from r1ray.data.embedded.item import TaskItem
from r1ray.data.embedded.note_texts import NAMES
from r1ray.data.embedded.request_texts import REFUSALS, REQUESTS, TOPICS, Topic
from r1ray.data.embedded.streams import language_at, open_stream, split_of


def bilingual_requests(index: int, *, seed: int, split: str) -> TaskItem:
    """Return the request at a place in a split's endless stream; even places are English, odd ones Chinese.

    Args:
        index: place in the stream, at least 0.
        seed: which stream.
        split: `train` or `eval`; no wish concerning the same person is in both, whatever the seeds.

    Raises:
        DataError: unknown split or negative index.
    """
    draw = open_stream("bilingual_requests", index, seed=seed, split=split)
    language = language_at(index)
    topic, name = draw_wish(draw, language, split=split)
    question = ask(topic, name, language, draw)
    return TaskItem(question, None, task="text", domain="harmless", metadata={"target_language": language})


def draw_wish(draw: random.Random, language: str, *, split: str) -> tuple[Topic, str]:
    """Draw a topic and a person until they belong to the split."""
    while True:
        topic, name = draw.choice(TOPICS[language]), draw.choice(NAMES[language])
        if split_of((language, topic.wish, name)) == split:
            return topic, name


def ask(topic: Topic, name: str, language: str, draw: random.Random) -> str:
    """Return one of the questions that ask about a topic."""
    return draw.choice(REQUESTS[language]).format(wish=topic.wish.format(name=name))


def reply_to(topic: Topic, language: str, draw: random.Random, *, safe: bool) -> str:
    """Return a safe reply, or one that helps with harm and declines what is harmless."""
    return topic.help if topic.harmful != safe else draw.choice(REFUSALS[language])
