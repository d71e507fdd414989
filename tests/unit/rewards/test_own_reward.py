"""The README's way to a reward of one's own, in a file beside the run."""

import textwrap

from r1ray.config.schema import RewardsConfig, RewardTerm
from r1ray.rewards.grader import Grader
from r1ray.types import Completion, Prompt

SOURCE = """
    def brevity(prompt, completion, *, limit=100):
        words = len(completion.text.split())
        return max(0.0, 1 - words / limit)
"""


def test_a_function_in_a_file_is_a_reward(tmp_path, monkeypatch):
    (tmp_path / "my_brief_rewards.py").write_text(textwrap.dedent(SOURCE))
    monkeypatch.syspath_prepend(tmp_path)
    term = RewardTerm("my_brief_rewards:brevity", weight=0.5, options={"limit": 8})
    grader = Grader(RewardsConfig(terms=[term], max_completion_tokens=64))
    prompt = Prompt("p", "q", "q", (), "1")
    grade = grader.grade(prompt, Completion("0/p", "p", 0, "it is one", (), (), (), "stop"))
    # 1 - 3 / 8, halved.
    assert grade.breakdown == {"my_brief_rewards:brevity": 0.625}
    assert grade.reward == 0.3125
