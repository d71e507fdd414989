"""Tables on the console: evaluations, supervised runs, selections."""

from rich.console import Console

from r1ray.tracking.evaluation_table import evaluation_table
from r1ray.tracking.selection_summary import SelectionCounts, selection_table
from r1ray.tracking.supervised_summary import supervised_summary, supervised_table
from r1ray.types import Completion, Grade, GradedCompletion, Prompt, Verdict


def text_of(table) -> str:
    console = Console(width=160, record=True, file=open("/dev/null", "w"))  # noqa: SIM115
    console.print(table)
    console.file.close()
    return console.export_text()


def test_an_evaluation_has_a_column_for_each_domain() -> None:
    metrics = {
        "eval/pass_at_1": 0.5,
        "eval/pass_at_1_stderr": 0.05,
        "eval/math/pass_at_1": 0.75,
        "eval/helpful/reward_model_mean": 1.25,
        "eval/reward_model_mean": 1.25,
    }
    lines = text_of(evaluation_table(metrics)).splitlines()
    heading, passed, reward = (line for line in lines if "math" in line or "pass@1" in line or "reward" in line)
    assert heading.split() == ["all", "math", "helpful"]
    assert passed.split() == ["pass@1", "50.0%", "±", "5.0", "75.0%"]
    assert reward.split() == ["reward", "model", "mean", "1.250", "1.250"]


def test_a_supervised_run_shows_what_was_measured_before_and_after() -> None:
    lines = [
        {"step": 0, "eval/loss": 0.7, "eval/accuracy": 0.5},
        {"step": 1, "time/step_s": 2.0, "learner/computed_tokens": 10.0, "learner/model_flops": 1e9},
        {"step": 2, "eval/loss": 0.4, "eval/accuracy": 0.8, "time/step_s": 3.0, "learner/computed_tokens": 12.0},
    ]
    summary = supervised_summary(lines, stage="reward_model", examples=9, event_counts={}, report=None)
    assert (summary["loss_before"], summary["loss_after"]) == (0.7, 0.4)
    assert (summary["accuracy_before"], summary["accuracy_after"]) == (0.5, 0.8)
    assert (summary["steps"], summary["tokens"], summary["train_s"], summary["model_flops"]) == (2, 22, 5.0, 1e9)
    assert "margin_mean_before" not in summary
    shown = text_of(supervised_table(summary))
    assert "80.0%" in shown
    assert "margin" not in shown


def test_a_run_without_held_out_examples_has_no_figures_of_them() -> None:
    summary = supervised_summary([{"step": 1}], stage="sft", examples=3, event_counts={}, report=None)
    assert "loss_before" not in summary


class Decision:
    def __init__(self, reason: str | None, *, tokens: int, verdict: Verdict = Verdict.CORRECT) -> None:
        completion = Completion("g", "p", 0, "", (0,) * tokens, (), (), "stop")
        self.graded = GradedCompletion(completion, Grade(0.0, {}, verdict))
        self.reason = reason


def test_a_selection_counts_by_domain_and_language() -> None:
    counts = SelectionCounts()
    counts.add(
        Prompt("1", "q", "", (), domain="math", metadata={"target_language": "en"}),
        [Decision(None, tokens=10), Decision("not correct", tokens=20, verdict=Verdict.WRONG)],
    )
    counts.add(Prompt("2", "q", "", (), domain="stem"), [Decision("repetition", tokens=30)])
    counts.supplied = 4
    found = counts.as_json()
    assert found["total"]["dropped"] == {"not correct": 1, "repetition": 1}
    assert found["domains"]["math"] == {
        "prompts": 1,
        "prompts_kept": 1,
        "sampled": 2,
        "kept": 1,
        "keep_rate": 0.5,
        "correct_rate": 0.5,
        "completion_tokens_mean_sampled": 15.0,
        "completion_tokens_mean_kept": 10.0,
        "dropped": {"not correct": 1},
    }
    assert list(found["languages"]) == ["en"]
    assert counts.reasons_in_words() == "1 not correct, 1 repetition"
    shown = text_of(selection_table({**found, "written": 5}))
    assert "not correct 1, repetition 1; supplied: 4; written: 5" in " ".join(shown.split())
