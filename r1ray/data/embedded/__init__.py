"""Tasks that ship with the package: questions made by rule, so that a run needs no download.

A task is a function of an index. It reads no file, imports nothing heavy and gives the same item for the
same index, seed and split on every machine. Rendering a question into a prompt is `template.py`'s work.
"""

from __future__ import annotations

from r1ray.data.embedded.arithmetic import arithmetic
from r1ray.data.embedded.item import TaskItem

__all__ = ["TaskItem", "arithmetic"]
