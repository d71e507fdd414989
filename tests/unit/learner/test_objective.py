from dataclasses import replace

import pytest
import torch

from r1ray.config.schema import AlgorithmConfig
from r1ray.driver.batch import training_batch
from r1ray.learner.micro_batch import collate
from r1ray.learner.objective import Objective
from r1ray.learner.packing import Bundle
from r1ray.types import TrainingSample


@pytest.mark.parametrize("aggregation", ["token", "sequence", "prompt", "constant"])
def test_a_prompt_of_which_nothing_is_trained_on_adds_nothing(aggregation: str) -> None:
    trained = TrainingSample((1,), (2, 3), (-1.0, -1.0), (0, 0), 1.0, prompt_key="a")
    masked = replace(trained, prompt_key="b", trained=False)
    losses = []
    for samples in ([trained], [trained, masked]):
        batch = collate([Bundle([s]) for s in training_batch(samples).samples])
        logprobs = torch.full((len(batch.targets),), -1.0, requires_grad=True)
        objective = Objective(AlgorithmConfig(loss_aggregation=aggregation), max_completion_tokens=4)  # type: ignore[arg-type]
        loss = objective(batch, logprobs, torch.zeros_like(logprobs), None).total
        loss.backward()
        assert logprobs.grad is not None
        losses.append((loss.item(), logprobs.grad[:2].tolist(), logprobs.grad[2:].tolist()))
    assert losses[0][:2] == losses[1][:2]
    assert losses[1][2] == [0.0, 0.0]
