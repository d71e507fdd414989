"""What every result says of where it comes from."""

from __future__ import annotations

import os
import subprocess
from datetime import UTC, datetime
from pathlib import Path

ROOT = Path(__file__).parents[1]
RESULTS = ROOT / "benchmarks" / "results"


def provenance(question: str | None, command: str) -> dict[str, str]:
    """Return the question (first line of a docstring), command, date, commit and hardware of a result."""
    return {
        "question": (question or "").splitlines()[0],
        "command": command,
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "commit": commit(),
        "hardware": hardware(),
    }


def commit() -> str:
    """Return the commit of the working tree, or what COMMIT says where the tree has no repository."""
    try:
        head = subprocess.run(["git", "rev-parse", "HEAD"], cwd=ROOT, capture_output=True, text=True, check=True)
    except (OSError, subprocess.CalledProcessError):
        return os.environ.get("COMMIT", "unknown")
    return head.stdout.strip()


def hardware() -> str:
    """Name the processor and the number of cores this process may use."""
    lines = Path("/proc/cpuinfo").read_text().splitlines()
    model = next((line for line in lines if "model name" in line), "?: ?")
    return f"{model.split(':')[1].strip()}, {len(os.sched_getaffinity(0))} cores"
