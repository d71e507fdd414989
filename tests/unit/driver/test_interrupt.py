import os
import signal
import threading
import time

import pytest

from r1ray.driver.interrupt import InterruptFlag


def test_the_first_signal_sets_the_flag_and_says_what_happens_the_second_ends_the_run() -> None:
    said: list[str] = []
    before = signal.getsignal(signal.SIGTERM)
    with InterruptFlag(said.append) as flag:
        assert not flag.is_set()
        os.kill(os.getpid(), signal.SIGTERM)
        assert flag.is_set()
        with pytest.raises(KeyboardInterrupt):
            os.kill(os.getpid(), signal.SIGINT)
    assert signal.getsignal(signal.SIGTERM) is before
    (message,) = said
    assert "again to end at once" in message


def test_what_is_said_waits_for_what_the_signal_broke_into() -> None:
    # A console in the middle of a line, or of an import, cannot take another line from a handler.
    console, said = threading.Lock(), []

    def say(text: str) -> None:
        if console.acquire(timeout=5):
            said.append(text)
            console.release()

    with InterruptFlag(say) as flag:
        with console:
            os.kill(os.getpid(), signal.SIGINT)
            time.sleep(0.01)
        assert flag.is_set()
    assert len(said) == 1


def test_without_a_signal_nothing_is_said() -> None:
    said: list[str] = []
    with InterruptFlag(said.append):
        pass
    assert said == []
