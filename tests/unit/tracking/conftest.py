from collections.abc import Callable

import pytest

from r1ray.types import Completion, Grade, GradedCompletion, Group, Prompt, Verdict

GroupMaker = Callable[..., Group]


def _graded(index: int, text: str, reward: float, group_id: str) -> GradedCompletion:
    completion = Completion(
        group_id=group_id,
        prompt_id="p",
        sample_index=index,
        text=text,
        completion_ids=(5, 6, 7),
        rollout_logprobs=(-0.5, -0.25, -1.0),
        policy_versions=(3, 3, 4),
        finish_reason="stop",
        worker="rollout-0",
    )
    verdict = Verdict.CORRECT if reward > 0 else Verdict.WRONG
    return GradedCompletion(completion, Grade(reward, {"accuracy": reward, "format": 0.5}, verdict, "extracted 4"))


def _group(samples: dict[int, tuple[str, float]], *, question: str = "2+2?", group_id: str = "1/p") -> Group:
    prompt = Prompt("p", question, f"User: {question}", (1, 2), answer="4")
    return Group(group_id, prompt, tuple(_graded(i, text, reward, group_id) for i, (text, reward) in samples.items()))


@pytest.fixture
def make_group() -> GroupMaker:
    """Make a group from `{sample index: (completion, reward)}`; a reward above 0 is a correct answer."""
    return _group
