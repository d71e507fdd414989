import os
import signal
import subprocess
import sys
from dataclasses import replace

import pytest

from r1ray.errors import ConfigError, DataError
from r1ray.rewards.accuracy import AccuracyReward
from r1ray.types import Completion, Prompt, Verdict

GIB = 1 << 30


def prompt(answer: str | None, task: str = "math") -> Prompt:
    return Prompt("p", "q", "q", (), answer, task)


def completion(answer: str) -> Completion:
    text = f"<think>..</think> <answer>{answer}</answer>"
    return Completion("0/p", "p", 0, text, (), (), (), "stop")


@pytest.fixture(scope="module")
def accuracy():
    reward = AccuracyReward(time_limit_s=10.0, memory_limit_bytes=GIB)
    yield reward
    reward.close()


@pytest.fixture(scope="module")
def hasty():
    reward = AccuracyReward(time_limit_s=1.0, memory_limit_bytes=GIB)
    yield reward
    reward.close()


RIGHT = [
    ("42", "42"),
    ("1/2", "0.5"),
    (r"\frac{1}{2}", "1/2"),
    (r"\dfrac12", "1/2"),
    (r"$\frac{3}{4}$", "0.75"),
    (r"2\sqrt{3}", r"\sqrt{12}"),
    ("2^{10}", "1024"),
    ("x = 5", "5"),
    ("5", "x=5"),
    (r"x^2+2x+1", "(x+1)^2"),
    ("(1,2)", "(1, 2)"),
    (r"[0,1) \cup (1,2]", r"[0,1)\cup(1,2]"),
    (r"\{1,2,3\}", r"\{3,2,1\}"),
    ("2, 1", "1, 2"),
    (r"90^\circ", "90"),
    (r"\frac{\pi}{2}", r"\pi/2"),
    (r"\begin{pmatrix}1&2\\3&4\end{pmatrix}", r"\begin{pmatrix} 1 & 2 \\ 3 & 4 \end{pmatrix}"),
    (r"\text{east}", r"\text{east}"),
    (r"The value is $5$ now", "5"),
    (r"\infty", r"\infty"),
    ("3+4i", "4i+3"),
    (r"y \ge 3", r"3 \le y"),
]
WRONG = [
    ("43", "42"),
    ("1/2", "1/3"),
    ("2^{10}", "2"),
    (r"\frac{1}{2}", "2"),
    (r"\sqrt{2}", "1.5"),
    ("(1,2)", "(2,1)"),
    ("(1,2)", "[1,2]"),
    (r"\{1,2\}", r"\{1,2,3\}"),
    (r"\text{east}", r"\text{west}"),
    ("x+1", "x-1"),
    ("x=5", "y=5"),
]


@pytest.mark.parametrize(("answer", "gold"), RIGHT)
def test_right_answers_are_correct(accuracy, answer, gold):
    result = accuracy(prompt(gold), completion(answer))
    assert (result.value, result.verdict) == (1.0, Verdict.CORRECT), result.detail


@pytest.mark.parametrize(("answer", "gold"), WRONG)
def test_wrong_answers_are_wrong(accuracy, answer, gold):
    result = accuracy(prompt(gold), completion(answer))
    assert (result.value, result.verdict) == (0.0, Verdict.WRONG), result.detail


@pytest.mark.parametrize("answer", ["", "???", r"\frac{", "9" * 5000])
def test_answers_that_say_nothing_are_unparseable(accuracy, answer):
    assert accuracy(prompt("x"), completion(answer)).verdict is Verdict.UNPARSEABLE


@pytest.mark.parametrize("gold", [None, "", "???", r"\frac{1", "1" * 5000])
@pytest.mark.parametrize("answer", ["x", "???"])
def test_a_gold_answer_that_cannot_be_read_is_an_error_and_no_free_reward(accuracy, gold, answer):
    if answer == "???" and gold in (None, "1" * 5000):
        answer = "x"
    result = accuracy(prompt(gold), completion(answer))
    assert (result.value, result.verdict) == (0.0, Verdict.ERROR)


@pytest.mark.parametrize(
    "answer",
    ["9^{9^{9^9}}", "10000000000!", "(" * 1900 + "1" + ")" * 1900],
    ids=["tower", "factorial", "nesting"],
)
def test_an_answer_that_explodes_ends_in_a_timeout(hasty, answer):
    result = hasty(prompt("5"), completion(answer))
    assert (result.value, result.verdict) == (0.0, Verdict.TIMEOUT)
    assert "not done within" in result.detail


def test_after_a_timeout_grading_goes_on(hasty):
    assert hasty(prompt("5"), completion("9^{9^{9^9}}")).verdict is Verdict.TIMEOUT
    assert hasty(prompt("1/2"), completion("2/4")).verdict is Verdict.CORRECT


def test_the_unbraced_tower_is_no_reward(accuracy):
    assert accuracy(prompt("5"), completion("9^9^9^9")).value == 0.0


def test_a_megabyte_answer_is_unparseable_at_once(accuracy):
    result = accuracy(prompt("5"), completion("1+" * 500_000 + "1"))
    assert result.verdict is Verdict.UNPARSEABLE


def test_a_child_killed_from_outside_is_replaced(accuracy):
    assert accuracy(prompt("1/2"), completion("0.5")).verdict is Verdict.CORRECT
    os.kill(accuracy._child.pid, signal.SIGKILL)
    assert accuracy(prompt("1/3"), completion("2/6")).verdict is Verdict.CORRECT


def test_plain_numbers_need_no_child():
    reward = AccuracyReward(time_limit_s=1.0, memory_limit_bytes=GIB)
    assert reward(prompt("1,000"), completion("1000")).value == 1.0
    assert reward._child.pid is None


def test_an_unknown_task_names_those_supported(accuracy):
    with pytest.raises(DataError, match="judges tasks math, choice, code, text, got task 'poetry'"):
        accuracy(prompt("1", task="poetry"), completion("1"))


def test_the_parent_side_imports_nothing_heavy():
    program = (
        "import sys, r1ray.rewards.grader\n"
        "heavy = {'torch', 'ray', 'sympy', 'math_verify', 'transformers', 'vllm'} & set(sys.modules)\n"
        "sys.exit(', '.join(heavy) or None)"
    )
    subprocess.run([sys.executable, "-c", program], check=True, timeout=60)


@pytest.mark.parametrize(("policy", "question"), [("always", "How many?"), ("question", "What percentage?")])
def test_a_bare_gold_may_be_meant_in_percent(policy, question):
    reward = AccuracyReward(time_limit_s=10.0, memory_limit_bytes=GIB, bare_percent=policy)
    asked = replace(prompt("5"), question=question)
    assert reward(asked, completion("5%")).verdict is Verdict.CORRECT
    assert reward(replace(prompt("0.05"), question=question), completion(r"5\%")).verdict is Verdict.CORRECT
    reward.close()


@pytest.mark.parametrize(("policy", "question"), [("never", "What percentage?"), ("question", "How many?")])
def test_otherwise_five_percent_is_not_five(policy, question):
    reward = AccuracyReward(time_limit_s=10.0, memory_limit_bytes=GIB, bare_percent=policy)
    assert reward(replace(prompt("5"), question=question), completion("5%")).verdict is Verdict.WRONG
    reward.close()


def test_an_unknown_percent_policy_is_refused():
    with pytest.raises(ConfigError, match="bare_percent must be one of question, always, never, got 'sometimes'"):
        AccuracyReward(time_limit_s=1.0, memory_limit_bytes=GIB, bare_percent="sometimes")


def test_a_gold_answer_that_explodes_is_an_error_and_no_fault_of_the_completion(hasty):
    result = hasty(prompt("9^{9^{9^{9^9}}}"), completion("5y"))
    assert (result.value, result.verdict) == (0.0, Verdict.ERROR)


@pytest.mark.parametrize("answer", ["__import__('os').system('touch {}')", "exec(open('{}', 'w'))", r"\input{{{}}}"])
def test_an_answer_is_never_executed(accuracy, tmp_path, answer):
    file = tmp_path / "touched"
    accuracy(prompt("x"), completion(answer.format(file)))
    assert not file.exists()
