"""Which completions are kept, and the one reason why others are not."""

import os

import pytest

from r1ray.config.stage_sections import SelectionConfig
from r1ray.data.ngrams import NgramIndex
from r1ray.stages import selection
from r1ray.stages.judging import judge_all, processes_for
from r1ray.stages.selection import Selector
from r1ray.types import Completion, Grade, GradedCompletion, Group, Prompt, Verdict

GOOD = "<think>\nTwo and two are four, as everyone knows.\n</think>\n\nThe answer is 4."


def graded(
    text: str = GOOD, *, verdict: Verdict = Verdict.CORRECT, reward: float = 1.0, reason: str = "stop", index: int = 0
) -> GradedCompletion:
    completion = Completion("g", "p", index, text, (0,) * len(text.split()), (), (), reason)
    return GradedCompletion(completion, Grade(reward, {"accuracy": reward}, verdict))


def group(*members: GradedCompletion, question: str = "What is two plus two?") -> Group:
    return Group("g", Prompt("p", question, "", (), "4", metadata={"target_language": "en"}), members)


def selector(template: str = "r1", evaluation: tuple[str, ...] = (), **options: object) -> Selector:
    config = SelectionConfig(**options)
    return Selector(config, template=template, seed=0, contamination=NgramIndex(evaluation, n=10))


def reasons(found: Selector, *members: GradedCompletion, **prompt: str) -> list[str | None]:
    return [one.reason for one in found.judge(group(*members, **prompt))]


@pytest.mark.parametrize(
    ("completion", "reason"),
    [
        (graded(), None),
        (graded(verdict=Verdict.ERROR), selection.NOT_GRADED),
        (graded(reason="length"), selection.TRUNCATED),
        (graded(verdict=Verdict.WRONG), selection.WRONG),
        (graded(verdict=Verdict.UNPARSEABLE), selection.WRONG),
        (graded("Two and two are four. The answer is 4."), selection.FORM),
        (graded(GOOD.replace("as everyone knows", "大家都知道这个道理")), selection.LANGUAGE),
        (graded(GOOD.replace("as everyone", "as\n```\nprint(4)\n```\neveryone")), selection.CODE),
        (graded(GOOD.replace("are four", "are four " + "and so on " * 500)), selection.PARAGRAPH),
        (
            graded(GOOD.replace("are four", "are four.\n\n" + "It really is as simple as that.\n\n" * 40)),
            selection.REPETITION,
        ),
    ],
)
def test_each_fault_has_its_reason(completion: GradedCompletion, reason: str | None) -> None:
    assert reasons(selector(), completion) == [reason]


def test_limits_can_be_switched_off() -> None:
    lenient = selector(
        correct_only=False,
        require_format=False,
        min_language_consistency=0.0,
        max_paragraph_chars=0,
        drop_code_blocks=False,
        max_repetition=1.0,
    )
    worst = "```\n" + "同样的话 the same " * 400
    assert reasons(lenient, graded(worst, verdict=Verdict.WRONG)) == [None]


def test_a_reward_can_be_asked_for() -> None:
    assert reasons(selector(min_reward=1.5), graded(reward=1.0)) == [selection.LOW_REWARD]


def test_lucky_guesses_can_be_left_out() -> None:
    guess = "<think>\nA guess.\n</think>\n\n4"
    assert reasons(selector(), graded(guess)) == [None]
    assert reasons(selector(min_chain_chars=20), graded(guess), graded(GOOD)) == [selection.SHORT, None]


def test_code_in_the_summary_is_no_fault() -> None:
    assert reasons(selector(), graded(GOOD + "\n```\nprint(4)\n```")) == [None]


def test_equal_texts_are_kept_once_and_at_most_so_many_of_a_prompt() -> None:
    other = GOOD.replace("everyone", "anyone")
    third = GOOD.replace("everyone", "nobody")
    members = [graded(text, index=i) for i, text in enumerate([GOOD, GOOD, other, third])]
    found = reasons(selector(max_kept_per_prompt=2), *members)
    assert found[1] == selection.DUPLICATE
    assert sorted(map(str, [found[0], found[2], found[3]])) == ["None", "None", selection.NOT_CHOSEN]


def test_the_shortest_or_the_best_can_be_chosen() -> None:
    longer = GOOD.replace("four,", "four, which is twice two,")
    members = [graded(longer, reward=1.5, index=0), graded(GOOD, reward=1.0, index=1)]
    assert reasons(selector(choose="shortest"), *members) == [selection.NOT_CHOSEN, None]
    assert reasons(selector(choose="best"), *members) == [None, selection.NOT_CHOSEN]


def test_r1_zeros_form_becomes_r1s() -> None:
    text = " <think> Two and two are four. </think> <answer> 4 </answer>"
    (judged,) = selector("r1_zero").judge(group(graded(text)))
    assert judged.reason is None
    assert judged.text == "<think>\nTwo and two are four.\n</think>\n\n4"


def test_what_stands_in_an_evaluation_set_is_dropped() -> None:
    question = "A train leaves at noon with forty people and stops twice before the sea. How many are left?"
    evaluation = ("A train leaves at noon with forty people and stops twice before the sea.",)
    assert reasons(selector(evaluation=evaluation), graded(), question=question) == [selection.CONTAMINATED]
    spelled = GOOD.replace("as everyone knows", evaluation[0].lower())
    assert reasons(selector(evaluation=evaluation), graded(spelled), graded(index=1)) == [selection.CONTAMINATED, None]
    assert selector(evaluation=evaluation).contaminated("harmless", question) == selection.CONTAMINATED


def test_the_choice_depends_on_the_seed_alone() -> None:
    members = [graded(GOOD.replace("everyone", f"person{i}"), index=i) for i in range(6)]
    config = SelectionConfig(max_kept_per_prompt=1)
    chosen = set()
    for seed in range(8):
        one, again = (
            Selector(config, template="r1", seed=seed, contamination=NgramIndex([], n=10)).judge(group(*members))
            for _ in range(2)
        )
        assert one == again
        chosen.add([judged.reason for judged in one].index(None))
    assert len(chosen) > 1


def test_several_processes_decide_as_one_does() -> None:
    prompts = [Prompt(f"p{i}", "What is two plus two?", "", ()) for i in range(70)]
    texts = ["<think>\ntwo and two\n</think>\n\n4", "4", "<think>\nzwei\n</think>\n\n4"]
    groups = [Group(p.prompt_id, p, tuple(graded(text) for text in texts)) for p in prompts]
    found = selector(max_kept_per_prompt=1)
    alone = list(judge_all(found, groups, processes=1))
    assert [group for group, _ in alone] == groups
    assert list(judge_all(found, groups, processes=2)) == alone


def test_a_process_is_started_for_enough_completions_only() -> None:
    cores = len(os.sched_getaffinity(0))
    assert [processes_for(n) for n in (0, 9_999, 10**9)] == [1, 1, cores]
