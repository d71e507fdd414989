import torch
from torch.nn import functional

from r1ray.algorithms.supervised import cross_entropy_loss


def test_cross_entropy_equals_torch() -> None:
    torch.manual_seed(0)
    logits, targets = torch.randn(5, 7, dtype=torch.float64, requires_grad=True), torch.tensor([0, 6, 3, 3, 1])
    logprobs = logits.log_softmax(-1).gather(-1, targets[:, None]).squeeze(-1)
    loss = cross_entropy_loss(logprobs)
    expected = functional.cross_entropy(logits, targets, reduction="none")
    torch.testing.assert_close(loss, expected)
    got, reference = (torch.autograd.grad(value.sum(), logits)[0] for value in (loss, expected))
    torch.testing.assert_close(got, reference)
