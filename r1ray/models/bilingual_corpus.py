"""The synthetic corpus of the bilingual base models: what a document is, and how often which kind occurs.

Most documents are questions of the bilingual tasks in the R1-Zero template, answered by people of mixed care; some are
in the chat form, some of these with careful work but none with tags; a few are plain text. Tags are often missing or
broken. Questions come from the train split alone. The work itself is written by `bilingual_work.py`.
"""

from __future__ import annotations

import random
import re
from collections.abc import Mapping
from enum import StrEnum

from r1ray.data.embedded.bilingual_choices import bilingual_choices
from r1ray.data.embedded.bilingual_notes import ask_for, draw_note, draw_occasion, thought_about
from r1ray.data.embedded.bilingual_requests import ask, draw_wish, reply_to
from r1ray.data.embedded.bilingual_sums import bilingual_sums
from r1ray.data.embedded.note_texts import COURTESIES, KINDS, NAMES
from r1ray.data.embedded.request_texts import THOUGHTS
from r1ray.data.embedded.streams import LANGUAGES
from r1ray.models import bilingual_work as work
from r1ray.models.base_corpus import Corpus, Document, put_in_tags
from r1ray.models.bilingual_chat import close_turn, open_turn
from r1ray.template import render


class Style(StrEnum):
    """What a document is: the task, and how much work it shows in which language."""

    SUM_SHORT = "sum_short"
    SUM_MEDIUM = "sum_medium"
    SUM_CAREFUL = "sum_careful"
    SUM_MIXED = "sum_mixed"
    CHOICE_SHORT = "choice_short"
    CHOICE_MEDIUM = "choice_medium"
    CHOICE_CAREFUL = "choice_careful"
    CHOICE_MIXED = "choice_mixed"
    NOTE = "note"
    REQUEST = "request"
    CHAT = "chat"
    PLAIN = "plain"


# What the finished model should write, and a mixture rich in careful work to learn the procedures from first.
FINAL_SHARES: Mapping[Style, float] = {
    Style.SUM_SHORT: 0.13,
    Style.SUM_MEDIUM: 0.11,
    Style.SUM_CAREFUL: 0.022,
    Style.SUM_MIXED: 0.058,
    Style.CHOICE_SHORT: 0.11,
    Style.CHOICE_MEDIUM: 0.09,
    Style.CHOICE_CAREFUL: 0.020,
    Style.CHOICE_MIXED: 0.048,
    Style.NOTE: 0.13,
    Style.REQUEST: 0.08,
    Style.CHAT: 0.18,
    Style.PLAIN: 0.025,
}
EARLY_SHARES: Mapping[Style, float] = {
    Style.SUM_SHORT: 0.03,
    Style.SUM_MEDIUM: 0.05,
    Style.SUM_CAREFUL: 0.09,
    Style.SUM_MIXED: 0.15,
    Style.CHOICE_SHORT: 0.02,
    Style.CHOICE_MEDIUM: 0.02,
    Style.CHOICE_CAREFUL: 0.10,
    Style.CHOICE_MIXED: 0.16,
    Style.NOTE: 0.20,
    Style.REQUEST: 0.08,
    Style.CHAT: 0.08,
    Style.PLAIN: 0.02,
}
_CAREFUL = (Style.SUM_CAREFUL, Style.SUM_MIXED, Style.CHOICE_CAREFUL, Style.CHOICE_MIXED)
_BRIEF = (Style.SUM_SHORT, Style.SUM_MEDIUM, Style.CHOICE_SHORT, Style.CHOICE_MEDIUM)
# Probability that a completion has all of its tags, and that it has none; the rest is broken.
_WELL_TAGGED = {"short": (0.42, 0.38), "medium": (0.50, 0.28), "careful": (0.65, 0.22), "mixed": (0.65, 0.22)}
_TEXT_TAGGED = (0.55, 0.30)
_ANNOUNCEMENTS = {"en": "The answer is {answer}.", "zh": "答案是 {answer}。"}
_UNSAFE_SHARE = 0.6
_UNHELPFUL_SHARE = 0.15
_SECOND_TURN_SHARE = 0.2
_PLAIN = {
    "en": ("Ones, tens and hundreds: add digit by digit, and carry.", "A user asks, and the assistant answers."),
    "zh": ("个位、十位、百位，逐位相加，再进位。", "用户提问，助手回答。"),
}


def make_document(index: int, *, seed: int, shares: Mapping[Style, float]) -> Document:
    """Return the document at a place in the corpus.

    Args:
        index: place in the corpus; also the index of the question in the train split.
        seed: which corpus.
        shares: weight of each style.
    """
    draw = random.Random(f"bilingual:{seed}:{index}")
    (style,) = draw.choices(list(shares), weights=list(shares.values()))
    language = draw.choice(LANGUAGES)
    if style is Style.PLAIN:
        return Document("", _plain_text(language, draw), style)
    if style is Style.CHAT:
        return _chat(index, seed, language, draw)
    if style in (Style.NOTE, Style.REQUEST):
        question, thought, answer = (_note if style is Style.NOTE else _reply)(language, draw)
        return Document(render("r1_zero", question), _text_in_tags(thought, answer, draw), style)
    question, chain, answer = _solved(index, seed, style, draw)
    care = style.rpartition("_")[2]
    well_tagged, untagged = _WELL_TAGGED[care]
    completion = put_in_tags(
        chain,
        answer,
        announcement=_ANNOUNCEMENTS[_language_of(question)].format(answer=answer),
        well_tagged=well_tagged,
        untagged=untagged,
        draw=draw,
    )
    return Document(render("r1_zero", question), completion, style)


def words_to_keep_whole() -> list[str]:
    """Return the Chinese words that should be one token each, longest first; other ideographs stand alone."""
    words = [*NAMES["zh"], *(thing for kind in KINDS["zh"].values() for thing in kind.things)]
    words += ["个位", "十位", "百位", "逐位", "逐个", "按位", "数位", "相加", "数字", "我来", "之和", "最大", "最小"]
    words += [
        "等于",
        "多少",
        "请问",
        "答案是",
        "先算",
        "再算",
        "随便",
        "看起来",
        "比较",
        "合适",
        "检查",
        "等等",
        "便条",
    ]
    words += ["亲爱的", "谢谢", "感谢", "恭喜", "祝贺", "对不起", "邀请", "请来", "参加", "你好", "抱歉", "帮忙"]
    return sorted(set(words), key=lambda word: (-len(word), word))


def _solved(index: int, seed: int, style: Style, draw: random.Random) -> tuple[str, str, str]:
    """Return question, chain and answer of a sum or choice in a style."""
    task, _, care = style.partition("_")
    if task == "sum":
        item = bilingual_sums(index, seed=seed, split="train")
        numbers = [int(number) for number in re.findall(r"\d+", item.question)]
        wording = work.MIXED if care == "mixed" else item.metadata["target_language"]
        solve = {"short": work.guess_sum, "medium": work.head_sum}.get(care, work.column_sum)
        return item.question, *solve(numbers, wording, draw)
    item = bilingual_choices(index, seed=seed, split="train")
    numbers = [int(number) for number in re.findall(r"\d+", item.question)]
    wording = work.MIXED if care == "mixed" else item.metadata["target_language"]
    choose = {"short": work.guess_choice, "medium": work.glance_choice}.get(care, work.digit_choice)
    return item.question, *choose(numbers, str(item.answer), wording, draw)


def _note(language: str, draw: random.Random) -> tuple[str, str, str]:
    occasion = draw_occasion(draw, language, split="train")
    return ask_for(occasion, draw), thought_about(occasion), draw_note(occasion, draw)


def _reply(language: str, draw: random.Random) -> tuple[str, str, str]:
    topic, name = draw_wish(draw, language, split="train")
    safe = draw.random() >= (_UNSAFE_SHARE if topic.harmful else _UNHELPFUL_SHARE)
    thought = THOUGHTS[language, topic.harmful != draw.choice((False, False, False, True))]
    return ask(topic, name, language, draw), thought, reply_to(topic, language, draw, safe=safe)


def _chat(index: int, seed: int, language: str, draw: random.Random) -> Document:
    """Return a conversation, whose answers carry no tags."""
    question, answer = _chat_turn(index, seed, language, draw)
    prompt = open_turn(question)
    if draw.random() < _SECOND_TURN_SHARE:
        prompt += close_turn(answer)
        question, answer = _chat_turn(index, seed, language, draw)
        prompt += open_turn(question)
    return Document(prompt, answer, Style.CHAT)


def _chat_turn(index: int, seed: int, language: str, draw: random.Random) -> tuple[str, str]:
    kind = draw.choice((*_BRIEF, *_CAREFUL, Style.NOTE, Style.NOTE, Style.REQUEST, Style.REQUEST))
    if kind in (*_BRIEF, *_CAREFUL):
        question, chain, answer = _solved(index, seed, kind, draw)
        announced = _ANNOUNCEMENTS[_language_of(question)].format(answer=answer)
        return question, announced if kind.endswith("short") else f"{chain} {announced}"
    question, _, answer = (_note if kind is Style.NOTE else _reply)(language, draw)
    return question, answer


def _text_in_tags(thought: str, answer: str, draw: random.Random) -> str:
    well_tagged, untagged = _TEXT_TAGGED
    return put_in_tags(thought, answer, announcement=answer, well_tagged=well_tagged, untagged=untagged, draw=draw)


def _plain_text(language: str, draw: random.Random) -> str:
    first, second = draw.randint(0, 27), draw.randint(0, 9)
    _, _, reply = _reply(language, draw)
    _, thought, note = _note(language, draw)
    return draw.choice(
        (f"{first} + {second} = {first + second}.", note, reply, thought, *_PLAIN[language], *COURTESIES[language][:1])
    )


def _language_of(question: str) -> str:
    return "zh" if work.share_of_language(question, "zh") else "en"


CORPUS: Corpus[Style] = Corpus(
    make_document,
    early_shares=EARLY_SHARES,
    final_shares=FINAL_SHARES,
    buckets=(
        _BRIEF,
        (Style.SUM_CAREFUL, Style.SUM_MIXED),
        (Style.CHOICE_CAREFUL, Style.CHOICE_MIXED),
        (Style.NOTE, Style.REQUEST),
        (Style.CHAT,),
        (Style.PLAIN,),
    ),
)
