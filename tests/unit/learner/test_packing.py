from collections.abc import Sequence

import pytest
import torch
from transformers import AttentionInterface, Qwen2Config, Qwen2ForCausalLM

from r1ray.errors import ModelError
from r1ray.learner import attention
from r1ray.learner.attention import ATTENTION_NAME, Segment, packed_attention, plan_attention
from r1ray.learner.packing import Bundle, bundle_samples, collate, split_bundles
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
    AttentionInterface.register(ATTENTION_NAME, packed_attention)
    config = Qwen2Config(
        vocab_size=97,
        hidden_size=32,
        intermediate_size=48,
        num_hidden_layers=2,
        num_attention_heads=2,
        num_key_value_heads=1,
        tie_word_embeddings=True,
    )
    model = Qwen2ForCausalLM(config).eval()
    model.set_attn_implementation(ATTENTION_NAME)
    return Policy(model)


def reference_logprobs(policy: Policy, s: TrainingSample) -> torch.Tensor:
    """One sample alone through the plain model."""
    ids = torch.tensor([[*s.prompt_ids, *s.completion_ids]])
    policy.causal_lm.set_attn_implementation("eager")
    with torch.no_grad():
        logits = policy.causal_lm(ids).logits[0]
    policy.causal_lm.set_attn_implementation(ATTENTION_NAME)
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


@pytest.mark.parametrize("max_tokens", [1, 9, 100])
@pytest.mark.parametrize("mask_elements", [1, 1 << 25])
def test_packed_logprobs_equal_those_of_each_sample_alone(
    policy: Policy, max_tokens: int, mask_elements: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(attention, "MASK_ELEMENTS", mask_elements)
    bundles = bundle_samples(SAMPLES, max_tokens=max_tokens)
    with torch.no_grad():
        logprobs, _ = policy(collate(bundles), 0.8)
    expected = torch.cat([reference_logprobs(policy, s) for s in SAMPLES])
    torch.testing.assert_close(logprobs, expected, atol=2e-6, rtol=0)


def test_packed_gradients_equal_those_of_the_samples_alone(policy: Policy) -> None:
    weights = torch.linspace(-1, 1, sum(len(s.completion_ids) for s in SAMPLES))
    logprobs, _ = policy(collate(bundle_samples(SAMPLES, max_tokens=100)), 1.0)
    (logprobs * weights).sum().backward()
    packed = {name: p.grad.clone() for name, p in policy.named_parameters() if p.grad is not None}
    policy.zero_grad()
    alone = [policy(collate([Bundle([s])]), 1.0)[0] for s in SAMPLES]
    (torch.cat(alone) * weights).sum().backward()
    for name, parameter in policy.named_parameters():
        torch.testing.assert_close(packed[name], parameter.grad, atol=2e-6, rtol=1e-5)
    policy.zero_grad()


def test_attention_equals_a_dense_mask_in_double_precision() -> None:
    """Values and gradients against one big softmax whose mask is written out pair by pair."""
    segments = [Segment(0, 3), Segment(3, 4, prefix=0), Segment(7, 2, prefix=0), Segment(9, 5), Segment(14, 4, 3)]
    tokens, heads, width = 18, 4, 8
    generator = torch.Generator().manual_seed(3)
    q, k, v = (
        torch.randn(1, h, tokens, width, generator=generator, dtype=torch.float64, requires_grad=True)
        for h in (heads, 2, 2)
    )
    owner = [next(i for i, s in enumerate(segments) if s.start <= t < s.start + s.length) for t in range(tokens)]
    visible = [
        [j <= i and owner[j] in (owner[i], segments[owner[i]].prefix) for j in range(tokens)] for i in range(tokens)
    ]
    scores = (q @ k.repeat_interleave(2, dim=1).transpose(-1, -2)) * 0.3
    dense = scores.masked_fill(~torch.tensor(visible), float("-inf")).softmax(-1) @ v.repeat_interleave(2, dim=1)
    packed, _ = packed_attention(torch.nn.Identity(), q, k, v, None, scaling=0.3, layout=plan_attention(segments))
    torch.testing.assert_close(packed, dense.transpose(1, 2), atol=1e-12, rtol=0)
    signal = torch.randn(packed.shape, generator=generator, dtype=torch.float64)
    expected = torch.autograd.grad((dense.transpose(1, 2) * signal).sum(), (q, k, v))
    for ours, theirs in zip(torch.autograd.grad((packed * signal).sum(), (q, k, v)), expected, strict=True):
        torch.testing.assert_close(ours, theirs, atol=1e-12, rtol=0)


@pytest.mark.parametrize(
    ("option", "named"), [({"sliding_window": 4}, "sliding window"), ({"dropout": 0.1}, "dropout")]
)
def test_attention_the_learner_cannot_do_is_an_error(option: dict[str, float], named: str) -> None:
    x = torch.zeros(1, 1, 1, 8)
    with pytest.raises(ModelError, match=named):
        packed_attention(
            torch.nn.Identity(), x, x, x, None, scaling=1.0, layout=plan_attention([Segment(0, 1)]), **option
        )


def test_blocks_of_an_even_batch_are_almost_full() -> None:
    lengths = [90, 97, 100, 93, 95, 99, 91, 96, 98, 94]
    layout = plan_attention([Segment(sum(lengths[:i]), length) for i, length in enumerate(lengths)])
    assert len(layout.blocks) == 1
    assert layout.real.sum() == sum(lengths)
    assert layout.real.float().mean() > 0.9


def test_a_prompt_stands_once_for_all_its_completions() -> None:
    bundles = bundle_samples(SAMPLES, max_tokens=100)
    assert [bundle.tokens for bundle in bundles] == [3 + 2 + 4 + 1, 5 + 3 + 1, 1 + 3]
    assert collate(bundles).input_ids.shape == (1, 10 + 9 + 4)


def test_bundles_never_exceed_their_limit_unless_one_sample_does() -> None:
    bundles = bundle_samples(SAMPLES, max_tokens=8)
    assert all(bundle.tokens <= 8 or len(bundle.samples) == 1 for bundle in bundles)
    assert [s for bundle in bundles for s in bundle.samples] == SAMPLES


def test_every_process_gets_equally_many_micro_batches_and_every_bundle_once() -> None:
    bundles = [Bundle([sample(range(n), [1])]) for n in (5, 3, 8, 1, 9, 2, 7)]
    shares = split_bundles(bundles, micro_batch_tokens=10, num_processes=3)
    assert len({len(share) for share in shares}) == 1
    seen = [bundle for share in shares for micro_batch in share for bundle in micro_batch]
    assert sorted(map(id, seen)) == sorted(map(id, bundles))
    assert all(sum(b.tokens for b in micro_batch) <= 10 for share in shares for micro_batch in share)


def test_empty_micro_batch_gives_zero_gradients_but_a_full_backward_pass(policy: Policy) -> None:
    logprobs, entropy = policy(collate([]), 1.0, entropy="gradient")
    (logprobs.sum() + entropy.sum()).backward()
    gradients = [p.grad for p in policy.parameters()]
    assert all(g is not None and not g.any() for g in gradients)
    policy.zero_grad()


def test_long_batches_chunk_the_head_to_the_same_numbers(policy: Policy, monkeypatch: pytest.MonkeyPatch) -> None:
    batch = collate(bundle_samples(SAMPLES, max_tokens=100))
    whole, whole_entropy = policy(batch, 1.0, entropy="gradient")
    whole.sum().backward()
    gradient = policy.causal_lm.get_input_embeddings().weight.grad.clone()
    policy.zero_grad()
    monkeypatch.setattr("r1ray.learner.policy.LOGITS_CHUNK_ELEMENTS", 97 * 3)
    chunked, chunked_entropy = policy(batch, 1.0, entropy="gradient")
    chunked.sum().backward()
    torch.testing.assert_close(chunked, whole)
    torch.testing.assert_close(chunked_entropy, whole_entropy)
    torch.testing.assert_close(policy.causal_lm.get_input_embeddings().weight.grad, gradient)
    policy.zero_grad()
