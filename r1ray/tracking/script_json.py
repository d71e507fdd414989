"""JSON that is safe inside an HTML script element, whatever text it carries."""

from __future__ import annotations

import json
from typing import Any

from r1ray.tracking.jsonl import finite


def script_json(content: Any) -> str:
    r"""Return JSON without any `<`, `>` or `&`, which are written as `\u00..`: no text can end the element."""
    text = json.dumps(finite(content), ensure_ascii=False, allow_nan=False, separators=(",", ":"), default=str)
    # A lone surrogate (possible in decoded model text) has no UTF-8 form.
    text = text.encode("utf-8", errors="replace").decode("utf-8")
    return text.replace("<", "\\u003c").replace(">", "\\u003e").replace("&", "\\u0026")
