from dataclasses import replace

import pytest

from r1ray.config.schema import AlgorithmConfig
from r1ray.driver.batch import EQUAL_REWARDS, TOO_SMALL, PreparedGroup, prepare_groups, split_at_random, training_batch
from r1ray.types import Completion, FinishReason, Grade, GradedCompletion, Group, Prompt, TrainingSample, Verdict

PROMPT = Prompt("p", "q", "q", (1, 2), answer="1")


def group(*rewards: float, finish: FinishReason = "stop") -> Group:
    graded = []
    for i, reward in enumerate(rewards):
        completion = Completion("g", "p", i, "text", (5, 6), (-0.1, -0.2), (3, 3), finish if i == 0 else "stop")
        graded.append(GradedCompletion(completion, Grade(reward, {"accuracy": reward}, Verdict.CORRECT)))
    return Group("g", PROMPT, tuple(graded))


def prepare_group(group: Group, algorithm: AlgorithmConfig) -> PreparedGroup:
    (prepared,) = prepare_groups([group], algorithm, reward_weights={"accuracy": 1.0})
    return prepared


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


def test_each_sample_knows_the_trained_tokens_of_its_prompt_in_the_step() -> None:
    samples = [
        TrainingSample((1,), (1,) * n, (0.0,) * n, (0,) * n, 0.0, prompt_key=key, trained=trained)
        for n, key, trained in ((3, "a", True), (2, "a", True), (7, "b", False), (4, "b", True))
    ]
    assert [s.group_tokens for s in training_batch(samples).samples] == [5, 5, 4, 4]
    (part, other) = split_at_random(samples, parts=2, seed="")
    assert all(s.group_tokens > 0 for s in (*part.samples, *other.samples) if s.trained)


def with_ids(name: str, *rewards: float) -> Group:
    made = group(*rewards)
    return replace(made, group_id=name)


def test_rewards_give_way_to_the_kl_where_it_is_taken_from_them() -> None:
    algorithm = AlgorithmConfig(advantage="group_mean", kl_in="reward", kl_coef=0.5, kl_estimator="k1")
    # KL of the first completion: (-0.1 + 0.3) + (-0.2 + 0.2) = 0.2; of the second, none.
    logprobs = {("g", 0): ((-0.1, -0.2), (-0.3, -0.2)), ("g", 1): ((-0.5, -0.5), (-0.5, -0.5))}
    (prepared,) = prepare_groups([group(1.0, 0.0)], algorithm, reward_weights={}, logprobs=logprobs)
    assert [s.advantage for s in prepared.samples] == pytest.approx([0.45, -0.45], abs=1e-12)
    assert prepared.samples[0].old_logprobs == (-0.1, -0.2)
    assert prepared.samples[0].ref_logprobs == (-0.3, -0.2)


def test_batch_std_divides_by_the_spread_of_the_whole_step() -> None:
    algorithm = AlgorithmConfig(advantage="group_mean_batch_std")
    one, other = prepare_groups([with_ids("a", 1.0, 0.0), with_ids("b", 1.0, 1.0)], algorithm, reward_weights={})
    assert other.drop_reason == EQUAL_REWARDS
    assert one.advantages[0] == -one.advantages[1] > 0


def test_a_reward_that_does_not_apply_to_a_group_does_not_count_there() -> None:
    algorithm = AlgorithmConfig(advantage="per_reward_zscore", equal_reward_groups="keep")
    plain = with_ids("a", 1.0, 0.0)
    graded = tuple(
        replace(g, grade=replace(g.grade, breakdown={"accuracy": 1.0, "helpful": float(i)}))
        for i, g in enumerate(with_ids("b", 1.0, 1.0).graded)
    )
    weights = {"accuracy": 1.0, "helpful": 0.5}
    one, other = prepare_groups([plain, replace(plain, group_id="b", graded=graded)], algorithm, reward_weights=weights)
    assert one.advantages[0] == -one.advantages[1] > 0
    assert other.advantages[1] == -other.advantages[0] > 0


def test_a_group_that_no_reward_applies_to_is_worth_nothing_beside_others() -> None:
    algorithm = AlgorithmConfig(advantage="per_reward_zscore")
    bare = with_ids("b", 0.0, 0.0)
    graded = tuple(replace(g, grade=replace(g.grade, breakdown={})) for g in bare.graded)
    groups = [with_ids("a", 1.0, 0.0), replace(bare, graded=graded)]
    one, other = prepare_groups(groups, algorithm, reward_weights={"accuracy": 1.0})
    assert one.advantages[0] == -one.advantages[1] > 0
    assert (other.advantages, other.drop_reason) == ((0.0, 0.0), EQUAL_REWARDS)
