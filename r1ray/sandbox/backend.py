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
import signal
import subprocess
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

from r1ray.config.schema import SandboxConfig
from r1ray.errors import SandboxError
from r1ray.sandbox import bubblewrap, gvisor, unprotected
from r1ray.sandbox.cgroups import Cgroup, make_cgroup
from r1ray.sandbox.inside.watch import children_of
from r1ray.sandbox.seccomp import seccomp_program

Binds = Sequence[tuple[str, str]]
_REAP_TIMEOUT_S = 10.0
_ISOLATED_ENDS_S = 0.5
_RUNNER_ENDS_S = 2.0


@dataclass
class Launched:
    """A runner that has been started, and what to undo when it ends.

    Attributes:
        process: its standard input and output are the channel.
        errors: what it, or what starts it, writes to standard error.
        cgroup: of everything in the sandbox; None where there is none.
        paths: prefixes of paths inside and what they are called where programs see them, for backends that cannot
            show a directory under another name.
        alone: the kernel ends the programs with the runner; else the runner has to end them itself.
        cleanup: called once the process has ended.
    """

    process: subprocess.Popen[bytes]
    errors: Any
    cgroup: Cgroup | None = None
    paths: Sequence[tuple[str, str]] = ()
    alone: bool = True
    cleanup: list[Callable[[], None]] = field(default_factory=list)

    def end(self) -> None:
        """Kill it and everything in the sandbox."""
        # A runner that sees its channel close ends, and is reaped by what started it; killed, it would be an orphan
        # that some containers' first process never reaps. The kernel kills the rest of its PID namespace with it.
        if self.process.stdin is not None:
            with contextlib.suppress(OSError):
                self.process.stdin.close()
        self._await_runner()
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

    def _await_runner(self) -> None:
        """Give the runner time to end what it has started; end that from here where it does not."""
        # A program of the same user may have stopped it.
        self.process.send_signal(signal.SIGCONT)
        with contextlib.suppress(subprocess.TimeoutExpired):
            self.process.wait(_ISOLATED_ENDS_S if self.alone else _RUNNER_ENDS_S)
            return
        if self.alone:
            return
        for pid in children_of(self.process.pid):
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)

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
    cgroup = make_cgroup(config.cgroup)
    errors = tempfile.TemporaryFile()  # noqa: SIM115 (closed with what it belongs to)
    descriptors: Sequence[int] = ()
    try:
        prepared = starter[config.backend](config, bind)
        descriptors = prepared.descriptors
        settings = {"scratch": [], "remove": False, **prepared.settings}
        settings["seccomp"] = base64.b64encode(seccomp_program()).decode()
        command = prepared.command([*runner_arguments(prepared.library), json.dumps(settings)])
        process = subprocess.Popen(
            command if cgroup is None else cgroup.enter(command),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=errors,
            bufsize=0,
            pass_fds=descriptors,
            env=prepared.environment,
            cwd=settings["work"] if config.backend == "none" else "/",
            start_new_session=True,
        )
    except (OSError, SandboxError) as error:
        errors.close()
        if cgroup is not None:
            cgroup.remove()
        if isinstance(error, SandboxError):
            raise
        raise SandboxError(f"no sandbox could be started on this machine: {error}") from error
    finally:
        for descriptor in descriptors:
            os.close(descriptor)
    assert process.stdin is not None
    os.set_blocking(process.stdin.fileno(), False)
    return Launched(process, errors, cgroup, prepared.paths, settings["alone"], prepared.cleanup)


def runner_arguments(library: str) -> list[str]:
    """Return the interpreter's arguments that run the runner.

    Args:
        library: directory that holds as much of the package r1ray as the runner needs.
    """
    start = f"import sys; sys.path.insert(0, {library!r}); from r1ray.sandbox.inside.runner import main; main()"
    return ["-I", "-S", "-B", "-c", start]
