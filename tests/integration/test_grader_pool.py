import os
import signal
import sys
import time
from dataclasses import replace
from pathlib import Path

import pytest
import ray

from r1ray.config.schema import RewardsConfig, RewardTerm
from r1ray.errors import GraderError
from r1ray.rewards import pool as pool_module
from r1ray.rewards.pool import GraderPool
from r1ray.rewards.protocol import RewardResult
from r1ray.types import Completion, Grade, GradeRequest, Prompt, Verdict

PROMPT = Prompt("p", "q", "q", (), "2")
HERE = Path(__file__)
DEADLINE_S = 120


def completion(index: int, text: str) -> Completion:
    return Completion("0/p", "p", index, text, (), (), (), "stop")


def fragile(prompt, completion):
    """Reward of the tests, run inside the actors."""
    match completion.text:
        case "poison":
            os.kill(os.getpid(), signal.SIGKILL)
        case "hang":
            time.sleep(600)
        case "pid":
            return float(os.getpid())
        case "torch":
            return float("torch" in sys.modules)
    return 1.0


class Together:
    """A reward model of the tests: knows how many it judged at a time."""

    lane = "inference"

    def score(self, items):
        return [RewardResult(float(len(items))) for _ in items]


class Signed:
    """Depends on the verdict, and is asked in the driver."""

    def after(self, prompt, completion, verdict):
        return 1.0 if verdict is Verdict.CORRECT else -1.0


FRAGILE = RewardTerm(f"{HERE.stem}:fragile")


@pytest.fixture(scope="module", autouse=True)
def cluster(ray_address):
    # Ray warns of a coming default whenever an actor asks for no GPU.
    os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")
    paths = os.pathsep.join([str(HERE.parent), str(HERE.parents[2])])
    ray.init(address=ray_address, log_to_driver=False, runtime_env={"env_vars": {"PYTHONPATH": paths}})
    yield
    ray.shutdown()


@pytest.fixture
def make_pool(monkeypatch):
    monkeypatch.syspath_prepend(str(HERE.parent))
    pools = []
    events = []

    def make(
        terms: list[RewardTerm], *, num_workers: int = 2, max_restarts: int = 5, time_limit_s: float = 2.0
    ) -> tuple[GraderPool, list]:
        rewards = RewardsConfig(
            terms=terms, num_workers=num_workers, max_restarts=max_restarts, time_limit_s=time_limit_s
        )
        pools.append(GraderPool(rewards, on_event=lambda kind, **fields: events.append((kind, fields))))
        return pools[-1], events

    yield make
    for each in pools:
        each.shutdown()


def drain(pool: GraderPool) -> dict[int, Grade]:
    until = time.monotonic() + DEADLINE_S
    grades: dict[int, Grade] = {}
    while pool.outstanding_items:
        assert time.monotonic() < until
        for one, grade in pool.poll(5.0):
            assert one.sample_index not in grades
            grades[one.sample_index] = grade
    return grades


def test_every_item_is_graded_once_by_several_actors(make_pool):
    pool, events = make_pool([RewardTerm("accuracy"), RewardTerm("format")])
    texts = ["<think>a</think> <answer>2</answer>", "the answer is 3", r"\boxed{4/2}"]
    items = [GradeRequest(PROMPT, completion(i, texts[i % 3])) for i in range(60)]
    pool.submit(items[:40])
    pool.submit(items[40:])
    assert pool.outstanding_items == 60
    grades = drain(pool)
    assert sorted(grades) == list(range(60))
    assert {grades[i].reward for i in range(0, 60, 3)} == {2.0}
    assert {grades[i].verdict for i in range(1, 60, 3)} == {Verdict.WRONG}
    assert {grades[i].verdict for i in range(2, 60, 3)} == {Verdict.CORRECT}
    assert events == []


def test_the_work_is_spread_and_no_actor_imports_torch(make_pool):
    pool, _ = make_pool([FRAGILE])
    # Until both actors are up.
    pids: set[float] = set()
    until = time.monotonic() + DEADLINE_S
    while len(pids) < 2:
        assert time.monotonic() < until
        pool.submit([GradeRequest(PROMPT, completion(i, "pid")) for i in range(8)])
        pids |= {grade.reward for grade in drain(pool).values()}
    pool.submit([GradeRequest(PROMPT, completion(i, "torch")) for i in range(8)])
    assert {grade.reward for grade in drain(pool).values()} == {0.0}


def test_results_of_several_lanes_make_one_grade(make_pool):
    mine = HERE.stem
    terms = [
        RewardTerm("accuracy", domains=["math"]),
        RewardTerm(f"{mine}:Together", 0.0, domains=["general"]),
        RewardTerm(f"{mine}:Signed", 10.0, domains=["math"]),
        RewardTerm(f"{mine}:Together", 0.5, domains=["math"], from_step=3),
    ]
    pool, events = make_pool(terms)
    general = replace(PROMPT, domain="general")
    pool.submit([GradeRequest(PROMPT, completion(0, r"\boxed{2}")), GradeRequest(general, completion(1, "hello"))])
    pool.submit([GradeRequest(PROMPT, completion(2, r"\boxed{3}"), step=3)])
    pool.submit([GradeRequest(replace(PROMPT, domain="poetry"), completion(3, "hello"))])
    grades = drain(pool)
    assert grades[0].breakdown == {"accuracy": 1.0, f"{mine}:Signed": 1.0}
    assert (grades[0].reward, grades[0].verdict) == (11.0, Verdict.CORRECT)
    assert set(grades[1].breakdown) == {f"{mine}:Together"}
    batch = grades[2].breakdown[f"{mine}:Together"]
    assert grades[2].reward == -10.0 + 0.5 * batch
    assert grades[3].verdict is Verdict.ERROR
    assert events == []


def test_polling_an_idle_pool_returns_at_once(make_pool):
    pool, _ = make_pool([FRAGILE], num_workers=1)
    started = time.monotonic()
    assert pool.poll(30.0) == []
    assert time.monotonic() - started < 5


def test_a_killed_actor_is_replaced_and_nothing_is_lost(make_pool):
    pool, events = make_pool([FRAGILE])
    pool.submit([GradeRequest(PROMPT, completion(0, "pid"))])
    pid = int(drain(pool)[0].reward)
    os.kill(pid, signal.SIGKILL)
    pool.submit([GradeRequest(PROMPT, completion(i, "fine")) for i in range(40)])
    grades = drain(pool)
    assert sorted(grades) == list(range(40))
    assert {grade.reward for grade in grades.values()} == {1.0}
    assert pool.restarts == 1
    assert [kind for kind, _ in events] == ["grader_restart"]
    assert "Died" in events[0][1]["reason"]


def test_only_the_poisonous_completion_is_given_up(make_pool):
    pool, events = make_pool([FRAGILE])
    pool.submit([GradeRequest(PROMPT, completion(i, "poison" if i == 7 else "fine")) for i in range(24)])
    grades = drain(pool)
    assert sorted(grades) == list(range(24))
    assert [i for i, grade in grades.items() if grade.verdict is Verdict.ERROR] == [7]
    assert "ended two graders" in grades[7].detail
    assert [kind for kind, _ in events] == ["grader_restart", "grader_restart", "grader_gave_up"]
    assert events[-1][1]["sample_index"] == 7


def test_a_reward_that_hangs_is_cut_off_at_its_deadline(make_pool, monkeypatch):
    monkeypatch.setattr(pool_module, "_CHUNK_SLACK_S", 0.0)
    monkeypatch.setattr(pool_module, "_ITEM_SLACK_S", 0.0)
    pool, events = make_pool([FRAGILE], time_limit_s=0.4)
    pool.submit([GradeRequest(PROMPT, completion(i, "hang" if i == 1 else "fine")) for i in range(4)])
    grades = drain(pool)
    assert {i: grade.verdict is Verdict.ERROR for i, grade in grades.items()} == {0: False, 1: True, 2: False, 3: False}
    assert "deadline" in events[0][1]["reason"]


def test_too_many_restarts_stop_the_run(make_pool):
    pool, _ = make_pool([FRAGILE], num_workers=1, max_restarts=1)
    pool.submit([GradeRequest(PROMPT, completion(0, "poison"))])
    with pytest.raises(GraderError, match=r"rewards.max_restarts allows 1 restarts"):
        drain(pool)
