import socket

import pytest

from r1ray.config.schema import Config, RewardTerm
from r1ray.driver import placement
from r1ray.driver.placement import (
    _reserve,
    _reward_model_gpus,
    _share_cores,
    attach_ray,
    running_ray,
    start_local_ray,
)
from r1ray.errors import ClusterError, ConfigError


def config(**changes: int | bool) -> Config:
    made = Config()
    made.cluster.separate_cores = bool(changes.get("separate", False))
    made.rollout.num_workers = int(changes.get("workers", 1))
    made.learner.num_processes = int(changes.get("processes", 1))
    return made


def test_cores_are_shared_unless_asked_otherwise() -> None:
    assert _share_cores(config(), [0, 1]) == ([(0, 1)], [(0, 1)])


def test_separate_cores_never_overlap() -> None:
    rollout, learner = _share_cores(config(separate=True, workers=2, processes=1), [0, 1, 2, 3])
    assert (rollout, learner) == ([(0,), (1,)], [(2, 3)])


def test_one_core_cannot_be_separated() -> None:
    with pytest.raises(ConfigError, match="at least 2 cores"):
        _share_cores(config(separate=True), [0])


def test_only_a_ray_that_is_ours_and_answers_is_attached_to(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    monkeypatch.setattr(placement, "read_ray_address", lambda: None)
    assert running_ray() is None
    with socket.create_server(("127.0.0.1", 0)) as server:
        address = f"127.0.0.1:{server.getsockname()[1]}"
        monkeypatch.setattr(placement, "read_ray_address", lambda: address)
        assert running_ray() == address
    # The server is gone, its address is not.
    assert running_ray() is None
    monkeypatch.setenv("RAY_ADDRESS", "10.0.0.2:6379")
    assert running_ray() == "10.0.0.2:6379"


@pytest.mark.parametrize(("wanted", "told"), [("auto", "auto"), ("10.0.0.3:6379", "10.0.0.3:6379")])
def test_a_ray_that_was_found_is_left_to_ray_to_find_as_only_then_it_brings_a_token(
    monkeypatch: pytest.MonkeyPatch, wanted: str, told: str
) -> None:
    addresses: list[object] = []
    monkeypatch.setattr(placement, "running_ray", lambda: "10.0.0.2:6379")
    monkeypatch.setattr(placement.ray, "is_initialized", lambda: False)
    monkeypatch.setattr(placement.ray, "init", lambda address, **_options: addresses.append(address))
    made = config()
    made.cluster.address = wanted
    assert attach_ray(made) is False
    assert addresses == [told]


def test_a_ray_that_comes_up_late_is_started_again(monkeypatch: pytest.MonkeyPatch) -> None:
    outcomes = [Exception("The current node timed out during startup."), None]
    stopped = []

    def init(**_options: object) -> None:
        outcome = outcomes.pop(0)
        if outcome:
            raise outcome

    monkeypatch.setattr(placement.ray, "init", init)
    monkeypatch.setattr(placement.ray, "shutdown", lambda: stopped.append(True))
    start_local_ray()
    assert outcomes == []
    assert stopped == [True]


def test_a_ray_that_never_comes_up_is_an_error_with_a_remedy(monkeypatch: pytest.MonkeyPatch) -> None:
    def init(**_options: object) -> None:
        raise Exception("The current node timed out during startup.")

    monkeypatch.setattr(placement.ray, "init", init)
    monkeypatch.setattr(placement.ray, "shutdown", lambda: None)
    with pytest.raises(ClusterError, match=r"3 attempts.*timed out.*cluster.address"):
        start_local_ray()


def test_gpus_of_reward_models_are_counted_before_anything_starts(monkeypatch: pytest.MonkeyPatch) -> None:
    made = config()
    made.rewards.num_inference_workers, made.rewards.gpus_per_inference_worker = 2, 0.5
    assert _reward_model_gpus(made) == 0.0
    made.rewards.terms = [RewardTerm("reward_model", options={"model": "judge"})]
    assert _reward_model_gpus(made) == 0.5
    monkeypatch.setattr(placement.ray, "cluster_resources", lambda: {"GPU": 8.0})
    with pytest.raises(ClusterError, match="take 8 of the cluster's 8 GPUs"):
        _reserve([{"GPU": 1.0}] * 8, made, beside=0.5)
