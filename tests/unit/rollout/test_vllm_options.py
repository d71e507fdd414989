from __future__ import annotations

import dataclasses
import os

import pytest

from r1ray.errors import RolloutError
from r1ray.rollout.protocol import EngineOptions
from r1ray.rollout.vllm_options import environment, openmp_environment, vllm_environment

OPTIONS = EngineOptions(
    model_path="org/model",
    revision=None,
    dtype="bfloat16",
    device="cpu",
    sync_backend="gloo",
    max_model_tokens=512,
    max_num_seqs=64,
    tensor_parallel=1,
    gpu_memory_fraction=0.9,
    cpu_kv_cache_bytes=2**30,
    enforce_eager=True,
    trust_remote_code=False,
    cores=(2, 3),
    worker="rollout-0",
)


def test_a_single_rank_on_cpu_runs_in_the_schedulers_process_on_its_cores() -> None:
    assert vllm_environment(OPTIONS)["VLLM_ENABLE_V1_MULTIPROCESSING"] == "0"
    openmp = openmp_environment(OPTIONS)
    assert (openmp["OMP_NUM_THREADS"], openmp["GOMP_CPU_AFFINITY"]) == ("2", "2 3")


def test_tensor_parallel_ranks_on_cpu_share_out_the_cores() -> None:
    options = dataclasses.replace(OPTIONS, tensor_parallel=2, cores=(0, 1, 2, 3))
    assert vllm_environment(options)["VLLM_CPU_OMP_THREADS_BIND"] == "0,2|1,3"
    assert openmp_environment(options) == {}


def test_more_tensor_parallel_ranks_than_cores_are_refused() -> None:
    with pytest.raises(RolloutError, match="tensor_parallel=4"):
        vllm_environment(dataclasses.replace(OPTIONS, tensor_parallel=4))


def test_only_a_local_model_turns_the_hub_off(tmp_path: os.PathLike[str]) -> None:
    assert "HF_HUB_OFFLINE" not in vllm_environment(OPTIONS)
    local = dataclasses.replace(OPTIONS, model_path=str(tmp_path))
    assert vllm_environment(local)["HF_HUB_OFFLINE"] == "1"


def test_gpu_workers_get_no_cpu_settings() -> None:
    options = dataclasses.replace(OPTIONS, device="cuda", sync_backend="ipc")
    assert not any("CPU" in name for name in vllm_environment(options))
    assert vllm_environment(options)["VLLM_ALLOW_INSECURE_SERIALIZATION"] == "1"


def test_the_environment_is_put_back(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("R1RAY_TEST_A", "before")
    monkeypatch.delenv("R1RAY_TEST_B", raising=False)
    with environment({"R1RAY_TEST_A": "in", "R1RAY_TEST_B": "in"}):
        assert (os.environ["R1RAY_TEST_A"], os.environ["R1RAY_TEST_B"]) == ("in", "in")
    assert os.environ["R1RAY_TEST_A"] == "before"
    assert "R1RAY_TEST_B" not in os.environ
