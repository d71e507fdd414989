"""Starts a runner in the sandbox that the config names.

    launch(SandboxConfig) -> Launched: a process whose pipes lead to `inside/runner.py`

`bubblewrap` is Linux namespaces, `gvisor` a kernel of its own, `none` no isolation at all. Where cgroup v2 directories
can be had, each sandbox is in one of its own.
"""

from __future__ import annotations

import base64
import contextlib
import json
import os
import subprocess
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

from r1ray.config.schema import SandboxConfig
from r1ray.errors import SandboxError
from r1ray.sandbox import bubblewrap, gvisor, unprotected
from r1ray.sandbox.cgroups import Cgroup, make_cgroup
from r1ray.sandbox.seccomp import seccomp_program

Binds = Sequence[tuple[str, str]]
_REAP_TIMEOUT_S = 10.0


@dataclass
class Launched:
    """A runner that has been started, and what to undo when it ends.

    Attributes:
        process: its standard input and output are the channel.
        errors: what it, or what starts it, writes to standard error.
        cgroup: of everything in the sandbox; None where there is none.
        paths: prefixes of paths inside and what they are called where programs see them, for backends that cannot
            show a directory under another name.
        cleanup: called once the process has ended.
    """

    process: subprocess.Popen[bytes]
    errors: Any
    cgroup: Cgroup | None = None
    paths: Sequence[tuple[str, str]] = ()
    cleanup: list[Callable[[], None]] = field(default_factory=list)

    def end(self) -> None:
        """Kill it and everything in the sandbox."""
        # The kernel kills every process of a PID namespace with its first; without one the runner's own
        # descendants go when it sees its channel close.
        if self.process.stdin is not None:
            with contextlib.suppress(OSError):
                self.process.stdin.close()
        if self.cgroup is not None:
            self.cgroup.kill()
        for undo in self.cleanup:
            undo()
        self.process.kill()
        with contextlib.suppress(subprocess.TimeoutExpired):
            self.process.wait(_REAP_TIMEOUT_S)
        if self.process.stdout is not None:
            self.process.stdout.close()
        self.errors.close()
        if self.cgroup is not None:
            self.cgroup.remove()

    def last_words(self) -> str:
        """Return what was written to standard error."""
        self.errors.seek(0)
        return str(self.errors.read(4000).decode(errors="replace").strip())


def launch(config: SandboxConfig, bind: Binds = ()) -> Launched:
    """Start a runner; does not wait for it to be ready.

    Args:
        config: which backend, and its sizes.
        bind: more to show inside, read-only: (outside, inside).

    Raises:
        SandboxError: this machine lacks what the backend needs.
    """
    starter = {"bubblewrap": bubblewrap.prepare, "gvisor": gvisor.prepare, "none": unprotected.prepare}
    prepared = starter[config.backend](config, bind)
    cgroup = make_cgroup(config.cgroup)
    settings = {
        "scratch": [],
        "remove": False,
        **prepared.settings,
        "seccomp": base64.b64encode(seccomp_program()).decode(),
    }
    errors = tempfile.TemporaryFile()  # noqa: SIM115 (closed with what it belongs to)
    try:
        process = subprocess.Popen(
            prepared.command([*runner_arguments(prepared.library), json.dumps(settings)]),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=errors,
            bufsize=0,
            pass_fds=prepared.descriptors,
            env=prepared.environment,
            cwd=prepared.settings["work"] if config.backend == "none" else "/",
            start_new_session=True,
        )
    except OSError as error:
        errors.close()
        raise SandboxError(f"no sandbox could be started on this machine: {error}") from error
    finally:
        for descriptor in prepared.descriptors:
            os.close(descriptor)
    if cgroup is not None:
        cgroup.add(process.pid)
    assert process.stdin is not None
    os.set_blocking(process.stdin.fileno(), False)
    return Launched(process, errors, cgroup, prepared.paths, prepared.cleanup)


def runner_arguments(library: str) -> list[str]:
    """Return the interpreter's arguments that run the runner.

    Args:
        library: directory that holds as much of the package r1ray as the runner needs.
    """
    start = f"import sys; sys.path.insert(0, {library!r}); from r1ray.sandbox.inside.runner import main; main()"
    return ["-I", "-S", "-B", "-c", start]
