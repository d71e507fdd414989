"""`ray start --head` and `ray job submit -- r1ray train ...`, as on a cluster."""

import json
import os
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest

BIN = Path(sys.executable).parent
# `ray start` asks for a token once some earlier Ray has left one in the home directory; `ray job submit` brings none.
NO_TOKEN = {"RAY_AUTH_MODE": "disabled"}


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@pytest.fixture
def head() -> Iterator[str]:
    """A Ray head node of our own; yields the address of its job server."""
    dashboard = free_port()
    command = [
        *(str(BIN / "ray"), "start", "--head", "--block", "--num-cpus=2", "--disable-usage-stats"),
        *(f"--port={free_port()}", f"--dashboard-port={dashboard}", f"--dashboard-agent-listen-port={free_port()}"),
    ]
    process = subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, env={**os.environ, **NO_TOKEN}
    )
    url = f"http://127.0.0.1:{dashboard}"
    try:
        end = time.monotonic() + 120
        while True:
            assert process.poll() is None, process.communicate()[0]
            assert time.monotonic() < end, "the head node did not come up"
            try:
                with urllib.request.urlopen(f"{url}/api/version", timeout=5):
                    break
            except OSError:
                time.sleep(0.5)
        yield url
    finally:
        family = psutil.Process(process.pid).children(recursive=True)
        process.terminate()
        try:
            process.communicate(timeout=60)
        except subprocess.TimeoutExpired:
            process.kill()
            process.communicate()
        for member in family:
            if member.is_running():
                member.kill()
        psutil.wait_procs(family, timeout=30)


def test_a_submitted_job_attaches_to_the_running_ray(head: str, tmp_path: Path, tools: Any) -> None:
    run_dir = tmp_path / "submitted"
    train = [a for a in tools.train_command(run_dir, "train.steps=1") if not a.startswith("cluster.address=")]
    environment = {**os.environ, **NO_TOKEN, "RAY_ADDRESS": head}
    done = subprocess.run(
        [str(BIN / "ray"), "job", "submit", "--", *train],
        capture_output=True,
        text=True,
        timeout=400,
        env=environment,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert "succeeded" in done.stdout
    assert "step 1/1" in done.stdout
    assert json.loads((run_dir / "summary.json").read_text())["steps"] == 1
