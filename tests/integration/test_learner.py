"""The FSDP2 learner against a plain PyTorch GRPO step, and against itself on two processes."""

import os
import signal
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import ray
import torch
from peft import PeftModel
from transformers import AutoModelForCausalLM, Qwen2Config, Qwen2ForCausalLM

from r1ray.config.schema import AlgorithmConfig, LearnerConfig, LoraConfig
from r1ray.errors import LearnerDied, LearnerError
from r1ray.learner.pool import LearnerPool
from r1ray.learner.protocol import LearnerOptions
from r1ray.types import TrainingBatch, TrainingSample

pytestmark = pytest.mark.usefixtures("shared_ray")
PROBE = (1, 7, 3, 9, 2, 2, 5)


@pytest.fixture(scope="module")
def model_path(tmp_path_factory: pytest.TempPathFactory) -> str:
    torch.manual_seed(0)
    config = Qwen2Config(
        vocab_size=61,
        hidden_size=32,
        intermediate_size=48,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        tie_word_embeddings=True,
    )
    path = tmp_path_factory.mktemp("model") / "tiny"
    Qwen2ForCausalLM(config).save_pretrained(path)
    return str(path)


def options(model_path: str, **changes: Any) -> LearnerOptions:
    base = LearnerOptions(
        model_path=model_path,
        revision=None,
        trust_remote_code=False,
        dtype="float32",
        device="cpu",
        rank=0,
        world_size=1,
        master_address="",
        master_port=0,
        temperature=0.9,
        max_completion_tokens=16,
        total_steps=10,
        seed=0,
        cores=(),
        timeout_s=60.0,
        sync_backend="gloo",
        learner=LearnerConfig(lr=1e-3, micro_batch_tokens=64, weight_decay=0.01),
        algorithm=AlgorithmConfig(kl_coef=0.1, loss_aggregation="token", importance_cap=2.0),
    )
    return replace(base, **changes)


def started(opts: LearnerOptions) -> LearnerPool:
    pool = LearnerPool(opts, [({"num_cpus": 0}, ())] * opts.world_size)
    pool.start()
    pool.wait_started()
    return pool


def samples(count: int = 12) -> list[TrainingSample]:
    generator = torch.Generator().manual_seed(1)

    def ids(n: int) -> tuple[int, ...]:
        return tuple(torch.randint(1, 61, (n,), generator=generator).tolist())

    prompts = [ids(5), ids(9), ids(2)]
    made = []
    for i in range(count):
        completion = ids(1 + (i * 5) % 13)
        rollout = tuple((-4.0 - 0.3 * torch.rand(len(completion), generator=generator)).tolist())
        advantage = [1.2, -0.7, 0.3][i % 3]
        key = str(i * 3 // count)
        made.append(
            TrainingSample(
                prompts[int(key)],
                completion,
                rollout,
                (0,) * len(completion),
                advantage,
                trained=i != 4,
                prompt_key=key,
            )
        )
    return made


def reference_step(model_path: str, opts: LearnerOptions, data: list[TrainingSample]) -> tuple[float, list[float]]:
    """One GRPO update in plain PyTorch, sample by sample; returns gradient norm and probe log-probabilities."""
    model = AutoModelForCausalLM.from_pretrained(model_path, dtype=torch.float32)
    reference = AutoModelForCausalLM.from_pretrained(model_path, dtype=torch.float32)
    config = opts.learner
    optimizer = torch.optim.AdamW(
        model.parameters(),
        lr=config.lr,
        betas=(config.adam_beta1, config.adam_beta2),
        eps=config.adam_eps,
        weight_decay=config.weight_decay,
    )

    def logprobs(m: Any, s: TrainingSample) -> torch.Tensor:
        logits = m(torch.tensor([[*s.prompt_ids, *s.completion_ids]])).logits[0] / opts.temperature
        start = len(s.prompt_ids) - 1
        picked: torch.Tensor = logits.log_softmax(-1)[start:-1].gather(1, torch.tensor(s.completion_ids)[:, None])
        return picked[:, 0]

    tokens = sum(len(s.completion_ids) for s in data if s.trained)
    loss = torch.zeros(())
    for s in data:
        if not s.trained:
            continue
        new, rollout = logprobs(model, s), torch.tensor(s.rollout_logprobs)
        with torch.no_grad():
            log_ref_ratio = logprobs(reference, s)
        log_ref_ratio = log_ref_ratio - new
        weight = (new.detach() - rollout).exp().clamp(max=2.0)
        ratio = (new - new.detach()).exp()
        kl = log_ref_ratio.exp() - log_ref_ratio - 1
        loss = loss + (-(ratio * s.advantage) * weight + 0.1 * kl).sum() / tokens
    loss.backward()
    norm = torch.nn.utils.clip_grad_norm_(model.parameters(), config.max_grad_norm)
    optimizer.step()
    with torch.no_grad():
        probe = model(torch.tensor([PROBE])).logits[0].log_softmax(-1)[:-1]
    return float(norm), probe.gather(1, torch.tensor(PROBE[1:])[:, None])[:, 0].tolist()


@pytest.mark.parametrize(
    ("processes", "cuts", "changes"),
    [
        pytest.param(1, [5, 1, 6], {"activation_checkpointing": "selective"}, marks=pytest.mark.slow),
        pytest.param(2, [12], {}, marks=pytest.mark.slow),
        (2, [5, 1, 6], {"activation_checkpointing": "full", "fp32_lm_head": True}),
        (2, [5, 1, 6], {"backend": "deepspeed", "zero_stage": 3}),
        pytest.param(2, [5, 1, 6], {"tensor_parallel": 2}, marks=pytest.mark.slow),
        pytest.param(2, [5, 1, 6], {"context_parallel": 2, "activation_checkpointing": "full"}, marks=pytest.mark.slow),
        (4, [12], {"tensor_parallel": 2, "context_parallel": 2}),
    ],
)
def test_one_step_equals_plain_pytorch_however_it_is_split(
    model_path: str, processes: int, cuts: list[int], changes: dict[str, Any]
) -> None:
    opts = options(model_path, world_size=processes)
    opts = replace(opts, learner=replace(opts.learner, **changes))
    data = samples()
    norm, probe = reference_step(model_path, opts, data)
    pool = started(opts)
    start = 0
    for cut in cuts:
        pool.accumulate(TrainingBatch(tuple(data[start : start + cut])), rollout_version=0)
        start += cut
    results = pool.finish_step().results()
    assert all(r == results[0] for r in results)
    assert results[0]["train/grad_norm"] == pytest.approx(norm, rel=1e-5)
    assert pool.score(PROBE) == pytest.approx(probe, abs=2e-6)
    pool.shutdown()


def test_adapters_train_are_merged_for_export_and_go_on_from_a_checkpoint(model_path: str, tmp_path: Path) -> None:
    opts = options(model_path, world_size=2)
    lora = LoraConfig(rank=4, alpha=8.0)
    opts = replace(opts, learner=replace(opts.learner, lora=lora, lr=1e-2))
    data = TrainingBatch(tuple(samples()))
    pool = started(opts)
    kl, probes = [], [pool.score(PROBE)]
    base = AutoModelForCausalLM.from_pretrained(model_path, dtype=torch.float32)
    assert probes[0] == pytest.approx(plain_probe(base), abs=2e-6)
    for _ in range(2):
        pool.accumulate(data, rollout_version=0)
        kl.append(pool.finish_step().results()[0]["train/kl"])
        probes.append(pool.score(PROBE))
    # The base under the adapters is the reference: the policy starts there and leaves.
    assert kl[0] == 0.0
    assert kl[1] > 0
    pool.save(str(tmp_path)).results()
    pool.shutdown()
    merged = AutoModelForCausalLM.from_pretrained(tmp_path / "model", dtype=torch.float32)
    assert plain_probe(merged) == pytest.approx(probes[2], abs=2e-5)
    with_adapter = PeftModel.from_pretrained(base, str(tmp_path / "adapter"))
    assert plain_probe(with_adapter) == pytest.approx(probes[2], abs=2e-5)
    again = started(replace(opts, world_size=1))
    again.load(str(tmp_path), 2)
    assert again.score(PROBE) == pytest.approx(probes[2], abs=2e-6)
    again.shutdown()


def plain_probe(model: Any) -> list[float]:
    with torch.no_grad():
        logprobs = model(torch.tensor([PROBE])).logits[0].log_softmax(-1)[:-1]
    values: list[float] = logprobs.gather(1, torch.tensor(PROBE[1:])[:, None])[:, 0].tolist()
    return values


def test_state_survives_saving_and_another_number_of_processes(model_path: str, tmp_path: Path) -> None:
    data = TrainingBatch(tuple(samples()))

    def step(pool: LearnerPool) -> dict[str, float]:
        pool.accumulate(data, rollout_version=0)
        return dict(pool.finish_step().results()[0])

    first = started(options(model_path))
    step(first)
    first.save(str(tmp_path)).results()
    expected, expected_probe = step(first), first.score(PROBE)
    first.shutdown()
    for processes, exact in ((1, True), (2, False)):
        again = started(options(model_path, world_size=processes))
        again.load(str(tmp_path), 1)
        metrics = step(again)
        if exact:
            assert metrics == expected
            assert again.score(PROBE) == expected_probe
        else:
            assert again.score(PROBE) == pytest.approx(expected_probe, abs=2e-6)
        again.shutdown()


def test_old_logprobs_come_back_per_sample(model_path: str) -> None:
    pool = started(options(model_path, world_size=2))
    data = samples()
    found = pool.logprobs(TrainingBatch(tuple(data)))
    model = AutoModelForCausalLM.from_pretrained(model_path, dtype=torch.float32)
    for i, s in enumerate(data):
        with torch.no_grad():
            logits = model(torch.tensor([[*s.prompt_ids, *s.completion_ids]])).logits[0] / 0.9
        picked = logits.log_softmax(-1)[len(s.prompt_ids) - 1 : -1].gather(1, torch.tensor(s.completion_ids)[:, None])
        assert found[i] == pytest.approx(picked[:, 0].tolist(), abs=2e-6)
    pool.shutdown()


def test_the_reference_follows_the_policy_when_refreshed(model_path: str) -> None:
    opts = options(model_path)
    pool = started(replace(opts, algorithm=replace(opts.algorithm, reference_refresh_steps=2)))
    data = TrainingBatch(tuple(samples()))
    kl = []
    for _ in range(4):
        pool.accumulate(data, rollout_version=0)
        kl.append(pool.finish_step().results()[0]["train/kl"])
    # Steps 1 and 3 start at the reference: after construction, and after the refresh that followed step 2.
    assert kl[0] == kl[2] == 0.0
    assert kl[1] > 0
    assert kl[3] > 0
    pool.shutdown()


def test_a_failed_batch_fails_the_step_it_belongs_to(model_path: str) -> None:
    pool = started(options(model_path))
    data = samples()
    outside_the_vocabulary = replace(data[0], completion_ids=(999,) * len(data[0].completion_ids))
    pool.accumulate(TrainingBatch((outside_the_vocabulary,)), rollout_version=0)
    pool.accumulate(TrainingBatch(tuple(data[1:])), rollout_version=0)
    with pytest.raises(LearnerError, match="accumulate"):
        pool.finish_step().results()
    pool.shutdown()


def test_a_dead_process_is_noticed_in_seconds_and_named(model_path: str) -> None:
    """Rank 1 is killed while it works; rank 0 hangs in the collective that both were about to enter."""
    pool = started(options(model_path, world_size=2))
    pool.accumulate(TrainingBatch(tuple(samples())), rollout_version=0)
    pool.finish_step().results()
    victim = pid_of(pool._actors[1])
    for _ in range(40):
        pool.accumulate(TrainingBatch(tuple(samples())), rollout_version=1)
    os.kill(victim, signal.SIGKILL)
    began = time.monotonic()
    pending = pool.finish_step()
    while not pending.done(1.0):
        assert time.monotonic() - began < 20
    with pytest.raises(LearnerDied, match=r"learner process 1 of 2 died in .*rank 0: .*rank 1: .*resume=true"):
        pending.results()
    assert time.monotonic() - began < 20
    pool.restart()
    pool.accumulate(TrainingBatch(tuple(samples())), rollout_version=0)
    assert pool.finish_step().results()[0]["train/grad_norm"] > 0
    pool.shutdown()


def test_a_process_that_dies_between_calls_is_noticed(model_path: str) -> None:
    pool = started(options(model_path))
    pool.check()
    os.kill(pid_of(pool._actors[0]), signal.SIGKILL)
    with pytest.raises(LearnerDied, match="learner process 0 of 1 died in a pause"):
        check_for(pool, seconds=20)


def test_a_process_that_hangs_is_given_up_at_the_deadline(model_path: str) -> None:
    opts = options(model_path)
    pool = started(replace(opts, learner=replace(opts.learner, step_timeout_s=4.0)))
    victim = pid_of(pool._actors[0])
    pool.accumulate(TrainingBatch(tuple(samples())), rollout_version=0)
    os.kill(victim, signal.SIGSTOP)
    pending, began = pool.finish_step(), time.monotonic()
    while not pending.done(0.5):
        assert time.monotonic() - began < 20
    with pytest.raises(LearnerError, match=r"did not finish finish_step within its deadline of 4 s .*rank 0: "):
        pending.results()
    os.kill(victim, signal.SIGKILL)


def check_for(pool: LearnerPool, *, seconds: float) -> None:
    until = time.monotonic() + seconds
    while time.monotonic() < until:
        pool.check()


def pid_of(actor: Any) -> int:
    pid = ray.get(actor.__ray_call__.remote(lambda _: os.getpid()), timeout=60)
    assert isinstance(pid, int)
    return pid
