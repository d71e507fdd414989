"""The directory of one run: where each file lies, and how it is written safely.

Local paths and any fsspec URL (`s3://..`, `gs://..`, `memory://..`) behave the same. Checkpoints are only
named here; `checkpoint.py` writes them.
"""

from __future__ import annotations

import os
import posixpath
from pathlib import Path

import fsspec.core
from fsspec.implementations.local import LocalFileSystem

from r1ray.errors import ConfigError

CONFIG_FILE = "config.yaml"
METRICS_FILE = "metrics.jsonl"
EVENTS_FILE = "events.jsonl"
SUMMARY_FILE = "summary.json"
REPORT_FILE = "report.html"
ROLLOUTS_FOLDER = "rollouts"
CHECKPOINTS_FOLDER = "checkpoints"


class RunDirectory:
    """One run on disk. Names are relative to the directory, with `/` between folders.

    Attributes:
        url: the directory as the user gave it, without a trailing slash.
        is_local: whether files can also be reached through `local_path`.
    """

    def __init__(self, url: str | os.PathLike[str]) -> None:
        """Point at a directory; nothing is read or created yet.

        Raises:
            ConfigError: the URL's protocol is unknown or its driver is not installed.
        """
        self.url = os.fspath(url).rstrip("/") or "/"
        try:
            self._fs, root = fsspec.core.url_to_fs(self.url)
        except (ValueError, ImportError) as error:
            raise ConfigError(
                f"run.dir must be a local path or an fsspec URL whose driver is installed, got {self.url!r}: {error}"
            ) from error
        self._root = str(root).rstrip("/")
        self.is_local = isinstance(self._fs, LocalFileSystem)

    @property
    def name(self) -> str:
        """Last part of the path."""
        return posixpath.basename(self._root)

    @property
    def checkpoints_url(self) -> str:
        """Where checkpoints go; written by others."""
        return self.path(CHECKPOINTS_FOLDER)

    def path(self, name: str) -> str:
        """Return the path or URL of `name`, in the form in which the user gave the directory."""
        return f"{self.url.rstrip('/')}/{name}"

    def local_path(self, name: str) -> Path:
        """Return the absolute local path of `name`.

        Raises:
            ValueError: the directory is remote.
        """
        if not self.is_local:
            raise ValueError(f"{self.url} is not a local directory")
        return Path(self._full(name))

    def exists(self) -> bool:
        """Whether a run has already written here."""
        self._fs.invalidate_cache()
        return self.has(METRICS_FILE) or self.has(CONFIG_FILE)

    def create(self, *, resume: bool = False) -> None:
        """Make the directory, or enter the existing one when `resume`.

        Raises:
            ConfigError: it holds a run and `resume` is off, or it cannot be made.
        """
        if not resume and self.exists():
            raise ConfigError(
                f"run.dir must not hold another run, got {self.url!r}: "
                "set resume=true to go on with it, or name another run.dir"
            )
        try:
            self._fs.makedirs(self._root, exist_ok=True)
        except OSError as error:
            raise ConfigError(f"run.dir must be a directory that can be written, got {self.url!r}: {error}") from error

    def has(self, name: str) -> bool:
        """Whether the file or folder `name` exists."""
        return bool(self._fs.exists(self._full(name)))

    def names(self, folder: str) -> list[str]:
        """Return the names of the files in `folder`, sorted; none where it does not exist."""
        self._fs.invalidate_cache()
        if not self.has(folder):
            return []
        entries = self._fs.ls(self._full(folder), detail=True)
        return sorted(f"{folder}/{posixpath.basename(entry['name'])}" for entry in entries if entry["type"] == "file")

    def read_bytes(self, name: str) -> bytes:
        """Return the content of `name`.

        Raises:
            FileNotFoundError: there is no such file.
        """
        return bytes(self._fs.cat_file(self._full(name)))

    def read_text(self, name: str) -> str:
        """Return the content of `name` as UTF-8 text."""
        return self.read_bytes(name).decode("utf-8")

    def write_bytes(self, name: str, content: bytes) -> None:
        """Write or replace `name`; a reader sees the old content or the new, never a part."""
        full = self._full(name)
        self._fs.makedirs(posixpath.dirname(full), exist_ok=True)
        if self.is_local:
            _replace_local(full, content)
        else:
            # Object stores show an object only once it is complete.
            self._fs.pipe_file(full, content)

    def write_text(self, name: str, text: str) -> None:
        """Write or replace `name` with UTF-8 text, atomically."""
        self.write_bytes(name, text.encode("utf-8"))

    def delete(self, name: str) -> None:
        """Delete the file `name`."""
        self._fs.rm_file(self._full(name))

    def upload(self, folder: Path, name: str) -> None:
        """Copy a local folder's content into the folder `name`."""
        for source in sorted(path for path in folder.rglob("*") if path.is_file()):
            self.write_bytes(f"{name}/{source.relative_to(folder).as_posix()}", source.read_bytes())

    def _full(self, name: str) -> str:
        return f"{self._root}/{name}"


def _replace_local(path: str, content: bytes) -> None:
    scratch = f"{path}.{os.getpid()}.tmp"
    try:
        with open(scratch, "wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        os.replace(scratch, path)
    except BaseException:
        Path(scratch).unlink(missing_ok=True)
        raise
