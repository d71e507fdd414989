"""Sandboxes with a kernel of their own: gVisor's `runsc`.

Each is an OCI bundle over read-only parts of this machine, as in `bubblewrap.py`, so no image is needed. Ray's own
`ray.experimental.sandbox` starts such sandboxes too, but from container images, and its `exec` runs commands to their
end: a runner that is talked to cannot live in it. This module drives the same `runsc` directly.
"""

from __future__ import annotations

import contextlib
import functools
import json
import os
import shutil
import subprocess
import tempfile
import uuid
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from r1ray.config.schema import SandboxConfig
from r1ray.errors import SandboxError
from r1ray.sandbox.bubblewrap import LIBRARY, PROGRAM_UID, PYTHON, library_binds, system_binds, system_links
from r1ray.sandbox.prepared import Prepared

_CAPABILITIES = ["CAP_SETUID", "CAP_SETGID", "CAP_KILL", "CAP_DAC_OVERRIDE"]
_DELETE_TIMEOUT_S = 10.0


def find_runsc() -> str:
    """Return the path of gVisor's runtime.

    Raises:
        SandboxError: there is none.
    """
    found = shutil.which("runsc")
    if found is None:
        raise SandboxError(
            "sandbox.backend=gvisor needs runsc, which was not found: install gVisor on every node "
            "(`apt install runsc`, or the release of gvisor.dev), or use sandbox.backend=bubblewrap"
        )
    return found


def prepare(config: SandboxConfig, bind: Sequence[tuple[str, str]]) -> Prepared:
    """Return how to start a runner in a gVisor sandbox.

    Raises:
        SandboxError: there is no runsc.
    """
    runsc = [find_runsc(), "--network=none", "--ignore-cgroups", f"--rootless={str(os.geteuid() != 0).lower()}"]
    bundle = Path(tempfile.mkdtemp(prefix="r1ray-gvisor-"))
    runsc.append(f"--root={bundle / 'state'}")
    name = f"r1ray-{uuid.uuid4().hex}"
    (bundle / "rootfs").mkdir()

    def command(arguments: list[str]) -> list[str]:
        spec = bundle_spec([PYTHON, *arguments], tmp_bytes=config.tmp_bytes, bind=bind)
        (bundle / "config.json").write_text(json.dumps(spec))
        return [*runsc, "run", "--bundle", str(bundle), name]

    return Prepared(
        command,
        LIBRARY,
        {"work": "/tmp", "uid": PROGRAM_UID, "alone": True},
        environment={"PATH": os.environ.get("PATH", "/usr/bin:/bin")},
        cleanup=[functools.partial(_delete, runsc, name, bundle)],
    )


def bundle_spec(arguments: Sequence[str], *, tmp_bytes: int, bind: Sequence[tuple[str, str]]) -> dict[str, Any]:
    """Return the OCI spec of a sandbox that runs one command.

    Args:
        arguments: of the command.
        tmp_bytes: size of /tmp.
        bind: more directories or files to show read-only: (outside, inside).
    """
    shown = [*system_binds(), *library_binds(), *bind, *((os.path.realpath(path), path) for path, _ in system_links())]
    mounts: list[dict[str, Any]] = [
        {"destination": inside, "type": "bind", "source": outside, "options": ["ro", "rbind"]}
        for outside, inside in shown
    ]
    mounts.append({"destination": "/proc", "type": "proc", "source": "proc"})
    mounts.append(
        {"destination": "/tmp", "type": "tmpfs", "source": "tmpfs", "options": ["mode=1777", f"size={tmp_bytes}"]}
    )
    return {
        "ociVersion": "1.0.0",
        "hostname": "sandbox",
        "root": {"path": "rootfs", "readonly": True},
        "mounts": mounts,
        "process": {
            "args": list(arguments),
            "cwd": "/tmp",
            "user": {"uid": 0, "gid": 0},
            "env": ["PATH=/usr/bin:/bin", "HOME=/tmp", "LANG=C.UTF-8"],
            "noNewPrivileges": True,
            "capabilities": dict.fromkeys(("bounding", "effective", "permitted"), _CAPABILITIES),
        },
        "linux": {"namespaces": [{"type": kind} for kind in ("pid", "network", "ipc", "uts", "mount")]},
    }


def _delete(runsc: Sequence[str], name: str, bundle: Path) -> None:
    with contextlib.suppress(OSError, subprocess.TimeoutExpired):
        subprocess.run([*runsc, "delete", "--force", name], capture_output=True, timeout=_DELETE_TIMEOUT_S, check=False)
    shutil.rmtree(bundle, ignore_errors=True)
