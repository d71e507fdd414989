import math
from collections.abc import Sequence

import pytest
import torch
from transformers import AttentionInterface, Qwen2Config, Qwen2ForCausalLM

from r1ray.errors import ModelError
from r1ray.learner import block_attention
from r1ray.learner.attention import ATTENTION_NAME, packed_attention, plan_attention
from r1ray.learner.block_attention import plan_blocks
from r1ray.learner.micro_batch import collate
from r1ray.learner.packing import Bundle
from r1ray.learner.policy import Policy, ScoringHead
from r1ray.learner.segments import Segment
from r1ray.learner.varlen_attention import plan_varlen
from r1ray.types import TrainingSample


def sample(
    prompt: Sequence[int], completion: Sequence[int], *, key: str = "", advantage: float = 1.0
) -> TrainingSample:
    zeros = (0.0,) * len(completion)
    return TrainingSample(tuple(prompt), tuple(completion), zeros, (0,) * len(completion), advantage, prompt_key=key)


def make_model() -> Qwen2ForCausalLM:
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
    return Qwen2ForCausalLM(config).eval()


@pytest.fixture(scope="module")
def policy() -> Policy:
    AttentionInterface.register(ATTENTION_NAME, packed_attention)
    model = make_model()
    model.set_attn_implementation(ATTENTION_NAME)
    return Policy(model)


@pytest.fixture(scope="module")
def plain() -> Qwen2ForCausalLM:
    model = make_model()
    model.set_attn_implementation("eager")
    return model


def bundled(samples: Sequence[TrainingSample]) -> list[Bundle]:
    """Samples with the same prompt together."""
    bundles: dict[str, Bundle] = {}
    for i, s in enumerate(samples):
        bundles.setdefault(s.prompt_key or str(i), Bundle()).samples.append(s)
    return list(bundles.values())


def r1_like_lengths(count: int) -> list[int]:
    """Log-normal with mean 5,400, at most 32,768 tokens."""
    spread = 0.8
    mean = math.log(5400) - spread**2 / 2
    generator = torch.Generator().manual_seed(0)
    draws = torch.empty(count).log_normal_(mean, spread, generator=generator)
    return [min(32768, max(1, round(x))) for x in draws.tolist()]


def reference_logprobs(plain: Qwen2ForCausalLM, s: TrainingSample, temperature: float) -> torch.Tensor:
    """One sample alone through the plain model."""
    ids = torch.tensor([[*s.prompt_ids, *s.completion_ids]])
    with torch.no_grad():
        logprobs = (plain(ids).logits[0] / temperature).log_softmax(-1)
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


@pytest.mark.parametrize("bundles", [bundled(SAMPLES), [Bundle([s]) for s in SAMPLES]], ids=["shared", "alone"])
@pytest.mark.parametrize("mask_elements", [1, 1 << 25])
def test_packed_logprobs_equal_those_of_each_sample_alone(
    policy: Policy,
    plain: Qwen2ForCausalLM,
    bundles: list[Bundle],
    mask_elements: int,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(block_attention, "MASK_ELEMENTS", mask_elements)
    with torch.no_grad():
        logprobs, _ = policy(collate(bundles), 0.8)
    expected = torch.cat([reference_logprobs(plain, s, 0.8) for s in SAMPLES])
    torch.testing.assert_close(logprobs, expected, atol=2e-6, rtol=0)


def test_packed_gradients_equal_those_of_the_samples_alone(policy: Policy) -> None:
    weights = torch.linspace(-1, 1, sum(len(s.completion_ids) for s in SAMPLES))
    logprobs, _ = policy(collate(bundled(SAMPLES)), 1.0)
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
    layout = plan_blocks([Segment(sum(lengths[:i]), length) for i, length in enumerate(lengths)])
    assert len(layout.blocks) == 1
    assert layout.real.sum() == sum(lengths)
    assert layout.real.float().mean() > 0.9


def test_blocks_of_r1_like_lengths_are_full() -> None:
    lengths = r1_like_lengths(64)
    layout = plan_blocks([Segment(sum(lengths[:i]), length) for i, length in enumerate(lengths)])
    assert layout.real.float().mean() >= 0.97


def test_varlen_keys_are_those_of_the_prompt_and_the_own() -> None:
    layout = plan_varlen([Segment(0, 3), Segment(3, 2, prefix=0), Segment(5, 1, prefix=0), Segment(6, 2)])
    assert layout.cu_seq_q.tolist() == [0, 3, 5, 6, 8]
    assert layout.cu_seq_k.tolist() == [0, 3, 8, 12, 14]
    assert layout.key_tokens is not None
    assert layout.key_tokens.tolist() == [0, 1, 2, 0, 1, 2, 3, 4, 0, 1, 2, 5, 6, 7]
    assert (layout.max_q, layout.max_k, layout.slots) == (3, 5, 8)


def test_varlen_without_shared_prompts_takes_keys_as_they_are() -> None:
    layout = plan_varlen([Segment(0, 3), Segment(3, 2)])
    assert layout.key_tokens is None
    assert layout.cu_seq_k.tolist() == [0, 3, 5]


def test_empty_micro_batch_gives_zero_gradients_but_a_full_backward_pass(policy: Policy) -> None:
    logprobs, entropy = policy(collate([]), 1.0, entropy="gradient")
    (logprobs.sum() + entropy.sum()).backward()
    gradients = [p.grad for p in policy.parameters()]
    assert all(g is not None and not g.any() for g in gradients)
    policy.zero_grad()


def test_float32_head_multiplies_in_float32_in_a_bfloat16_model() -> None:
    generator = torch.Generator().manual_seed(2)
    linear = torch.nn.Linear(64, 500, bias=False).bfloat16().requires_grad_(False)
    hidden = torch.randn(5, 64, generator=generator).bfloat16()
    targets = torch.tensor([0, 7, 499, 3, 3])
    expected = (hidden.double() @ linear.weight.double().t()).log_softmax(-1).gather(1, targets[:, None])[:, 0]
    errors = []
    for float32 in (True, False):
        head = ScoringHead(linear, float32=float32)
        with torch.no_grad():
            logprobs, _ = head(hidden, targets, temperature=1.0, entropy="none")
        errors.append(float((logprobs.double() - expected).abs().max()))
    assert errors[0] < 1e-6
    assert errors[0] < errors[1] / 100
