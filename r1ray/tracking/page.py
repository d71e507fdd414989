"""Self-contained pages: a template, the look and the charts that all pages share, and one JSON block of content.

The template draws the block in the browser without loading anything. What is in the block is untrusted: it holds no
`<`, and `el` in page_script.js puts text into the page as text only.
"""

from __future__ import annotations

import html
from importlib.resources import files
from typing import Any

from r1ray.tracking.script_json import script_json


def build_page(template: str, *, title: str, content: Any) -> str:
    """Return the page.

    Args:
        template: HTML with `__R1RAY_TITLE__` in its head, then `__R1RAY_STYLE__`, `__R1RAY_CONTENT__` and
            `__R1RAY_SCRIPT__`, once each.
        title: plain text.
        content: what the template's script reads from `content`.
    """
    shared = files("r1ray.tracking")
    for mark, name in (("__R1RAY_STYLE__", "page_style.css"), ("__R1RAY_SCRIPT__", "page_script.js")):
        template = template.replace(mark, shared.joinpath(name).read_text(encoding="utf-8").rstrip())
    # The content last and once: a mark in a title or a completion stays what it is.
    head, _, tail = template.partition("__R1RAY_CONTENT__")
    return head.replace("__R1RAY_TITLE__", html.escape(title)) + script_json(content) + tail
