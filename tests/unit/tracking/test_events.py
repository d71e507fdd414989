from pathlib import Path

from r1ray.tracking.events import EventLog
from r1ray.tracking.run_dir import RunDirectory


def test_an_event_has_time_step_kind_and_fields(tmp_path: Path) -> None:
    log = EventLog(RunDirectory(tmp_path), clock=lambda: 1_700_000_000.25)
    log.step = 7
    log.write("worker_restart", worker="rollout-0", reason=ValueError("gone"))
    log.write("group_dropped", step=2)
    log.close()
    assert log.read() == [
        {
            "time": "2023-11-14T22:13:20.250+00:00",
            "step": 7,
            "kind": "worker_restart",
            "worker": "rollout-0",
            "reason": "gone",
        },
        {"time": "2023-11-14T22:13:20.250+00:00", "step": 2, "kind": "group_dropped"},
    ]


def test_counts_go_on_after_a_restart(tmp_path: Path) -> None:
    first = EventLog(RunDirectory(tmp_path))
    first.write("timeout")
    first.write("timeout")
    first.close()
    second = EventLog(RunDirectory(tmp_path))
    second.write("restart")
    second.close()
    assert second.counts == {"timeout": 2, "restart": 1}
