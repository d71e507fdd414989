"""The packed policy on CUDA in bfloat16: varlen attention, chunked head, recomputation, compiled and fused blocks."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM, Qwen2Config, Qwen2ForCausalLM

from r1ray.algorithms.logprobs import linear_logprobs
from r1ray.config.schema import AlgorithmConfig, LearnerConfig
from r1ray.learner.block_attention import block_attention, plan_blocks
from r1ray.learner.build import load_policy
from r1ray.learner.micro_batch import collate
from r1ray.learner.packing import Bundle
from r1ray.learner.policy import Policy
from r1ray.learner.protocol import LearnerOptions
from r1ray.learner.segments import Segment
from r1ray.learner.varlen_attention import plan_varlen, varlen_attention
from r1ray.types import TrainingSample

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device"),
    # Raised by torch.compile and Triton about themselves.
    pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::UserWarning", "ignore::FutureWarning"),
]
VOCAB = 300


@pytest.fixture(scope="module")
def model_path(tmp_path_factory: pytest.TempPathFactory) -> str:
    torch.manual_seed(0)
    config = Qwen2Config(
        vocab_size=VOCAB,
        hidden_size=256,
        intermediate_size=512,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        tie_word_embeddings=True,
    )
    path = tmp_path_factory.mktemp("model") / "small"
    Qwen2ForCausalLM(config).save_pretrained(path)
    return str(path)


def options(model_path: str, **learner: Any) -> LearnerOptions:
    return LearnerOptions(
        model_path=model_path,
        revision=None,
        trust_remote_code=False,
        dtype="bfloat16",
        device="cuda",
        rank=0,
        world_size=1,
        master_address="",
        master_port=0,
        temperature=1.0,
        max_completion_tokens=64,
        total_steps=1,
        seed=0,
        cores=(),
        timeout_s=60.0,
        sync_backend="gloo",
        learner=LearnerConfig(**learner),
        algorithm=AlgorithmConfig(),
    )


def bundles() -> list[Bundle]:
    generator = torch.Generator().manual_seed(1)

    def ids(n: int) -> tuple[int, ...]:
        return tuple(torch.randint(0, VOCAB, (n,), generator=generator).tolist())

    made = []
    for prompt_length, lengths in ((17, (40, 3, 65)), (5, (128,)), (64, (9, 70))):
        prompt = ids(prompt_length)
        made.append(Bundle([TrainingSample(prompt, ids(n), (0.0,) * n, (0,) * n, 1.0) for n in lengths]))
    return made


@pytest.fixture(scope="module")
def exact_logprobs(model_path: str) -> torch.Tensor:
    """Every sample alone through the plain model on the CPU, in float64; before fused kernels replace what it uses."""
    model = AutoModelForCausalLM.from_pretrained(model_path, dtype=torch.float64, attn_implementation="eager")
    found = []
    for s in (s for b in bundles() for s in b.samples):
        with torch.no_grad():
            logits = model(torch.tensor([[*s.prompt_ids, *s.completion_ids]])).logits[0]
        start = len(s.prompt_ids) - 1
        found.append(logits[start:-1].log_softmax(-1).gather(1, torch.tensor(s.completion_ids)[:, None])[:, 0])
    return torch.cat(found)


def in_bfloat16(opts: LearnerOptions) -> Policy:
    """The policy on the GPU, its parameters but not its buffers in bfloat16."""
    policy = load_policy(opts, trainable=True)
    for parameter in policy.parameters():
        parameter.data = parameter.data.bfloat16()
    return policy.cuda()


@pytest.mark.parametrize(
    "learner",
    [
        {},
        {"activation_checkpointing": "full"},
        {"activation_checkpointing": "selective"},
        {"compile": True},
        {"fp32_lm_head": True},
        {"fused_kernels": True},
    ],
    ids=lambda v: "-".join(v) or "plain",
)
def test_packed_bfloat16_is_near_the_exact_numbers(
    model_path: str, exact_logprobs: torch.Tensor, learner: dict[str, Any]
) -> None:
    if "fused_kernels" in learner:
        pytest.importorskip("liger_kernel")
    opts = options(model_path, **learner)
    policy = in_bfloat16(opts)
    batch = collate(bundles(), varlen=True).to(torch.device("cuda"))
    logprobs, entropy = policy(batch, 1.0, entropy="value")
    logprobs.sum().backward()
    difference = (logprobs.detach().cpu().double() - exact_logprobs).abs()
    assert difference.max() < 0.05
    assert difference.mean() < 0.01
    assert entropy.isfinite().all()
    plain = in_bfloat16(replace(opts, learner=LearnerConfig()))
    plain(batch, 1.0)[0].sum().backward()
    for (name, one), other in zip(policy.named_parameters(), plain.parameters(), strict=True):
        assert one.grad is not None
        assert other.grad is not None
        error = (one.grad.float() - other.grad.float()).norm() / other.grad.float().norm()
        assert error < 0.03, name


def segments_of(pairs: Sequence[tuple[int, Sequence[int]]]) -> list[Segment]:
    segments: list[Segment] = []
    start = 0
    for prompt, completions in pairs:
        prefix = len(segments)
        segments.append(Segment(start, prompt))
        start += prompt
        for n in completions:
            segments.append(Segment(start, n, prefix=prefix))
            start += n
    return segments


def test_varlen_attention_equals_blocks_in_float64() -> None:
    """Values and gradients, with shared prompts and fewer key heads than query heads."""
    segments = segments_of([(33, (50, 1, 130)), (128, (7,)), (1, (1, 2))])
    tokens = sum(s.length for s in segments)
    generator = torch.Generator().manual_seed(0)
    exact = [torch.randn(1, h, tokens, 64, generator=generator, dtype=torch.float64).bfloat16() for h in (4, 2, 2)]
    signal = torch.randn(1, tokens, 4, 64, generator=generator, dtype=torch.float64).bfloat16()
    results = []
    for device, dtype in (("cpu", torch.float64), ("cuda", torch.bfloat16)):
        q, k, v = (x.to(device, dtype).requires_grad_() for x in exact)
        if device == "cpu":
            out = block_attention(q, k, v, plan_blocks(segments), scaling=0.125)
        else:
            out = varlen_attention(q, k, v, plan_varlen(segments).to(torch.device("cuda")), scaling=0.125)
        grads = torch.autograd.grad((out * signal.to(device, dtype)).sum(), (q, k, v))
        results.append([x.detach().cpu().double() for x in (out, *grads)])
    for expected, got in zip(*results, strict=True):
        assert (got - expected).norm() / expected.norm() < 0.01


def test_chunked_head_in_bfloat16_keeps_float32_sums() -> None:
    generator = torch.Generator().manual_seed(0)
    hidden = torch.randn(700, 128, generator=generator).bfloat16()
    weight = (0.2 * torch.randn(5000, 128, generator=generator)).bfloat16()
    targets = torch.randint(0, 5000, (700,), generator=generator)
    signal = torch.randn(700, generator=generator)
    h, w = hidden.double().requires_grad_(), weight.double().requires_grad_()
    exact = (h @ w.t()).log_softmax(-1).gather(1, targets[:, None])[:, 0]
    expected = torch.autograd.grad((exact * signal).sum(), (h, w))
    h2, w2 = hidden.cuda().requires_grad_(), weight.cuda().requires_grad_()
    got, _ = linear_logprobs(h2, w2, None, targets.cuda(), temperature=1.0, chunk_elements=5000 * 64)
    torch.testing.assert_close(got.detach().cpu().double(), exact.detach(), atol=1e-4, rtol=0)
    for mine, theirs in zip(torch.autograd.grad((got * signal.cuda()).sum(), (h2, w2)), expected, strict=True):
        assert (mine.cpu().double() - theirs).norm() / theirs.norm() < 5e-3


def test_a_step_with_offloaded_optimizer_equals_one_without(model_path: str, tmp_path: Path) -> None:
    """Two learners one after the other in this process, each a process group of one."""
    from r1ray.learner.policy_learner import PolicyLearner

    norms, weights = [], []
    for port, offload in ((29801, False), (29802, True)):
        opts = replace(
            options(model_path, offload_optimizer=offload, offload_reference=offload, lr=1e-3),
            master_address="127.0.0.1",
            master_port=port,
        )
        learner = PolicyLearner(opts)
        metrics = learner.finish_step([bundles()], rollout_version=0)
        metrics = learner.finish_step([bundles()], rollout_version=1)
        norms.append(metrics["train/grad_norm"])
        weights.append({name: w.float().cpu() for name, w in learner.engine.weights()})
        learner.shutdown()
    assert norms[0] == pytest.approx(norms[1], rel=1e-3)
    # As a whole: Adam turns a gradient that rounds to the other side of zero into a whole step.
    one, other = (torch.cat([w.flatten() for w in side.values()]) for side in weights)
    assert (one - other).norm() / one.norm() < 2e-3
