"""Replies of a judge, kept by what was asked: in memory, bounded, and on disk where a directory is named."""

from __future__ import annotations

import contextlib
import sqlite3
from collections import OrderedDict
from pathlib import Path

from r1ray.errors import ConfigError

_BUSY_TIMEOUT_S = 30.0


class ReplyCache:
    """A dictionary from content hash to reply. The file on disk may be shared by processes of one machine."""

    def __init__(self, *, max_items: int, directory: str | None) -> None:
        """Open the cache.

        Args:
            max_items: kept in memory; the least recently used go first.
            directory: where `judge_replies.sqlite` is kept from run to run, without bound; None: nowhere.

        Raises:
            ConfigError: the directory cannot be used.
        """
        self._max_items = max_items
        self._memory: OrderedDict[str, str] = OrderedDict()
        self._disk: sqlite3.Connection | None = None
        if directory is None:
            return
        try:
            Path(directory).mkdir(parents=True, exist_ok=True)
            self._disk = sqlite3.connect(
                Path(directory) / "judge_replies.sqlite",
                timeout=_BUSY_TIMEOUT_S,
                isolation_level=None,
                check_same_thread=False,
            )
            self._disk.execute("CREATE TABLE IF NOT EXISTS replies (key TEXT PRIMARY KEY, reply TEXT) WITHOUT ROWID")
        except (OSError, sqlite3.Error) as error:
            self.close()
            raise ConfigError(
                f"reward llm_judge: option cache_dir must be a writable directory, got {directory!r} ({error})"
            ) from error

    def get(self, key: str) -> str | None:
        """Return the reply kept under a key, or None."""
        if key in self._memory:
            self._memory.move_to_end(key)
            return self._memory[key]
        if self._disk is None:
            return None
        row = self._disk.execute("SELECT reply FROM replies WHERE key = ?", (key,)).fetchone()
        if row is None:
            return None
        self._remember(key, row[0])
        return str(row[0])

    def put(self, key: str, reply: str) -> None:
        """Keep a reply."""
        self._remember(key, reply)
        if self._disk is not None:
            self._disk.execute("INSERT OR REPLACE INTO replies VALUES (?, ?)", (key, reply))

    def close(self) -> None:
        """Close the file."""
        if self._disk is not None:
            with contextlib.suppress(sqlite3.Error):
                self._disk.close()
            self._disk = None

    def _remember(self, key: str, reply: str) -> None:
        self._memory[key] = reply
        self._memory.move_to_end(key)
        while len(self._memory) > self._max_items:
            self._memory.popitem(last=False)
