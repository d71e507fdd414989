import subprocess
import sys

import pytest

from r1ray.config.schema import RewardsConfig, RewardTerm
from r1ray.errors import ConfigError, DataError
from r1ray.rewards.accuracy import AccuracyReward
from r1ray.rewards.registry import check_names, check_tasks, resolve
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
    assert isinstance(resolve(RewardTerm("accuracy"), RewardsConfig()), AccuracyReward)
    assert resolve(RewardTerm("random", options={"p": 1.0}), RewardsConfig())(PROMPT, COMPLETION).value == 1.0


def test_functions_of_the_user_take_options(mine):
    assert resolve(RewardTerm("my_rewards:brevity"), RewardsConfig())(PROMPT, COMPLETION) == 0.2
    term = RewardTerm("my_rewards:brevity", options={"scale": 10.0})
    assert resolve(term, RewardsConfig())(PROMPT, COMPLETION) == 2.0


@pytest.mark.parametrize(
    ("term", "message"),
    [
        (RewardTerm("acuracy"), "must be one of accuracy, format, random, got 'acuracy': did you mean 'accuracy'"),
        (RewardTerm("zzz"), "module:function"),
        (RewardTerm("format", options={"stile": "r1"}), "options of 'format' must be among style: got 'stile'"),
        (
            RewardTerm("accuracy", options={"time_limit_s": 1}),
            "options of 'accuracy' must be among partial_credit: got 'time_limit_s'",
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
        check_names([term])


def test_tasks_are_checked_against_the_accuracy_reward():
    check_tasks([RewardTerm("accuracy")], ["math", "math"])
    check_tasks([RewardTerm("format")], ["poetry"])
    with pytest.raises(DataError, match="got task 'poetry'"):
        check_tasks([RewardTerm("accuracy")], ["math", "poetry"])


def test_checking_names_imports_nothing_heavy():
    program = (
        "import sys\nfrom r1ray.config.schema import RewardsConfig\nfrom r1ray.rewards.registry import check_names\n"
        "check_names(RewardsConfig().terms)\n"
        "sys.exit(', '.join({'torch', 'ray', 'sympy', 'math_verify'} & set(sys.modules)) or None)"
    )
    subprocess.run([sys.executable, "-c", program], check=True, timeout=60)
