"""What every sandbox back end does, and what each alone can hold."""

import logging
import os
import shutil
import stat
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest

from r1ray.cluster.doctor import diagnose
from r1ray.config.schema import SandboxConfig
from r1ray.errors import SandboxError
from r1ray.rewards.code.judge import CodeJudge
from r1ray.rewards.code.problem import parse_tests
from r1ray.sandbox import gvisor, unprotected
from r1ray.sandbox.box import Box, RunLimits
from r1ray.types import Verdict

LIMITS = RunLimits(cpu_s=2.0, wall_s=8.0, memory_bytes=1 << 28)
SHORT = RunLimits(cpu_s=1.0, wall_s=2.0, memory_bytes=1 << 28)
BACKENDS = ("bubblewrap", "gvisor", "none")


@pytest.fixture(params=BACKENDS)
def config(request: pytest.FixtureRequest) -> SandboxConfig:
    config = SandboxConfig(backend=request.param)
    if request.param == "gvisor" and shutil.which("runsc") is None:
        pytest.skip("runsc is not installed here")
    try:
        with Box(config) as box:
            assert box.run({"kind": "script", "source": ""}, LIMITS).ok
    except SandboxError as error:
        pytest.skip(str(error))
    return config


def test_programs_run_with_input_files_and_an_empty_environment(config: SandboxConfig) -> None:
    source = "import os\nprint(input(), open('given').read(), sorted(set(os.environ) - {'HOME', 'LANG', 'PATH'}))"
    with Box(config) as box:
        result = box.run({"kind": "script", "source": source, "stdin": "7\n", "files": {"given": "x"}}, LIMITS)
    assert result.ok, result
    assert result.stdout.startswith("7 x [")
    assert "SECRET" not in result.stdout


def test_what_one_program_leaves_the_next_does_not_find(config: SandboxConfig) -> None:
    with Box(config) as box:
        assert box.run({"kind": "script", "source": "open('left', 'w').write('x')"}, LIMITS).ok
        assert box.run({"kind": "script", "source": "import os\nprint(os.listdir('.'))"}, LIMITS).stdout == "[]\n"


def test_time_is_limited(config: SandboxConfig) -> None:
    with Box(config) as box:
        assert box.run({"kind": "script", "source": "while True: pass"}, SHORT).timeout
        assert box.run({"kind": "script", "source": "import time; time.sleep(60)"}, SHORT).timeout
        assert box.run({"kind": "script", "source": "print(1)"}, LIMITS).ok


def test_compiled_programs_are_judged(config: SandboxConfig) -> None:
    judge = CodeJudge(config)
    tests = parse_tests({"kind": "stdio", "cases": [{"stdin": "4", "stdout": "8"}], "time_limit_s": 5})
    source = "#include <iostream>\nint main() { int n; std::cin >> n; std::cout << 2 * n; }"
    result = judge.judge(source, "c++", tests)
    judge.close()
    assert result.verdict is Verdict.CORRECT, result.detail


def test_a_closed_sandbox_leaves_no_process(config: SandboxConfig) -> None:
    box = Box(config)
    box.begin({"kind": "script", "source": "import os, time\nif os.fork() == 0: os.setsid()\ntime.sleep(60)"}, LIMITS)
    box.close()
    until = time.monotonic() + 10
    while left := [p for p in psutil.process_iter(["ppid", "cmdline"]) if _is_left(p)]:
        assert time.monotonic() < until, left
        time.sleep(0.05)


def _is_left(process: psutil.Process) -> bool:
    """Whether a process of a sandbox is this test's child or nobody's."""
    ours = "r1ray.sandbox.inside" in " ".join(process.info["cmdline"] or ())
    return ours and process.info["ppid"] in (1, os.getpid())


def test_no_isolation_is_loud(caplog: pytest.LogCaptureFixture) -> None:
    unprotected._warn.cache_clear()
    with caplog.at_level(logging.WARNING):
        for _ in range(2):
            with Box(SandboxConfig(backend="none")) as box:
                assert box.run({"kind": "script", "source": ""}, LIMITS).ok
    assert sum("UNPROTECTED" in record.message for record in caplog.records) == 1


def test_a_program_that_stops_its_runner_ends_all_the_same() -> None:
    source = "import os, signal, time\nos.kill(os.getppid(), signal.SIGSTOP)\nos.fork()\ntime.sleep(60)"
    with Box(SandboxConfig(backend="none")) as box:
        result = box.run({"kind": "script", "source": source}, SHORT)
        assert result.timeout
        assert box.run({"kind": "script", "source": "print(1)"}, LIMITS).ok
    assert not [p for p in psutil.process_iter(["ppid", "cmdline"]) if _is_left(p)]


def test_no_isolation_leaves_other_processes_alone() -> None:
    other = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"])
    try:
        with Box(SandboxConfig(backend="none")) as box:
            box.run({"kind": "script", "source": "import os, time\nos.fork()\ntime.sleep(60)"}, SHORT)
        assert other.poll() is None
    finally:
        other.kill()
        other.wait()


def test_a_machine_without_user_namespaces_is_told_what_to_do(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fake = tmp_path / "bwrap"
    fake.write_text("#!/bin/sh\necho 'bwrap: No permissions to create new namespace' >&2\nexit 1\n")
    fake.chmod(fake.stat().st_mode | stat.S_IXUSR)
    monkeypatch.setattr("r1ray.sandbox.bubblewrap.find_bwrap", lambda: str(fake))
    with (
        pytest.raises(SandboxError, match=r"No permissions to create new namespace.*max_user_namespaces"),
        Box() as box,
    ):
        box.run({"kind": "script", "source": ""}, LIMITS)


def test_without_runsc_gvisor_says_how_to_get_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shutil, "which", lambda name: None)
    with pytest.raises(SandboxError, match="needs runsc, which was not found"):
        gvisor.find_runsc()


def test_a_sandbox_with_one_user_holds_too(monkeypatch: pytest.MonkeyPatch) -> None:
    # As where r1ray runs unprivileged: program and runner are one user, and killing everything ends the sandbox only.
    monkeypatch.setattr("r1ray.sandbox.bubblewrap.two_user_namespace", lambda: None)
    with Box() as box:
        result = box.run({"kind": "script", "source": "import os; print(os.getuid())"}, LIMITS)
        assert result.stdout == "1000\n", result
        assert not box.run({"kind": "script", "source": "import os, signal; os.kill(-1, signal.SIGKILL)"}, LIMITS).ok
        assert not box.run(
            {"kind": "script", "source": "import os; open(f'/proc/{os.getppid()}/mem', 'rb')"}, LIMITS
        ).ok
        assert box.run({"kind": "script", "source": "print(1)"}, LIMITS).stdout == "1\n"


def test_the_doctor_finds_every_protection_held_in_bubblewrap() -> None:
    checks = diagnose(SandboxConfig())
    if checks[0].held is False:
        pytest.skip(checks[0].detail)
    missing = {check.name for check in checks if check.held is False}
    # Unprivileged, program and runner are one user.
    assert missing == (set() if os.geteuid() == 0 else {"runner cannot be signalled"})
    assert sum(check.held is True for check in checks) >= 27


def test_with_one_user_a_program_can_stop_its_runner_and_no_more(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("r1ray.sandbox.bubblewrap.two_user_namespace", lambda: None)
    missing = {check.name for check in diagnose(SandboxConfig()) if check.held is False}
    assert missing == {"runner cannot be signalled"}


def test_the_doctor_exits_with_one_where_something_is_not_held() -> None:
    command = [sys.executable, "-m", "r1ray.cli", "doctor", "sandbox.backend=none"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 1
    assert "NOT HELD" in done.stdout
    for name in ("no network", "host files hidden", "runner cannot be signalled"):
        assert name in done.stderr
    assert "other processes hidden" in done.stderr
    assert "not held on this machine: " in done.stderr
    assert "Traceback" not in done.stderr
