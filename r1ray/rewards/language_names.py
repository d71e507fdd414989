"""The languages that the language reward knows, by ISO 639-1 code, and the scripts they are written in."""

from __future__ import annotations

_LANGUAGES: dict[str, tuple[str, tuple[str, ...]]] = {
    "ar": ("Arabic", ("Arabic",)),
    "bg": ("Bulgarian", ("Cyrillic",)),
    "bn": ("Bengali", ("Bengali",)),
    "cs": ("Czech", ("Latin",)),
    "da": ("Danish", ("Latin",)),
    "de": ("German", ("Latin",)),
    "el": ("Greek", ("Greek",)),
    "en": ("English", ("Latin",)),
    "es": ("Spanish", ("Latin",)),
    "fa": ("Persian", ("Arabic",)),
    "fi": ("Finnish", ("Latin",)),
    "fr": ("French", ("Latin",)),
    "he": ("Hebrew", ("Hebrew",)),
    "hi": ("Hindi", ("Devanagari",)),
    "hu": ("Hungarian", ("Latin",)),
    "id": ("Indonesian", ("Latin",)),
    "it": ("Italian", ("Latin",)),
    "ja": ("Japanese", ("Han", "Hiragana", "Katakana")),
    "ko": ("Korean", ("Hangul",)),
    "mr": ("Marathi", ("Devanagari",)),
    "nl": ("Dutch", ("Latin",)),
    "no": ("Norwegian", ("Latin",)),
    "pl": ("Polish", ("Latin",)),
    "pt": ("Portuguese", ("Latin",)),
    "ro": ("Romanian", ("Latin",)),
    "ru": ("Russian", ("Cyrillic",)),
    "sv": ("Swedish", ("Latin",)),
    "sw": ("Swahili", ("Latin",)),
    "ta": ("Tamil", ("Tamil",)),
    "th": ("Thai", ("Thai",)),
    "tr": ("Turkish", ("Latin",)),
    "uk": ("Ukrainian", ("Cyrillic",)),
    "ur": ("Urdu", ("Arabic",)),
    "vi": ("Vietnamese", ("Latin",)),
    "zh": ("Chinese", ("Han",)),
}

NAMES = {code: name for code, (name, _) in _LANGUAGES.items()}
SCRIPTS = {code: scripts for code, (_, scripts) in _LANGUAGES.items()}
# Script -> the languages written in it.
RELATIVES = {
    script: tuple(code for code in SCRIPTS if script in SCRIPTS[code])
    for script in sorted({script for scripts in SCRIPTS.values() for script in scripts})
}
_CODES = {name.lower(): code for code, name in NAMES.items()}


def language_code(name: str) -> str | None:
    """Return the code of a language named by code or English name, in any case; regions (`zh-CN`) are dropped."""
    wanted = name.strip().lower()
    code = wanted.replace("_", "-").partition("-")[0]
    return code if code in NAMES else _CODES.get(wanted)
