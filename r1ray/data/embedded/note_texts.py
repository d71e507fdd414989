"""The words of the note-writing tasks: names, kinds of notes, things, courtesies and phrasings, in two languages."""

from __future__ import annotations

from dataclasses import dataclass

NAMES = {
    "en": (
        "Anna", "Ben", "Carla", "David", "Elena", "Felix", "Grace", "Hugo",
        "Ines", "Jonas", "Laura", "Maya", "Noah", "Olga", "Peter", "Rosa",
    ),
    "zh": (
        "小明", "小红", "小刚", "小丽", "小华", "小军", "小芳", "小龙",
        "小美", "小强", "小云", "小雪", "小东", "小燕", "小梅", "小涛",
    ),
}  # fmt: skip
COURTESIES = {
    "en": ("All the best.", "Take good care.", "Warm wishes to you.", "Have a lovely day.", "Stay well and happy."),
    "zh": ("祝一切顺利。", "祝你开心。", "多多保重。", "万事如意。", "天天快乐。"),
}
GREETINGS = {"en": "Dear {name},", "zh": "亲爱的{name}，"}
NAMELESS_GREETINGS = {"en": "Hello,", "zh": "你好，"}


@dataclass(frozen=True, slots=True)
class NoteKind:
    """One reason to write a note, in one language.

    Attributes:
        things: what it can be about.
        requests: phrasings of the question.
        sentence: what such a note says; with `thing` left vague it says `vague`.
        marks: lower-case words of which one shows that a note is of this kind.
        thought: what goes through a writer's mind.
    """

    things: tuple[str, ...]
    requests: tuple[str, ...]
    sentence: str
    vague: str
    marks: tuple[str, ...]
    thought: str


KINDS = {
    "en": {
        "thanks": NoteKind(
            ("book", "cake", "lamp", "vase", "scarf", "tea", "album", "umbrella"),
            ("Write a note to thank {name} for the {thing}.", "Please thank {name} for the {thing} in a short note."),
            "thank you for the {thing}.",
            "thank you for everything.",
            ("thank",),
            "I should thank {name} for the {thing}.",
        ),
        "invitation": NoteKind(
            ("dinner", "party", "concert", "picnic", "exhibition", "wedding", "match", "lecture"),
            ("Write a note to invite {name} to the {thing}.", "Please invite {name} to the {thing} in a short note."),
            "please come to the {thing}.",
            "please come and see us.",
            ("come", "invite"),
            "I should invite {name} to the {thing}.",
        ),
        "congratulation": NoteKind(
            ("prize", "job", "exam", "degree", "promotion", "house", "medal", "birthday"),
            (
                "Write a note to congratulate {name} on the {thing}.",
                "Please congratulate {name} on the {thing} in a short note.",
            ),
            "congratulations on the {thing}.",
            "congratulations on everything.",
            ("congratulations",),
            "I should congratulate {name} on the {thing}.",
        ),
        "apology": NoteKind(
            ("cup", "window", "delay", "bicycle", "mistake", "noise", "photo", "key"),
            (
                "Write a note to tell {name} we are sorry about the {thing}.",
                "Please apologize to {name} for the {thing} in a short note.",
            ),
            "I am sorry about the {thing}.",
            "I am sorry about everything.",
            ("sorry",),
            "I should apologize to {name} for the {thing}.",
        ),
    },
    "zh": {
        "thanks": NoteKind(
            ("词典", "蛋糕", "台灯", "花瓶", "围巾", "茶叶", "相册", "雨伞"),
            ("写一张便条，感谢{name}的{thing}。", "请给{name}写一张感谢便条，谢谢对方的{thing}。"),
            "谢谢你的{thing}。",
            "谢谢你的一切。",
            ("谢谢", "感谢"),
            "应该感谢{name}的{thing}。",
        ),
        "invitation": NoteKind(
            ("晚餐", "聚会", "音乐会", "野餐", "展览", "婚礼", "球赛", "讲座"),
            ("写一张便条，邀请{name}参加{thing}。", "请给{name}写一张邀请便条，参加{thing}。"),
            "请来参加{thing}。",
            "请来我家。",
            ("请来", "邀请"),
            "应该邀请{name}参加{thing}。",
        ),
        "congratulation": NoteKind(
            ("得奖", "工作", "考试", "毕业", "升职", "新家", "冠军", "生日"),
            ("写一张便条，祝贺{name}的{thing}。", "请给{name}写一张祝贺便条，恭喜对方的{thing}。"),
            "恭喜你的{thing}。",
            "恭喜你的一切。",
            ("恭喜", "祝贺"),
            "应该祝贺{name}的{thing}。",
        ),
        "apology": NoteKind(
            ("杯子", "窗户", "迟到", "单车", "误会", "噪音", "照片", "钥匙"),
            ("写一张便条，为{thing}向{name}道歉。", "请给{name}写一张道歉便条，为了{thing}。"),
            "为了{thing}，对不起。",
            "为了一切，对不起。",
            ("对不起", "抱歉"),
            "应该为{thing}向{name}道歉。",
        ),
    },
}
