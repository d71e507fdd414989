"""What every training engine owes its learner, put to two processes and to one.

`measure` starts three processes: a pair that trains together (of one, where there is but one GPU), and one alone that
first trains in plain PyTorch. They exchange checkpoints and write down what they saw; the tests judge. Run as a script,
this file is one of the three.
"""

import json
import math
import os
import subprocess
import sys
from dataclasses import asdict, dataclass, field
from datetime import timedelta
from importlib import import_module
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn

import r1ray

STEPS, SAVED_AFTER, RESUMED = 20, 10, 3
MICRO_BATCH_TOKENS = 40
KL_COEF, TEMPERATURE = 0.1, 0.9
DEADLINE_S = 240.0


@dataclass(frozen=True)
class Case:
    """One engine in one configuration.

    Attributes:
        engine: `module:class`, called with options, policy and reference.
        learner: of `LearnerConfig`.
        processes: in the pair.
    """

    engine: str
    model_path: str
    learner: dict[str, Any] = field(default_factory=dict)
    dtype: str = "float32"
    device: str = "cpu"
    processes: int = 2


def measure(cases: dict[str, Case], directory: Path) -> dict[str, dict[str, Any]]:
    """Put cases through the contract, one after the other in the same three processes.

    Returns:
        What each process found, by case and process, and what all printed as "output". Weights lie as files in
        `directory`/case: of the pair and of plain PyTorch.
    """
    # The processes import the same r1ray as the tests.
    paths = [str(Path(r1ray.__file__).parents[1]), os.environ.get("PYTHONPATH", "")]
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(paths), "HF_HUB_DISABLE_PROGRESS_BARS": "1"}
    (directory / "cases.json").write_text(json.dumps({name: asdict(case) for name, case in cases.items()}))
    for name in cases:
        (directory / name).mkdir()
    (size,) = {case.processes for case in cases.values()}
    names = [*(f"pair{rank}" for rank in range(size)), "single"]
    logs = {name: (directory / f"{name}.log").open("w+") for name in names}
    processes = {
        name: subprocess.Popen(
            [sys.executable, __file__, str(directory), name],
            stdout=log,
            stderr=log,
            # Where there are GPUs, each process sees one.
            env=environment | {"CUDA_VISIBLE_DEVICES": str(i % size)},
        )
        for i, (name, log) in enumerate(logs.items())
    }
    results: dict[str, dict[str, Any]] = {case: {"output": ""} for case in cases}
    try:
        for name, process in processes.items():
            code = process.wait(timeout=DEADLINE_S)
            logs[name].seek(0)
            output = logs[name].read()
            assert code == 0, f"{name} failed:\n{output[-6000:]}"
            for case, found in results.items():
                found[name] = json.loads((directory / case / f"{name}.json").read_text())
                found["output"] += output
    finally:
        for process in processes.values():
            process.kill()
            process.wait()
        for log in logs.values():
            log.close()
    return results


# -- the work, the same for all ---------------------------------------------------------------------------------


def samples_of(step: int) -> list[Any]:
    """Return the step's samples, unequal in length; the same in every process."""
    from r1ray.types import TrainingSample

    generator = torch.Generator().manual_seed(100 + step)

    def ids(n: int) -> tuple[int, ...]:
        return tuple(torch.randint(1, 61, (n,), generator=generator).tolist())

    prompts = [ids(5), ids(9), ids(2)]
    made = []
    for i in range(9 + step % 4):
        completion = ids(1 + (i * 5 + step) % 13)
        zeros = len(completion)
        made.append(
            TrainingSample(
                prompts[i % 3],
                completion,
                (0.0,) * zeros,
                (0,) * zeros,
                advantage=[1.2, -0.7, 0.3][(i + step) % 3],
                prompt_key=str(i % 3),
            )
        )
    return sorted(made, key=lambda s: s.prompt_key)


def denominator_of(step: int) -> float:
    """Return the step's denominator: unequal, so that clipping is active in some steps and not in others."""
    return [40.0, 7.0, 900.0, 133.0, 61.0][step % 5]


def lr_of(step: int) -> float:
    """Return the step's learning rate."""
    return 1e-3 * (1 + step % 3) / 3


def token_losses(logprobs: Tensor, ref_logprobs: Tensor, advantages: Tensor) -> Tensor:
    """Return [N] losses."""
    log_ratio = ref_logprobs - logprobs
    return -advantages * logprobs + KL_COEF * (log_ratio.exp() - log_ratio - 1)


def micro_batches_of(step: int, processes: int) -> list[list[Any]]:
    """Return [processes][micro-batches], some perhaps empty."""
    from r1ray.learner.micro_batch import collate
    from r1ray.learner.packing import Cost, Packer

    packer = Packer(micro_batch_tokens=MICRO_BATCH_TOKENS, num_ranks=processes, cost=Cost())
    rows = [*packer.add(samples_of(step)), *packer.finish()]
    return [[collate(row[rank]) for row in rows] for rank in range(processes)]


def load_model(path: str, dtype: torch.dtype) -> Any:
    """Load the Hugging Face model with the learner's attention."""
    from transformers import AttentionInterface, AutoModelForCausalLM

    from r1ray.learner.attention import ATTENTION_NAME, packed_attention

    AttentionInterface.register(ATTENTION_NAME, packed_attention)
    model = AutoModelForCausalLM.from_pretrained(path, attn_implementation=ATTENTION_NAME, dtype=torch.float32)
    model.config.use_cache = False
    # Parameters only: rotary frequencies stay float32.
    for parameter in model.parameters():
        parameter.data = parameter.data.to(dtype)
    return model


# -- plain PyTorch ------------------------------------------------------------------------------------------------


def plain_run(case: Case) -> tuple[dict[str, list[float]], dict[str, Tensor]]:
    """Train in one process without any engine; in float32 sample by sample and without packing."""
    dtype = getattr(torch, case.dtype)
    if dtype == torch.float32:
        from transformers import AutoModelForCausalLM

        model = AutoModelForCausalLM.from_pretrained(case.model_path, dtype=torch.float32)
        reference = AutoModelForCausalLM.from_pretrained(case.model_path, dtype=torch.float32)
    else:
        model, reference = load_model(case.model_path, dtype), load_model(case.model_path, dtype)
    source = dict(load_model(case.model_path, torch.float32).named_parameters())
    masters = {name: nn.Parameter(source[name].detach().clone()) for name, _ in model.named_parameters()}
    optimizer = adamw(case, list(masters.values()))
    curves: dict[str, list[float]] = {"loss": [], "norm": []}
    for step in range(STEPS):
        for name, parameter in model.named_parameters():
            parameter.data.copy_(masters[name].data)
            masters[name].grad = torch.zeros_like(masters[name])
        total = 0.0
        for loss in plain_losses(case, model, reference, step):
            loss.backward()
            total += float(loss.detach())
            for name, parameter in model.named_parameters():
                if parameter.grad is not None:
                    masters[name].grad += parameter.grad.float()
                    parameter.grad = None
        for master in masters.values():
            master.grad /= denominator_of(step)
        norm = nn.utils.clip_grad_norm_(masters.values(), learner_config(case).max_grad_norm)
        optimizer.param_groups[0]["lr"] = lr_of(step)
        optimizer.step()
        curves["loss"].append(total / denominator_of(step))
        curves["norm"].append(float(norm))
    return curves, {name: master.detach().to(dtype) for name, master in masters.items()}


def make_policy(causal_lm: Any) -> Any:
    """Return a `Policy` whose LM head works in chunks of five tokens."""
    from r1ray.algorithms import logprobs
    from r1ray.learner.policy import Policy

    logprobs.CPU_CHUNK_ELEMENTS = logprobs.CUDA_CHUNK_ELEMENTS = 5 * causal_lm.config.vocab_size
    return Policy(causal_lm)


def plain_losses(case: Case, model: Any, reference: Any, step: int) -> Any:
    """Yield the losses of the step, one backward pass each."""
    if case.dtype == "float32":
        for s in samples_of(step):
            ids = torch.tensor([[*s.prompt_ids, *s.completion_ids]])
            targets = torch.tensor(s.completion_ids)[:, None]

            def logprobs(m: Any, s: Any = s, ids: Tensor = ids, targets: Tensor = targets) -> Tensor:
                logits = m(ids).logits[0, len(s.prompt_ids) - 1 : -1] / TEMPERATURE
                return logits.log_softmax(-1).gather(1, targets)[:, 0]

            with torch.no_grad():
                old = logprobs(reference)
            yield token_losses(logprobs(model), old, torch.tensor(s.advantage)).sum()
        return
    policy, frozen = make_policy(model), make_policy(reference)
    for share in micro_batches_of(step, case.processes):
        for batch in share:
            yield policy_loss(policy, frozen, batch)


def policy_loss(policy: Any, reference: Any, batch: Any) -> Tensor:
    """Return a micro-batch's unnormalised sum."""
    logprobs, _ = policy(batch, TEMPERATURE)
    with torch.no_grad():
        ref_logprobs, _ = reference(batch, TEMPERATURE)
    return token_losses(logprobs, ref_logprobs, batch.advantages[batch.sample_index]).sum()


def adamw(case: Case, parameters: list[Any]) -> torch.optim.Optimizer:
    """Return the optimizer that the engine has to equal."""
    config = learner_config(case)
    betas = (config.adam_beta1, config.adam_beta2)
    return torch.optim.AdamW(
        parameters, lr=config.lr, betas=betas, eps=config.adam_eps, weight_decay=config.weight_decay
    )


def learner_config(case: Case) -> Any:
    """Return the configuration with this contract's optimizer."""
    from r1ray.config.schema import LearnerConfig

    return LearnerConfig(**{"lr": 1e-3, "adam_eps": 1e-6, "weight_decay": 0.05, "max_grad_norm": 1.0, **case.learner})


# -- the engine ---------------------------------------------------------------------------------------------------


class Probe:
    """An engine under the contract, in one process of a group."""

    def __init__(self, case: Case) -> None:
        from r1ray.config.schema import AlgorithmConfig
        from r1ray.learner.protocol import LearnerOptions

        self.case, self.device = case, torch.device(case.device)
        self.rank, self.processes = dist.get_rank(), dist.get_world_size()
        options = LearnerOptions(
            model_path=case.model_path,
            revision=None,
            trust_remote_code=False,
            dtype=case.dtype,
            device=case.device,
            rank=self.rank,
            world_size=self.processes,
            master_address="",
            master_port=0,
            temperature=TEMPERATURE,
            max_completion_tokens=16,
            total_steps=STEPS,
            seed=0,
            cores=(),
            timeout_s=DEADLINE_S,
            sync_backend="gloo",
            learner=learner_config(case),
            algorithm=AlgorithmConfig(kl_coef=KL_COEF),
        )
        causal_lm = load_model(case.model_path, torch.float32)
        if options.learner.activation_checkpointing == "full":
            causal_lm.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})
        policy = make_policy(causal_lm).train()
        reference = make_policy(load_model(case.model_path, getattr(torch, case.dtype)))
        module, name = case.engine.split(":")
        self.engine = getattr(import_module(module), name)(options, policy, reference.requires_grad_(False).eval())

    def batches(self, step: int) -> list[Any]:
        """Return this process's micro-batches."""
        return [batch.to(self.device) for batch in micro_batches_of(step, self.processes)[self.rank]]

    def train(self, step: int, *, factor: float = 1.0, denominator: float | None = None) -> tuple[float, float]:
        """Take one step; returns loss and gradient norm, the same everywhere."""
        denominator = denominator_of(step) if denominator is None else denominator
        batches = self.batches(step)
        total = torch.zeros((), dtype=torch.float64)
        for i, batch in enumerate(batches):
            loss = policy_loss(self.engine.policy, self.engine.reference, batch) * factor
            total += float(loss.detach())
            self.engine.backward(loss, last=i == len(batches) - 1)
        dist.all_reduce(total)
        norm = self.engine.step(denominator=denominator, lr=lr_of(step))
        return float(total) / (denominator or 1.0), norm

    def weights(self) -> dict[str, Tensor]:
        """Return the whole policy by Hugging Face names."""
        return {name: tensor.detach().cpu().clone() for name, tensor in self.engine.weights()}

    def logprobs(self, module: Any, step: int) -> list[float]:
        """Return what `module` says without gradients."""
        with torch.no_grad():
            found = [module(batch, TEMPERATURE)[0] for batch in self.batches(step)]
        self.engine.release()
        return torch.cat(found).tolist()


def pair(case: Case, directory: Path, store: dist.Store) -> dict[str, Any]:
    """Train on two processes, save, go on; resume from that, and from what the single process saved."""
    threads = torch.get_num_threads()
    probe = Probe(case)
    found: dict[str, Any] = {"losses": [], "norms": [], "threads_kept": threads == torch.get_num_threads()}
    for step in range(STEPS):
        if step == SAVED_AFTER:
            found |= undisturbed(probe)
            probe.engine.save(str(directory / "of_pair"))
            if probe.rank == 0:
                store.set("pair saved", "")
            saved = probe.weights()
        loss, norm = probe.train(step)
        found["losses"].append(loss)
        found["norms"].append(norm)
        if step == SAVED_AFTER + RESUMED - 1:
            at_resumed = probe.weights()
    final = probe.weights()
    found["specs"] = [[s.name, str(s.dtype), list(s.shape)] for s in probe.engine.weights().specs()]
    if probe.rank == 0:
        torch.save(final, directory / "pair.pt")

    again = Probe(case)
    again.engine.load(str(directory / "of_pair"))
    found["restored_exactly"] = same(again.weights(), saved)
    resumed = [again.train(SAVED_AFTER + i) for i in range(RESUMED)]
    then = slice(SAVED_AFTER, SAVED_AFTER + RESUMED)
    found["resumed_exactly"] = resumed == list(zip(found["losses"][then], found["norms"][then], strict=True))
    found["resumed_weights_exactly"] = same(again.weights(), at_resumed)

    found["missing_checkpoint"] = error_of(again, directory / "nothing")
    store.wait(["single saved"], timedelta(seconds=DEADLINE_S))
    again.engine.load(str(directory / "of_single"))
    found["restored_from_single"] = same(again.weights(), saved)
    found["resumed_from_single"] = [again.train(SAVED_AFTER + i) for i in range(RESUMED)]

    # After training on, the reference still is the old policy; refreshed, it is the new one.
    found["reference_before"] = difference(again, 0)
    again.engine.refresh_reference()
    found["reference_after"] = difference(again, 0)
    found["reference_again"] = [again.train(0)[0], difference(again, 0)]
    return found


def undisturbed(probe: Probe) -> dict[str, Any]:
    """Steps that must change nothing, and forward passes without gradients."""
    before = probe.weights()
    first = probe.logprobs(probe.engine.policy, 3)
    found: dict[str, Any] = {"empty_step_norm": probe.engine.step(denominator=1.0, lr=1.0)}
    found["infinite_norm"] = repr(probe.train(0, factor=math.inf)[1])
    found["nothing_trained_norm"] = probe.train(1, factor=0.0, denominator=0.0)[1]
    found["nothing_changed"] = same(probe.weights(), before) and probe.logprobs(probe.engine.policy, 3) == first
    return found


def single(case: Case, directory: Path, store: dist.Store) -> dict[str, Any]:
    """Train in plain PyTorch; then alone on the engine from what the pair saved."""
    curves, weights = plain_run(case)
    torch.save(weights, directory / "plain.pt")
    probe = Probe(case)
    store.wait(["pair saved"], timedelta(seconds=DEADLINE_S))
    probe.engine.load(str(directory / "of_pair"))
    probe.engine.save(str(directory / "of_single"))
    store.set("single saved", "")
    return {"plain": curves, "resumed_from_pair": [probe.train(SAVED_AFTER + i) for i in range(RESUMED)]}


def same(one: dict[str, Tensor], other: dict[str, Tensor]) -> bool:
    """Say whether both have the same names and bits."""
    return one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)


def difference(probe: Probe, step: int) -> float:
    """Return the largest difference between the log-probabilities of policy and reference."""
    pairs = zip(*(probe.logprobs(m, step) for m in (probe.engine.policy, probe.engine.reference)), strict=True)
    largest = torch.tensor(max(abs(a - b) for a, b in pairs))
    dist.all_reduce(largest, op=dist.ReduceOp.MAX)
    return float(largest)


def error_of(probe: Probe, directory: Path) -> str:
    """Return what loading from there says."""
    from r1ray.errors import CheckpointError

    try:
        probe.engine.load(str(directory))
    except CheckpointError as error:
        return str(error)
    return ""


def main() -> None:
    """Be one of the three processes."""
    directory, name = Path(sys.argv[1]), sys.argv[2]
    cases = {key: Case(**value) for key, value in json.loads((directory / "cases.json").read_text()).items()}
    torch.set_num_threads(1)
    alone = name == "single"
    dist.init_process_group(
        "cpu:gloo,cuda:nccl" if torch.cuda.is_available() else "gloo",
        init_method=f"file://{directory / ('group_single' if alone else 'group_pair')}",
        rank=0 if alone else int(name[-1]),
        world_size=1 if alone else next(iter(cases.values())).processes,
        timeout=timedelta(seconds=DEADLINE_S),
    )
    for key, case in cases.items():
        folder = directory / key
        signals = dist.PrefixStore(key, dist.FileStore(str(directory / "signals"), -1))
        found = single(case, folder, signals) if alone else pair(case, folder, signals)
        (folder / f"{name}.json").write_text(json.dumps(found))
    dist.barrier()
    dist.destroy_process_group()


if __name__ == "__main__":
    main()
