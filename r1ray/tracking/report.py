"""report.html: the run on one self-contained page.

Gathers curves, samples, events and config into the JSON block inside `report_template.html`, which draws them in the
browser; `page.py` says why completions cannot harm the page.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from importlib.resources import files
from typing import Any

import yaml

from r1ray.tracking.events import EventLog
from r1ray.tracking.jsonl import Record
from r1ray.tracking.metrics import MetricLine, MetricsLog, metric_names, step_of
from r1ray.tracking.page import build_page
from r1ray.tracking.report_samples import collect_samples, shorten
from r1ray.tracking.rollouts import RolloutLog
from r1ray.tracking.run_dir import CONFIG_FILE, REPORT_FILE, RunDirectory
from r1ray.tracking.summary import build_summary

MAX_POINTS = 400
MAX_EVENTS = 300
# Metrics without a panel of their own that are drawn anyway.
MAX_OTHER_METRICS = 48


@dataclass(frozen=True, slots=True)
class Panel:
    """One chart.

    Attributes:
        metrics: (metric, label) of each series.
        form: how values read: `number`, `percent` or `seconds`.
        stacked: series are parts of a whole and stand on each other.
        zero: the scale starts at zero.
    """

    section: str
    title: str
    metrics: tuple[tuple[str, str], ...]
    form: str = "number"
    stacked: bool = False
    zero: bool = False


_LEARNING, _OPTIMISATION, _AGREEMENT, _SPEED = "Learning", "Optimisation", "Rollout and learner", "Throughput"

PANELS = (
    Panel(_LEARNING, "Held-out pass@1", (("eval/pass_at_1", "pass@1"),), "percent"),
    Panel(_LEARNING, "Training accuracy", (("train/accuracy_mean", "accuracy"),), "percent"),
    Panel(_LEARNING, "Loss", (("train/loss", "training"), ("eval/loss", "held-out"))),
    Panel(_LEARNING, "Accuracy", (("train/accuracy", "training"), ("eval/accuracy", "held-out")), "percent"),
    Panel(_LEARNING, "Margin", (("train/margin_mean", "training"), ("eval/margin_mean", "held-out"))),
    Panel(_LEARNING, "Reward", (("train/reward_mean", "mean"),)),
    Panel(_LEARNING, "Format rate", (("train/format_mean", "training"), ("eval/format_rate", "held-out")), "percent"),
    Panel(
        _LEARNING,
        "Completion tokens",
        (("train/completion_tokens_mean", "training"), ("eval/completion_tokens_mean", "held-out")),
        zero=True,
    ),
    Panel(_LEARNING, "Truncated completions", (("train/truncated_fraction", "at the limit"),), "percent", zero=True),
    Panel(_OPTIMISATION, "KL to reference", (("train/kl", "KL"),), zero=True),
    Panel(_OPTIMISATION, "Entropy", (("train/entropy", "nats per token"),), zero=True),
    Panel(_OPTIMISATION, "Clip fraction", (("train/clip_fraction", "clipped tokens"),), "percent", zero=True),
    Panel(_OPTIMISATION, "Policy loss", (("train/policy_loss", "loss"),)),
    Panel(_OPTIMISATION, "Gradient norm", (("train/grad_norm", "before clipping"),), zero=True),
    Panel(_OPTIMISATION, "Learning rate", (("train/lr", "lr"),), zero=True),
    Panel(_AGREEMENT, "Logprob mismatch", (("train/logprob_mismatch", "learner - rollout"),), zero=True),
    Panel(_AGREEMENT, "Sync probe difference", (("sync/probe_diff", "after sync"),), zero=True),
    Panel(_AGREEMENT, "Staleness", (("train/staleness_mean_steps", "mean steps"),), zero=True),
    Panel(
        _SPEED,
        "Tokens per second",
        (("rollout/tokens_per_s", "rollout"), ("learner/tokens_per_s", "learner")),
        zero=True,
    ),
    Panel(
        _SPEED,
        "Packing",
        (("learner/packing_efficiency", "used positions"), ("learner/micro_batch_fill", "full micro-batches")),
        "percent",
    ),
    Panel(_SPEED, "Model FLOPs utilisation", (("learner/mfu", "of the device's peak"),), "percent", zero=True),
    Panel(_SPEED, "Dropped groups", (("train/dropped_groups", "per step"),), zero=True),
)

_REWARD_PREFIXES = ("reward/", "grade/")

# What the head of the page says about the config: (label, dotted key).
_CONFIG_HEAD = (
    ("model", "model.path"),
    ("data", "data.train.name"),
    ("template", "template.name"),
    ("engine", "rollout.engine"),
    ("learner", "learner.backend"),
    ("prompts per step", "train.num_prompts_per_step"),
    ("group size", "rollout.group_size"),
    ("max completion tokens", "rollout.max_completion_tokens"),
    ("learning rate", "learner.lr"),
    ("KL coefficient", "algorithm.kl_coef"),
    ("clip", "algorithm.clip_high"),
    ("advantage", "algorithm.advantage"),
    ("policy loss", "algorithm.policy_loss"),
    ("loss aggregation", "algorithm.loss_aggregation"),
    ("max staleness", "train.max_staleness_steps"),
    ("dtype", "model.dtype"),
    ("seed", "run.seed"),
)


def write_report(run_dir: RunDirectory) -> str:
    """Write report.html from what the run has stored so far.

    Returns:
        Its path or URL.
    """
    config_text = run_dir.read_text(CONFIG_FILE) if run_dir.has(CONFIG_FILE) else ""
    config = yaml.safe_load(config_text) or {}
    lines = MetricsLog(run_dir).read()
    events = EventLog(run_dir)
    panels = [*PANELS, phase_panel(lines)]
    content = {
        "name": _lookup(config, "run.name") or run_dir.name,
        "summary": asdict(build_summary(lines, event_counts=events.counts, report=None)),
        "config_head": [
            [label, str(value)] for label, key in _CONFIG_HEAD if (value := _lookup(config, key)) is not None
        ],
        "config": config_text,
        "panels": [asdict(panel) for panel in [*panels, *other_panels(lines, panels)]],
        "curves": downsample(lines),
        "steps": collect_samples(RolloutLog(run_dir)),
        "events": _event_table(events.read()),
    }
    template = files("r1ray.tracking").joinpath("report_template.html").read_text(encoding="utf-8")
    run_dir.write_text(REPORT_FILE, build_page(template, title=str(content["name"]), content=content))
    return run_dir.path(REPORT_FILE)


def downsample(lines: Sequence[MetricLine]) -> dict[str, Any]:
    """Return `{"step": [..], metric: [..]}` with at most `MAX_POINTS` places, null where nothing was measured.

    Neighbouring steps share a place: training metrics are averaged, of evaluations the last counts. The
    first line keeps its own place, since it holds the evaluation before training.
    """
    buckets = [[line] for line in lines[:1]]
    rest, places = lines[1:], min(len(lines) - 1, MAX_POINTS - 1)
    buckets += [list(rest[i * len(rest) // places : (i + 1) * len(rest) // places]) for i in range(places)]
    curves: dict[str, Any] = {"step": [_place(bucket) for bucket in buckets]}
    for name in metric_names(lines):
        curves[name] = [
            _merge(name, [value for line in bucket if (value := line.get(name)) is not None]) for bucket in buckets
        ]
    return curves


def phase_panel(lines: Sequence[MetricLine]) -> Panel:
    """Return the panel of the seconds that each phase of a step took."""
    phases = [
        name for name in metric_names(lines) if name.startswith("time/") and name not in ("time/step_s", "time/eval_s")
    ]
    labelled = tuple((name, name.removeprefix("time/").removesuffix("_s")) for name in phases)
    return Panel(
        _SPEED, "Seconds per step, by phase", (*labelled, ("time/step_s", "step")), "seconds", stacked=True, zero=True
    )


def other_panels(lines: Sequence[MetricLine], panels: Sequence[Panel]) -> list[Panel]:
    """Return a panel for each metric that `panels` leave out, rewards first."""
    shown = {name for panel in panels for name, _ in panel.metrics}
    shown |= {"policy_version", "eval/pass_at_1_stderr"}
    names = [name for name in metric_names(lines) if name not in shown]
    names.sort(key=lambda name: not name.startswith(_REWARD_PREFIXES))
    titled = [
        ("Rewards and verdicts" if name.startswith(_REWARD_PREFIXES) else "Other metrics", name) for name in names
    ]
    return [Panel(section, name, ((name, ""),)) for section, name in titled[:MAX_OTHER_METRICS]]


def _place(bucket: Sequence[MetricLine]) -> int:
    """Return the step that stands for a bucket: that of its last evaluation, else its last."""
    evaluated = [line for line in bucket if line.get("eval/pass_at_1") is not None]
    return step_of((evaluated or bucket)[-1])


def _merge(name: str, values: Sequence[float | int]) -> float | None:
    if not values:
        return None
    value = values[-1] if name.startswith("eval/") else sum(values) / len(values)
    return float(f"{value:.6g}")


def _event_table(events: Sequence[Record]) -> list[dict[str, Any]]:
    """Return the newest events, newest first, with what is not time, step or kind as one text."""
    fixed = ("time", "step", "kind")
    return [
        {name: event.get(name) for name in fixed}
        | {"fields": [[name, shorten(str(value))[:400]] for name, value in event.items() if name not in fixed]}
        for event in reversed(events[-MAX_EVENTS:])
    ]


def _lookup(config: Any, key: str) -> Any:
    for part in key.split("."):
        if not isinstance(config, dict):
            return None
        config = config.get(part)
    return config
