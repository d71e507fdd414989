from collections.abc import Sequence

import pytest
import torch
from transformers import Qwen2Config, Qwen2ForCausalLM

from r1ray.learner.packing import Row, collate, pack_rows, split_rows
from r1ray.learner.policy import Policy
from r1ray.types import TrainingSample


def sample(
    prompt: Sequence[int], completion: Sequence[int], *, key: str = "", advantage: float = 1.0
) -> TrainingSample:
    zeros = (0.0,) * len(completion)
    return TrainingSample(tuple(prompt), tuple(completion), zeros, (0,) * len(completion), advantage, prompt_key=key)


@pytest.fixture(scope="module")
def policy() -> Policy:
    torch.manual_seed(0)
    config = Qwen2Config(
        vocab_size=97,
        hidden_size=32,
        intermediate_size=48,
        num_hidden_layers=2,
        num_attention_heads=2,
        num_key_value_heads=1,
        tie_word_embeddings=True,
    )
    return Policy(Qwen2ForCausalLM(config).eval())


def reference_logprobs(policy: Policy, s: TrainingSample) -> torch.Tensor:
    """One sample alone through the plain model."""
    ids = torch.tensor([[*s.prompt_ids, *s.completion_ids]])
    with torch.no_grad():
        logits = policy.causal_lm(ids).logits[0]
    logprobs = (logits / 0.8).log_softmax(-1)
    start = len(s.prompt_ids)
    return torch.stack([logprobs[start + i - 1, t] for i, t in enumerate(s.completion_ids)])


SAMPLES = [
    sample([1, 2, 3], [4, 5], key="a"),
    sample([1, 2, 3], [6, 7, 8, 9], key="a"),
    sample([1, 2, 3], [10], key="a"),
    sample([20, 21, 22, 23, 24], [25, 26, 27], key="b"),
    sample([20, 21, 22, 23, 24], [28], key="b"),
    sample([30], [31, 32, 33]),
]


@pytest.mark.parametrize("row_tokens", [1, 9, 100])
def test_packed_logprobs_equal_those_of_each_sample_alone(policy: Policy, row_tokens: int) -> None:
    rows = pack_rows(SAMPLES, row_tokens=row_tokens)
    batch = collate(rows, pad_id=0)
    with torch.no_grad():
        logprobs, _ = policy(batch, 0.8)
    expected = torch.cat([reference_logprobs(policy, s) for row in rows for s in row.samples])
    torch.testing.assert_close(logprobs, expected, atol=2e-6, rtol=0)


def test_a_prompt_stands_once_for_all_its_completions() -> None:
    rows = pack_rows(SAMPLES, row_tokens=100)
    assert [row.tokens for row in rows] == [3 + 2 + 4 + 1, 5 + 3 + 1, 1 + 3]


def test_rows_never_exceed_their_limit_unless_one_sample_does() -> None:
    rows = pack_rows(SAMPLES, row_tokens=8)
    assert all(row.tokens <= 8 or len(row.samples) == 1 for row in rows)
    assert [s for row in rows for s in row.samples] == SAMPLES


def test_every_process_gets_equally_many_micro_batches_and_every_row_once() -> None:
    rows = [Row([sample(range(n), [1])]) for n in (5, 3, 8, 1, 9, 2, 7)]
    shares = split_rows(rows, micro_batch_tokens=10, num_processes=3)
    assert len({len(share) for share in shares}) == 1
    seen = [row for share in shares for micro_batch in share for row in micro_batch]
    assert sorted(map(id, seen)) == sorted(map(id, rows))
    for share in shares:
        for micro_batch in share:
            assert max((r.tokens for r in micro_batch), default=0) * len(micro_batch) <= 10


def test_empty_micro_batch_gives_zero_gradients_but_a_full_backward_pass(policy: Policy) -> None:
    logprobs, entropy = policy(collate([], pad_id=0), 1.0)
    (logprobs.sum() + entropy.sum()).backward()
    gradients = [p.grad for p in policy.parameters()]
    assert all(g is not None and not g.any() for g in gradients)
    policy.zero_grad()


def test_long_batches_chunk_the_head_to_the_same_numbers(policy: Policy, monkeypatch: pytest.MonkeyPatch) -> None:
    batch = collate(pack_rows(SAMPLES), pad_id=0)
    whole, whole_entropy = policy(batch, 1.0)
    whole.sum().backward()
    gradient = policy.causal_lm.get_input_embeddings().weight.grad.clone()
    policy.zero_grad()
    monkeypatch.setattr("r1ray.learner.policy.LOGITS_CHUNK_ELEMENTS", 97 * 3)
    chunked, chunked_entropy = policy(batch, 1.0)
    chunked.sum().backward()
    torch.testing.assert_close(chunked, whole)
    torch.testing.assert_close(chunked_entropy, whole_entropy)
    torch.testing.assert_close(policy.causal_lm.get_input_embeddings().weight.grad, gradient)
    policy.zero_grad()
