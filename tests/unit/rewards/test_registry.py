import subprocess
import sys

import pytest

from r1ray.config.schema import RewardsConfig, RewardTerm, SandboxConfig
from r1ray.errors import ConfigError, DataError, GraderError
from r1ray.rewards.accuracy import AccuracyReward
from r1ray.rewards.registry import check_judges, check_prompts, check_rewards, lane_of, needs_verdict, resolve
from r1ray.types import Completion, Prompt

PROMPT = Prompt("p", "q", "q", (), "1")
COMPLETION = Completion("0/p", "p", 0, "12345", (), (), (), "stop")


@pytest.fixture
def mine(tmp_path, monkeypatch):
    (tmp_path / "my_rewards.py").write_text(
        "scale = 2\n"
        "def brevity(prompt, completion, *, scale=1.0):\n    return scale / len(completion.text)\n"
        "def strict(prompt, completion, needed):\n    return 0.0\n"
    )
    (tmp_path / "broken_rewards.py").write_text("import no_such_module\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    yield
    sys.modules.pop("my_rewards", None)


def test_short_names_give_our_rewards():
    assert isinstance(resolve(RewardTerm("accuracy"), RewardsConfig(), SandboxConfig()), AccuracyReward)
    assert (
        resolve(RewardTerm("random", options={"p": 1.0}), RewardsConfig(), SandboxConfig())(PROMPT, COMPLETION).value
        == 1.0
    )


def test_functions_of_the_user_take_options(mine):
    assert resolve(RewardTerm("my_rewards:brevity"), RewardsConfig(), SandboxConfig())(PROMPT, COMPLETION) == 0.2
    term = RewardTerm("my_rewards:brevity", options={"scale": 10.0})
    assert resolve(term, RewardsConfig(), SandboxConfig())(PROMPT, COMPLETION) == 2.0


@pytest.mark.parametrize(
    ("term", "message"),
    [
        (RewardTerm("acuracy"), "must be one of accuracy, format, .*, random, got 'acuracy': did you mean 'accuracy'"),
        (RewardTerm("zzz"), "module:function"),
        (
            RewardTerm("format", options={"stile": "r1"}),
            "options of 'format' must be among style, think_opened: got 'stile'",
        ),
        (
            RewardTerm("accuracy", options={"time_limit_s": 1}),
            "options of 'accuracy' must be among partial_credit, bare_percent: got 'time_limit_s'",
        ),
        (RewardTerm("random", options={"p": "x"}), "wrong type"),
        (RewardTerm("no_such_rewards:f"), "cannot import 'no_such_rewards'.*PYTHONPATH"),
        (RewardTerm(":f"), "cannot import ''"),
        (RewardTerm("broken_rewards:f"), "cannot import 'broken_rewards'.*no_such_module"),
        (RewardTerm("my_rewards:brevty"), "got nothing: did you mean my_rewards:brevity"),
        (RewardTerm("my_rewards:scale"), "must be a function, got a int"),
        (RewardTerm("my_rewards:brevity", options={"sale": 1}), "must be among scale: got 'sale'"),
        (RewardTerm("my_rewards:strict"), "'needed' is missing"),
        (RewardTerm("accuracy", weight=float("nan")), "weight of 'accuracy' must be finite"),
    ],
)
def test_a_term_that_cannot_work_is_refused_with_a_remedy(mine, term, message):
    with pytest.raises(ConfigError, match=message):
        check_rewards(RewardsConfig(terms=[term]), SandboxConfig())


def prompts(*tasks_and_domains):
    return [Prompt("p", "q", "q", (), "1", task, domain=domain) for task, domain in tasks_and_domains]


def test_tasks_are_checked_against_the_accuracy_reward():
    accuracy = RewardsConfig(terms=[RewardTerm("accuracy")])
    check_prompts(accuracy, prompts(("math", "math"), ("math", "logic")))
    check_prompts(RewardsConfig(terms=[RewardTerm("format")]), prompts(("poetry", "general")))
    with pytest.raises(DataError, match="got task 'poetry'"):
        check_prompts(accuracy, prompts(("math", "math"), ("poetry", "general")))


def test_a_task_that_accuracy_is_not_asked_about_is_fine():
    terms = [RewardTerm("accuracy", domains=["math"]), RewardTerm("format", domains=["general"])]
    check_prompts(RewardsConfig(terms=terms), prompts(("math", "math"), ("poetry", "general")))


def test_a_domain_without_any_term_is_refused():
    terms = [RewardTerm("accuracy", domains=["math", "stem"])]
    with pytest.raises(DataError, match=r"for prompts of domain 'general', only for math, stem: add a term with"):
        check_prompts(RewardsConfig(terms=terms), prompts(("math", "math"), ("text", "general")))


class OfMine:
    """A reward class of a user, with a lane and a need of its own."""

    lane = "judge"

    def __init__(self, *, max_completion_tokens, factor=1.0):
        self.limit = max_completion_tokens * factor

    def after(self, prompt, completion, verdict):
        return self.limit


def test_classes_of_the_user_get_options_and_limits_of_the_config():
    name = f"{__name__}:OfMine"
    rewards = RewardsConfig(max_completion_tokens=10)
    assert resolve(RewardTerm(name, options={"factor": 0.5}), rewards, SandboxConfig()).limit == 5.0
    assert lane_of(name) == "judge"
    assert needs_verdict(name)
    assert not needs_verdict("accuracy")


def test_checking_names_imports_nothing_heavy():
    program = (
        "import sys\nfrom r1ray.config.schema import Config\nfrom r1ray.rewards.registry import check_rewards\n"
        "check_rewards(Config().rewards, Config().sandbox)\n"
        "sys.exit(', '.join({'torch', 'ray', 'sympy', 'math_verify'} & set(sys.modules)) or None)"
    )
    subprocess.run([sys.executable, "-c", program], check=True, timeout=60)


def test_a_judge_that_is_down_is_found_before_the_run():
    options = {"base_url": "http://127.0.0.1:9/v1", "model": "m", "max_retries": 0, "timeout_s": 2.0}
    rewards = RewardsConfig(terms=[RewardTerm("accuracy"), RewardTerm("llm_judge", options=options)])
    with pytest.raises(GraderError, match=r"127\.0\.0\.1:9"):
        check_judges(rewards, SandboxConfig())
