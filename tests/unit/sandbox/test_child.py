import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import psutil
import pytest

from r1ray.sandbox.child import ChildProcess
from r1ray.sandbox.limits import WALL_FACTOR, Limits
from r1ray.sandbox.server import Outcome, Reply

MIB = 1 << 20
HERE = Path(__file__).parent


@pytest.fixture
def child(monkeypatch):
    monkeypatch.syspath_prepend(str(HERE))
    child = ChildProcess("echo_child", limits=Limits(memory_bytes=256 * MIB))
    yield child
    child.close()


def ask(child: ChildProcess, do: str, *, time_limit_s: float = 10.0, **fields: object) -> Reply:
    return child.ask({"do": do, **fields}, time_limit_s=time_limit_s)


def gone(pid: int, within_s: float = 10.0) -> bool:
    try:
        process = psutil.Process(pid)
        return process.status() == psutil.STATUS_ZOMBIE or process.wait(within_s) is None
    except psutil.NoSuchProcess:
        return True


def test_a_value_comes_back_and_the_child_is_reused(child):
    value = {"text": "x" * (MIB), "n": [1, None, "\N{GREEK SMALL LETTER PI}"]}
    assert ask(child, "echo", value=value) == Reply(Outcome.OK, value)
    assert ask(child, "pid").value == ask(child, "pid").value == child.pid


def test_what_the_work_prints_does_not_disturb_the_messages(child):
    assert ask(child, "print").value == "done"
    assert ask(child, "echo", value=1).value == 1


def test_an_exception_is_reported_and_the_child_lives_on(child):
    pid = ask(child, "pid").value
    assert ask(child, "raise") == Reply(Outcome.ERROR, None, "ValueError: as asked")
    assert ask(child, "recurse").outcome is Outcome.ERROR
    assert ask(child, "pid").value == pid


@pytest.mark.parametrize("work", [{"do": "hang"}, {"do": "sleep", "seconds": 600}, {"do": "power"}])
def test_work_that_hangs_is_killed_at_the_deadline_and_the_child_replaced(child, work):
    pid = ask(child, "pid").value
    started = time.monotonic()
    reply = child.ask(work, time_limit_s=0.5)
    assert reply.outcome is Outcome.TIMEOUT
    assert 0.5 <= time.monotonic() - started < 0.5 * WALL_FACTOR + 3
    assert gone(pid)
    assert ask(child, "echo", value=2).value == 2


def test_waiting_for_the_processor_does_not_count(child):
    assert ask(child, "sleep", seconds=1, time_limit_s=0.5).outcome is Outcome.OK


def test_work_that_takes_too_much_memory_is_refused(child):
    assert ask(child, "allocate", bytes=64 * MIB).value == 64 * MIB
    assert ask(child, "allocate", bytes=512 * MIB).outcome is Outcome.MEMORY
    assert ask(child, "echo", value=3).value == 3


def test_a_child_that_dies_by_itself_is_reported_with_its_last_words(child):
    reply = ask(child, "exit")
    assert reply.outcome is Outcome.DIED
    assert "exit code 3: last words" in reply.detail
    assert ask(child, "echo", value=4).value == 4


def test_a_child_killed_from_outside_is_replaced_and_the_request_answered(child):
    os.kill(ask(child, "pid").value, signal.SIGKILL)
    assert ask(child, "echo", value=5).value == 5


def test_a_child_killed_while_it_works_is_replaced_and_the_request_answered(child):
    first = ask(child, "pid").value
    killer = threading.Timer(0.3, os.kill, (first, signal.SIGKILL))
    killer.start()
    assert ask(child, "sleep", seconds=1).outcome is Outcome.OK
    killer.join()
    assert child.pid != first


def test_the_whole_process_group_is_killed(child):
    grandchild = ask(child, "grandchild").value
    child.close()
    assert gone(grandchild)


def test_a_module_that_cannot_be_imported_is_named():
    child = ChildProcess("no_such_child", limits=Limits(memory_bytes=256 * MIB))
    reply = ask(child, "echo", value=1)
    assert reply.outcome is Outcome.NOT_STARTED
    assert "no_such_child" in reply.detail


def test_a_child_works_outside_the_main_thread(child):
    replies = []
    thread = threading.Thread(target=lambda: replies.append(ask(child, "hang", time_limit_s=0.3)))
    thread.start()
    thread.join(20)
    assert [reply.outcome for reply in replies] == [Outcome.TIMEOUT]


@pytest.mark.parametrize("busy", [False, True], ids=["idle", "busy"])
def test_an_orphan_dies_with_its_parent(busy):
    program = f"""
import sys, threading
sys.path.insert(0, {str(HERE)!r})
from r1ray.sandbox.child import ChildProcess
from r1ray.sandbox.limits import WALL_FACTOR, Limits
child = ChildProcess("echo_child", limits=Limits(memory_bytes=1 << 28))
print(child.ask({{"do": "pid"}}, time_limit_s=5).value, flush=True)
if {busy}:
    child.ask({{"do": "power"}}, time_limit_s=2)
sys.stdin.read()
"""
    command = [sys.executable, "-c", program]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as parent:
        assert parent.stdout is not None
        pid = int(parent.stdout.readline())
        assert psutil.pid_exists(pid)
        parent.kill()
    assert gone(pid)
