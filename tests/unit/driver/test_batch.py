import pytest

from r1ray.config.schema import AlgorithmConfig
from r1ray.driver.batch import EQUAL_REWARDS, TOO_SMALL, prepare_group, split_at_random
from r1ray.types import Completion, FinishReason, Grade, GradedCompletion, Group, Prompt, TrainingSample, Verdict

PROMPT = Prompt("p", "q", "q", (1, 2), answer="1")


def group(*rewards: float, finish: FinishReason = "stop") -> Group:
    graded = []
    for i, reward in enumerate(rewards):
        completion = Completion("g", "p", i, "text", (5, 6), (-0.1, -0.2), (3, 3), finish if i == 0 else "stop")
        graded.append(GradedCompletion(completion, Grade(reward, {"accuracy": reward}, Verdict.CORRECT)))
    return Group("g", PROMPT, tuple(graded))


def test_samples_carry_group_relative_advantages() -> None:
    prepared = prepare_group(group(1.0, 0.0), AlgorithmConfig(advantage="group_mean"))
    assert [s.advantage for s in prepared.samples] == [0.5, -0.5]
    assert prepared.samples[0].rollout_logprobs == (-0.1, -0.2)
    assert prepared.samples[0].policy_versions == (3, 3)


def test_equal_rewards_are_dropped_or_kept_by_config() -> None:
    dropped = prepare_group(group(1.0, 1.0), AlgorithmConfig())
    kept = prepare_group(group(1.0, 1.0), AlgorithmConfig(equal_reward_groups="keep"))
    assert (dropped.samples, dropped.drop_reason) == ((), EQUAL_REWARDS)
    assert ([s.advantage for s in kept.samples], kept.drop_reason) == ([0.0, 0.0], None)


@pytest.mark.parametrize("rewards", [(), (1.0,)])
def test_a_group_that_lost_its_siblings_is_dropped(rewards: tuple[float, ...]) -> None:
    prepared = prepare_group(group(*rewards), AlgorithmConfig(equal_reward_groups="keep"))
    assert (prepared.samples, prepared.drop_reason) == ((), TOO_SMALL)


def test_overlong_counts_as_wrong_by_default() -> None:
    prepared = prepare_group(group(1.0, 0.0, 1.0, finish="length"), AlgorithmConfig())
    first = prepared.group.graded[0].grade
    assert (first.reward, first.verdict) == (0.0, Verdict.WRONG)
    assert first.breakdown == {"accuracy": 1.0}
    assert prepared.samples[0].advantage == prepared.samples[1].advantage < 0


def test_overlong_can_be_masked_instead() -> None:
    prepared = prepare_group(group(1.0, 0.0, finish="length"), AlgorithmConfig(overlong="mask"))
    assert [s.trained for s in prepared.samples] == [False, True]
    assert prepared.group.graded[0].grade.reward == 1.0


def test_random_split_uses_every_sample_once_and_is_repeatable() -> None:
    samples = [TrainingSample((1,), (i,), (0.0,), (0,), 0.0, prompt_key=str(i // 4)) for i in range(20)]
    parts = split_at_random(samples, parts=3, seed="0/1")
    assert sorted(s.completion_ids for part in parts for s in part.samples) == [(i,) for i in range(20)]
    assert [len(part.samples) for part in parts] == [7, 6, 7]
    assert parts == split_at_random(samples, parts=3, seed="0/1")
    assert parts != split_at_random(samples, parts=3, seed="0/2")
    # Groups are scattered: no minibatch holds whole groups only.
    assert any(len({s.prompt_key for s in part.samples}) * 4 != len(part.samples) for part in parts)
