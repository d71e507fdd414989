"""No sandbox: programs run as the user who runs r1ray and can do what that user can.

For machines that allow no user namespaces and hold nothing of value. Limits of time, memory, output and processes
hold, a seccomp filter refuses what programs have no use for, and what a program starts is killed after it; files,
network and other processes of the user are open to it.
"""

from __future__ import annotations

import functools
import logging
import os
import shutil
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

from r1ray.config.schema import SandboxConfig
from r1ray.sandbox.prepared import Prepared

logger = logging.getLogger(__name__)


def prepare(config: SandboxConfig, bind: Sequence[tuple[str, str]]) -> Prepared:
    """Return how to start a runner as an ordinary process in a directory of its own."""
    _warn()
    work = tempfile.mkdtemp(prefix="r1ray-program-")
    environment = {"PATH": "/usr/bin:/bin", "HOME": work, "TMPDIR": work, "LANG": "C.UTF-8"}
    settings = {"work": work, "uid": None, "alone": False, "remove": True}
    # What other backends show under another name lies where it lies.
    paths = [(inside, outside) for outside, inside in bind] + [("/tmp", work)]
    return Prepared(
        lambda arguments: [os.path.realpath(sys.executable), *arguments],
        str(Path(__file__).parents[2]),
        settings,
        environment=environment,
        paths=paths,
        cleanup=[functools.partial(shutil.rmtree, work, ignore_errors=True)],
    )


@functools.cache
def _warn() -> None:
    logger.warning(
        "sandbox.backend=none: programs written by the policy run UNPROTECTED as user %d of this machine, with its "
        "files and its network; use sandbox.backend=bubblewrap wherever user namespaces are allowed",
        os.getuid(),
    )
