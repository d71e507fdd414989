"""The languages of programs and what each needs to be compiled and run."""

from __future__ import annotations

import functools
import os
import re
import shutil
import subprocess
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from r1ray.errors import DataError, GraderError

_PUBLIC_CLASS = re.compile(r"\bpublic\s+(?:final\s+|abstract\s+)*class\s+([A-Za-z_]\w*)")
_FIRST_CLASS = re.compile(r"\bclass\s+([A-Za-z_]\w*)")


@dataclass(frozen=True, slots=True)
class Toolchain:
    """A language as this machine can run it.

    Attributes:
        source_name: file the program is written to.
        compile: command; None where the source runs as it is.
        run: command.
        bind: what the sandbox must show of this machine besides /usr: (outside, inside).
        bounded_addresses: whether the address space may be limited; runtimes that reserve much of it are held by
            what they really use.
    """

    source_name: str
    compile: tuple[str, ...] | None
    run: tuple[str, ...]
    bind: tuple[tuple[str, str], ...] = ()
    bounded_addresses: bool = True


ALIASES = {
    "py": "python", "python3": "python", "python2": "python", "pypy": "python", "cpp": "c++", "cxx": "c++", "cc": "c++",
    "c++17": "c++", "c++20": "c++", "js": "javascript", "node": "javascript", "nodejs": "javascript", "rs": "rust",
    "golang": "go",
}  # fmt: skip


def canonical(language: str) -> str:
    """Return the name r1ray uses for a language, `c++` for `cpp` and so on.

    Raises:
        DataError: it is none of ours.
    """
    name = language.strip().lower()
    name = ALIASES.get(name, name)
    if name not in LANGUAGES:
        raise DataError(f"language must be one of {', '.join(LANGUAGES)}, got {language!r}")
    return name


def known(language: str) -> bool:
    """Whether a code block's label names one of our languages."""
    return ALIASES.get(language.lower(), language.lower()) in LANGUAGES


def toolchain(language: str, source: str) -> Toolchain:
    """Return how to run a program.

    Raises:
        GraderError: this machine has no compiler or runtime for it, and how to get one.
    """
    return LANGUAGES[language](source)


def available(language: str) -> str | None:
    """Return None if this machine can run the language, else what it lacks."""
    try:
        toolchain(language, "")
    except GraderError as error:
        return str(error)
    return None


def _need(executable: str, language: str, remedy: str) -> str:
    found = shutil.which(executable)
    if found is None:
        raise GraderError(f"{language} programs cannot be graded here: {executable} was not found; {remedy}")
    return os.path.realpath(found)


def _python(_source: str) -> Toolchain:
    return Toolchain("solution.py", None, ())


def _c(_source: str) -> Toolchain:
    gcc = _need("gcc", "C", "`apt install gcc`")
    return Toolchain("main.c", (gcc, "-O2", "-std=gnu17", "-o", "main", "main.c", "-lm"), ("/tmp/main",))


def _cpp(_source: str) -> Toolchain:
    gxx = _need("g++", "C++", "`apt install g++`")
    return Toolchain("main.cpp", (gxx, "-O2", "-std=gnu++20", "-o", "main", "main.cpp"), ("/tmp/main",))


def _java(source: str) -> Toolchain:
    javac = _need("javac", "Java", "`apt install default-jdk-headless`")
    _need("java", "Java", "`apt install default-jdk-headless`")
    home, bind = _shown(Path(javac).parents[1])
    name = _PUBLIC_CLASS.search(source) or _FIRST_CLASS.search(source)
    main = name[1] if name else "Main"
    heap = ("-Xss64m", "-XX:+UseSerialGC", "-XX:TieredStopAtLevel=1", "-Xshare:auto")
    return Toolchain(
        f"{main}.java",
        (f"{home}/bin/javac", "-J-XX:+UseSerialGC", "-encoding", "UTF-8", "-nowarn", "-d", "/tmp", f"{main}.java"),
        (f"{home}/bin/java", *heap, "-cp", "/tmp", main),
        bind,
        bounded_addresses=False,
    )


def _go(_source: str) -> Toolchain:
    go = _need("go", "Go", "`apt install golang-go`")
    root, bind = _shown(Path(_asked(go, "env", "GOROOT")))
    environment = ("/usr/bin/env", "GOCACHE=/tmp/.cache", "GOPATH=/tmp/.go", "GO111MODULE=off", "GOFLAGS=-p=2")
    build = (*environment, f"GOROOT={root}", f"{root}/bin/go", "build", "-o", "main", "main.go")
    return Toolchain("main.go", build, ("/tmp/main",), bind, bounded_addresses=False)


def _rust(_source: str) -> Toolchain:
    _need("rustc", "Rust", "`apt install rustc`")
    # By its name, as rustup's stand-in for it goes by that.
    root, bind = _shown(Path(_asked("rustc", "--print", "sysroot")))
    build = ("/usr/bin/env", f"LD_LIBRARY_PATH={root}/lib", f"{root}/bin/rustc")
    options = ("--edition", "2021", "-O", "-o", "main", "main.rs")
    return Toolchain("main.rs", (*build, *options), ("/tmp/main",), bind, bounded_addresses=False)


def _javascript(_source: str) -> Toolchain:
    node, bind = _shown(Path(_need("node", "JavaScript", "`apt install nodejs`")))
    return Toolchain("main.js", None, (node, "--stack-size=65500", "/tmp/main.js"), bind, bounded_addresses=False)


def _shown(path: Path) -> tuple[str, tuple[tuple[str, str], ...]]:
    """Return where a toolchain stands inside the sandbox, which shows all of /usr, and what to bind for that."""
    if str(path).startswith("/usr/"):
        return str(path), ()
    return f"/opt/{path.name}", ((str(path), f"/opt/{path.name}"),)


@functools.cache
def _asked(*command: str) -> str:
    """Return what a tool says about itself."""
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=30, check=True)
    except (OSError, subprocess.SubprocessError) as error:
        raise GraderError(f"{command[0]} does not work here: {error}") from error
    return done.stdout.strip()


LANGUAGES: dict[str, Callable[[str], Toolchain]] = {
    "python": _python,
    "c++": _cpp,
    "c": _c,
    "java": _java,
    "go": _go,
    "rust": _rust,
    "javascript": _javascript,
}
