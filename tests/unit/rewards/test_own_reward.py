"""The README's way to a reward of one's own, as it stands there."""

import re
from pathlib import Path

from r1ray.config.schema import RewardsConfig, RewardTerm
from r1ray.rewards.grader import Grader
from r1ray.types import Completion, Prompt

README = Path(__file__).parents[3] / "README.md"


def test_the_function_in_the_readme_is_a_reward(tmp_path, monkeypatch):
    block = re.search(r"```python\n(# my_rewards\.py.*?)```", README.read_text(), re.DOTALL)
    assert block is not None
    # Five lines with its comment and an empty one at most.
    assert len(block[1].strip().splitlines()) <= 5
    (tmp_path / "readme_rewards.py").write_text(block[1])
    monkeypatch.syspath_prepend(tmp_path)
    term = RewardTerm("readme_rewards:brevity", weight=0.5, options={"limit": 8})
    grader = Grader(RewardsConfig(terms=[term], max_completion_tokens=64))
    prompt = Prompt("p", "q", "q", (), "1")
    grade = grader.grade(prompt, Completion("0/p", "p", 0, "it is one", (), (), (), "stop"))
    # 1 - 3 / 8, halved.
    assert grade.breakdown == {"readme_rewards:brevity": 0.625}
    assert grade.reward == 0.3125
