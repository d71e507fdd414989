from __future__ import annotations

import numpy as np
import pytest

pytest.importorskip("vllm")

pytestmark = [
    # Raised while vLLM imports torch's and its own modules.
    pytest.mark.filterwarnings("ignore::DeprecationWarning:torch"),
    pytest.mark.filterwarnings("ignore::DeprecationWarning:vllm"),
    pytest.mark.filterwarnings("ignore:.*torch.jit.script_method.*:DeprecationWarning"),
]


def test_noise_differs_for_every_pair_of_seed_and_position() -> None:
    from r1ray.rollout.vllm_cpu_worker import noise_seeds

    seeds, positions = np.meshgrid(np.arange(300, dtype=np.uint64), np.arange(300, dtype=np.uint64))
    noise = noise_seeds(seeds.ravel(), positions.ravel())
    assert len(set(noise.tolist())) == 300 * 300
    assert (noise >= 0).all()


def test_noise_does_not_depend_on_the_rest_of_the_batch() -> None:
    from r1ray.rollout.vllm_cpu_worker import noise_seeds

    seeds, positions = np.array([5, 9], dtype=np.uint64), np.array([3, 3], dtype=np.uint64)
    assert noise_seeds(seeds, positions)[1] == noise_seeds(seeds[1:], positions[1:])[0]
