"""The system calls that no graded program has a use for, as a filter the kernel applies.

A refused call fails with EPERM, so that programs which only try go on. The filter is a default-allow list of what
widens the kernel's attack surface or reaches other processes; isolation itself is the namespaces' (`bubblewrap.py`).
"""

from __future__ import annotations

import errno
import tempfile
from functools import cache

from r1ray.errors import SandboxError

REFUSED = (
    *("ptrace", "process_vm_readv", "process_vm_writev", "pidfd_getfd", "kcmp", "process_madvise"),
    *("mount", "umount2", "pivot_root", "chroot", "fsopen", "fsconfig", "fsmount", "fspick", "move_mount", "open_tree"),
    *("mount_setattr", "swapon", "swapoff", "quotactl", "quotactl_fd", "nfsservctl"),
    *("keyctl", "add_key", "request_key", "bpf", "perf_event_open", "userfaultfd"),
    *("io_uring_setup", "io_uring_enter", "io_uring_register", "setns", "unshare"),
    *("init_module", "finit_module", "delete_module", "kexec_load", "kexec_file_load", "reboot"),
    *("syslog", "acct", "settimeofday", "clock_settime", "clock_adjtime", "adjtimex", "sethostname", "setdomainname"),
    *("name_to_handle_at", "open_by_handle_at", "fanotify_init", "lookup_dcookie", "vhangup", "iopl", "ioperm"),
    # Memory that belongs to no process, which only a cgroup would count.
    *("memfd_create", "memfd_secret", "shmget", "semget", "msgget"),
    *("personality", "uselib", "ustat", "_sysctl", "modify_ldt", "vmsplice", "move_pages", "mbind", "migrate_pages"),
)
_NEW_NAMESPACES = 0x7E020080  # CLONE_NEW{TIME,NS,CGROUP,UTS,IPC,USER,PID,NET}
_TIOCSTI = 0x5412


@cache
def seccomp_program() -> bytes:
    """Return the filter as a BPF program for `bwrap --seccomp`.

    Raises:
        SandboxError: libseccomp is not there.
    """
    try:
        import pyseccomp
    except (ImportError, RuntimeError) as error:
        raise SandboxError(
            f"the sandbox needs libseccomp: {error}; `apt install libseccomp2` or your system's package has it"
        ) from error
    program = pyseccomp.SyscallFilter(pyseccomp.ALLOW)
    refuse = pyseccomp.ERRNO(errno.EPERM)
    for name in REFUSED:
        try:
            program.add_rule(refuse, name)
        except (OSError, RuntimeError):
            continue  # this architecture does not have it
    for bit in range(32):
        if _NEW_NAMESPACES >> bit & 1:
            flag = 1 << bit
            program.add_rule(refuse, "clone", pyseccomp.Arg(0, pyseccomp.MASKED_EQ, flag, flag))
    # Its flags lie in memory, where a filter cannot look; libc falls back to clone.
    program.add_rule(pyseccomp.ERRNO(errno.ENOSYS), "clone3")
    program.add_rule(refuse, "ioctl", pyseccomp.Arg(1, pyseccomp.MASKED_EQ, 0xFFFFFFFF, _TIOCSTI))
    with tempfile.TemporaryFile() as file:
        program.export_bpf(file)
        file.seek(0)
        return file.read()
