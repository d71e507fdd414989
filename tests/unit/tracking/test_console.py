import io
from dataclasses import replace

from rich.console import Console

from r1ray.tracking.console import RunConsole, step_line
from r1ray.tracking.summary import build_summary

SUMMARY = replace(
    build_summary([], event_counts={"timeout": 2}, report="runs/[bold]x/report.html"),
    pass_at_1_before=0.105,
    pass_at_1_after=0.692,
    pass_at_1_stderr_after=0.029,
    format_rate_before=1.0,
    format_rate_after=0.9,
    completion_tokens_mean_before=50.0,
    completion_tokens_mean_after=238.4,
    steps=200,
    samples=102400,
    completion_tokens=17_000_000,
    train_s=4367.0,
    eval_s=31.04,
    samples_per_s=23.4,
    completion_tokens_per_s=3984.0,
)
STEP = {"train/reward_mean": 1.5, "train/accuracy_mean": 0.5, "rollout/tokens_per_s": 3200.4, "time/step_s": 20.0}


def _run(*, terminal: bool) -> str:
    file, times = io.StringIO(), iter(range(0, 10_000, 20))
    console = Console(file=file, force_terminal=terminal, width=80)
    with RunConsole(3, first_step=1, console=console, clock=lambda: float(next(times))) as shown:
        for done in range(4):
            shown.completions_done(done, 8)
        shown.step_done(2, STEP)
        shown.message("saved [checkpoint]")
        shown.summary(SUMMARY)
    return file.getvalue()


def test_without_a_terminal_there_are_only_plain_lines() -> None:
    text = _run(terminal=False)
    assert all(character.isprintable() or character == "\n" for character in text)
    lines = [line.rstrip() for line in text.splitlines()]
    assert "  completions 1/8" in lines
    assert "step 2/3  reward 1.500  acc 50.0%  tok/s 3,200  step_s 20.0  eta 20.0 s" in lines
    assert "saved [checkpoint]" in lines


def test_plain_lines_about_completions_are_rare() -> None:
    assert _run(terminal=False).count("completions ") < 4


def test_a_terminal_gets_a_bar() -> None:
    text = _run(terminal=True)
    assert "\x1b[" in text
    assert "steps" in text


def test_closing_table_shows_before_after_and_change() -> None:
    lines = [" ".join(line.split()) for line in _run(terminal=False).splitlines()]
    assert "pass@1 10.5% 69.2% ± 2.9 +58.7 points" in lines
    assert "format rate 100.0% 90.0% -10.0 points" in lines
    assert "completion tokens 50.0 238.4 +188.4" in lines
    assert (
        "200 steps, 102,400 samples, 17,000,000 completion tokens | train 1:12:47, eval 31.0 s"
        " | 23.40 samples/s, 3,984 tokens/s"
    ) in lines
    assert "events: timeout 2" in lines
    assert "report: runs/[bold]x/report.html" in lines


def test_a_step_line_leaves_out_what_was_not_measured() -> None:
    assert step_line(7, 100, {"eval/pass_at_1": 0.25}) == "step   7/100  pass@1 25.0%"
