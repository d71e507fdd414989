"""A Ray that the tests share, and small real runs of the command line."""

import contextlib
import io
import json
import os
import subprocess
import sys
import threading
import time
import warnings
from collections.abc import Iterator, Sequence
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from unittest import mock

import psutil
import pytest

ROOT = Path(__file__).parents[2]
QUICKSTART = ROOT / "conf" / "quickstart.yaml"
# A run of seconds: everything real, only less of it.
SMALL = [
    "rollout.engine=transformers",
    "rollout.group_size=4",
    "rollout.max_completion_tokens=48",
    "train.num_prompts_per_step=4",
    "data.eval.size=8",
    "learner.micro_batch_tokens=1024",
]
# A process that keeps a Ray until its standard input ends.
KEEP_RAY = """
import sys
import ray
from r1ray.driver.placement import start_local_ray
start_local_ray(num_cpus=2, logging_level="ERROR", log_to_driver=False)
print("address", ray.get_runtime_context().gcs_address, flush=True)
sys.stdin.read()
ray.shutdown()
"""


@pytest.fixture(scope="session")
def ray_address() -> Iterator[str]:
    """The Ray of all tests that need none of their own: to start one takes longer than what most of them do."""
    # Drivers that are told an address bring no token.
    environment = {k: v for k, v in os.environ.items() if k != "RAY_ADDRESS"} | {"RAY_AUTH_MODE": "disabled"}
    keeper = subprocess.Popen(
        [sys.executable, "-c", KEEP_RAY], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=environment
    )
    lines = iter(keeper.stdout or ())
    address = next((line.split()[1] for line in lines if line.startswith("address ")), None)
    assert address, "Ray did not start"
    yield address
    keeper.communicate(timeout=60)


@pytest.fixture(scope="module")
def shared_ray(ray_address: str) -> Iterator[None]:
    """This process as a driver of the shared Ray."""
    import ray

    ray.init(address=ray_address, logging_level="ERROR", log_to_driver=False)
    yield
    ray.shutdown()


def train_command(run_dir: Path, *overrides: str) -> list[str]:
    executable = Path(sys.executable).parent / "r1ray"
    return [str(executable), "train", str(QUICKSTART), f"run.dir={run_dir}", *SMALL, *overrides]


def run_here(command: Sequence[str]) -> subprocess.CompletedProcess[str]:
    """Run a command of r1ray in this process, which has imported already what takes a process of its own seconds."""
    import ray

    from r1ray import cli

    connected = ray.is_initialized()
    output, errors = io.StringIO(), io.StringIO()
    with (
        mock.patch.object(sys, "argv", list(command)),
        contextlib.redirect_stdout(output),
        contextlib.redirect_stderr(errors),
        warnings.catch_warnings(),
    ):
        warnings.simplefilter("default")
        try:
            cli.main()
            code: Any = 0
        except SystemExit as end:
            code = end.code or 0
        finally:
            if not connected:
                ray.shutdown()
    return subprocess.CompletedProcess(command, code, output.getvalue(), errors.getvalue())


def metrics_of(run_dir: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (run_dir / "metrics.jsonl").read_text().splitlines()]


def worker_processes(actor: str) -> list[psutil.Process]:
    """Return the processes of an actor class in the shared Ray."""
    found = []
    for process in psutil.Process().children(recursive=True):
        with contextlib.suppress(psutil.NoSuchProcess):
            if (process.cmdline() or [""])[0].startswith(f"ray::{actor}"):
                found.append(process)
    return found


@pytest.fixture(scope="session")
def tools(ray_address: str) -> Any:
    """Hand the helpers above to tests, which cannot import each other."""
    from types import SimpleNamespace

    shared = f"cluster.address={ray_address}"
    return SimpleNamespace(
        train_command=lambda run_dir, *overrides: train_command(run_dir, shared, *overrides),
        run_train=lambda run_dir, *overrides: run_here(train_command(run_dir, shared, *overrides)),
        run_here=run_here,
        metrics_of=metrics_of,
        worker_processes=worker_processes,
        ray_address=ray_address,
        root=ROOT,
        Endpoint=Endpoint,
    )


class Endpoint:
    """A chat-completions server; `reply(user_text, number)` returns a text, or (status, headers, body)."""

    def __init__(self):
        self.reply = lambda text, number: "It is.\n[[CORRECT]]"
        self.bodies: list[dict] = []
        self.times: list[float] = []
        self.keys: list[str | None] = []
        self.at_once = self.most_at_once = 0
        self.released = threading.Event()
        self._lock = threading.Lock()
        endpoint = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_POST(self):
                endpoint._answer(self)

            def log_message(self, *_):
                pass

        class Server(ThreadingHTTPServer):
            request_queue_size = 64

            def handle_error(self, *_):
                pass  # clients that gave up

        self._server = Server(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self._server.server_port}/v1"
        self._thread = threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.01})
        self._thread.start()

    def _answer(self, handler):
        body = json.loads(handler.rfile.read(int(handler.headers["Content-Length"])))
        with self._lock:
            self.bodies.append(body)
            self.times.append(time.monotonic())
            self.keys.append(handler.headers["Authorization"])
            number = len(self.bodies)
            self.at_once += 1
            self.most_at_once = max(self.most_at_once, self.at_once)
        given = self.reply(body["messages"][-1]["content"], number)
        with self._lock:
            self.at_once -= 1
        if isinstance(given, str):
            choice = {"index": 0, "message": {"role": "assistant", "content": given}, "finish_reason": "stop"}
            given = (200, {}, json.dumps({"id": "1", "object": "chat.completion", "created": 0, "choices": [choice]}))
        status, headers, text = given
        handler.send_response(status)
        for name, value in {
            "Content-Type": "application/json",
            "Content-Length": len(text.encode()),
            **headers,
        }.items():
            handler.send_header(name, str(value))
        handler.end_headers()
        handler.wfile.write(text.encode())

    def close(self):
        self.released.set()
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()


@pytest.fixture
def endpoint():
    served = Endpoint()
    yield served
    served.close()
