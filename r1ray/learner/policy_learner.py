"""One learner process: optimizer steps on a sharded model, whatever shards it and whatever it learns.

`accumulate` adds up unnormalised gradient sums, so micro-batches can come while others still generate;
`finish_step` divides by the denominator of the whole batch. Hence the update does not depend on how the
batch was split, packed or spread.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import torch
import torch.distributed as dist

from r1ray.algorithms.schedule import learning_rate
from r1ray.learner.build import build_engine, join_process_group
from r1ray.learner.micro_batch import MicroBatch, collate
from r1ray.learner.packing import Bin, Bundle, Cost
from r1ray.learner.protocol import LearnerOptions
from r1ray.learner.sums import StepSums, packing_metrics
from r1ray.learner.task import Versions, make_task
from r1ray.models.flops import peak_flops_per_s
from r1ray.models.tokenizer import load_tokenizer
from r1ray.types import TrainingSample
from r1ray.weights.protocol import WeightSender, WeightSyncClient
from r1ray.weights.senders import open_sender

MODEL_FOLDER = "model"


class PolicyLearner:
    """One of `world_size` processes that hold the sharded policy; see `learner/protocol.py`."""

    def __init__(self, options: LearnerOptions, note: Callable[[str], None] = lambda what: None) -> None:
        """Join the group and load the model; `ModelError` or `LearnerError` say what failed.

        Args:
            options: of this process.
            note: told what this process is about to do with the others, so that a hang or a death has a name.
        """
        self.options = options
        self.device = torch.device(options.device)
        self._note = note
        note("joining the process group")
        join_process_group(options)
        torch.manual_seed(options.seed)
        note("loading and sharding the model")
        self.engine, self.flops = build_engine(options)
        self.task = make_task(
            options.task,
            options.algorithm,
            temperature=options.temperature,
            max_completion_tokens=options.max_completion_tokens,
        )
        self.policy_version = 0
        self.sums = self._new_sums()
        self.sender: WeightSender | None = None
        self._varlen = options.device == "cuda" and options.dtype != "float32"
        note("ready")

    @property
    def cost(self) -> Cost:
        """What a forward pass costs; nearly every token needs logits."""
        return Cost(per_token=self.flops.per_token + self.flops.per_logit, per_pair=self.flops.per_pair)

    @property
    def peak_flops_per_s(self) -> float | None:
        """Dense bfloat16 peak of this process's GPU; None on a CPU or an unknown GPU."""
        return peak_flops_per_s(torch.cuda.get_device_name()) if self.device.type == "cuda" else None

    # -- one step ---------------------------------------------------------------------------------------------

    @torch.no_grad()
    def logprobs(self, micro_batches: Sequence[Bin], *, reference: bool = False) -> list[list[tuple[float, ...]]]:
        """Return log-probabilities of the policy or the reference, per micro-batch and sample: [C] each."""
        policy = self.engine.reference if reference else self.engine.policy
        assert policy is not None, "there is a reference only where a KL is taken"
        results = []
        for number, bundles in enumerate(micro_batches, 1):
            self._note(f"logprobs: forward of micro-batch {number}/{len(micro_batches)}")
            batch = self._collate(bundles)
            logprobs, _ = policy(batch, self.options.temperature)
            results.append([tuple(part.tolist()) for part in logprobs.split(batch.lengths.tolist())] if bundles else [])
        self.engine.release()
        return results

    def accumulate(self, micro_batches: Sequence[Bin], *, rollout_version: int, last: bool = False) -> None:
        """Add the gradient of these micro-batches to the step under way."""
        versions = Versions(rollout=rollout_version, policy=self.policy_version)
        for number, bundles in enumerate(micro_batches, 1):
            where = f"of micro-batch {number}/{len(micro_batches)}"
            self._note(f"accumulate: forward {where}")
            batch = self._collate(bundles)
            loss, sums = self.task.loss(self.engine, batch, versions)
            self.sums.add(sums)
            self.sums.add_packing(bundles, batch, flops=self._model_flops(batch, bundles))
            self._note(f"accumulate: backward {where}")
            self.engine.backward(loss, last=last and number == len(micro_batches))

    def _new_sums(self) -> StepSums:
        config = self.options.learner
        return StepSums(capacity_tokens=config.micro_batch_tokens * config.context_parallel)

    def _collate(self, bundles: Sequence[Bundle]) -> MicroBatch:
        batch = collate(bundles, varlen=self._varlen)
        if self.engine.context is not None:
            batch = batch.cut(rank=self.engine.context.rank(), size=self.engine.context.size())
        return batch.to(self.device)

    def _model_flops(self, batch: MicroBatch, bundles: Sequence[Bundle]) -> float:
        """Count a forward and a backward pass of the policy, and the forward pass of the reference.

        A backward pass is two products, by the input and by the weights; frozen weights under adapters need the first.
        """
        passes = (2 if self.options.learner.lora.rank else 3) + (
            self.engine.reference is not None and batch.ref_logprobs is None
        )
        return passes * self.flops.forward(
            tokens=batch.input_ids.numel(), logits=len(batch.targets), pairs=sum(b.pairs for b in bundles)
        )

    def finish_step(self, micro_batches: Sequence[Bin] = (), *, rollout_version: int = 0) -> dict[str, float]:
        """Add the last micro-batches, divide by the global denominator, clip, update; return metrics."""
        self.accumulate(micro_batches, rollout_version=rollout_version, last=True)
        config = self.options.learner
        self._note("finish_step: all-reduce of the step's sums")
        sums = self.sums.reduced(self.device, num_copies=self.engine.num_copies)
        denominator = self.task.denominator(sums)
        lr = learning_rate(
            self.policy_version,
            peak=config.lr,
            warmup_steps=config.warmup_steps,
            total_steps=self.options.total_steps,
            schedule=config.lr_schedule,
        )
        self._note("finish_step: gradient norm and update")
        grad_norm = self.engine.step(denominator=denominator, lr=lr)
        metrics = packing_metrics(sums) | self.task.metrics(sums)
        self.sums = self._new_sums()
        self.policy_version += 1
        every = self.options.algorithm.reference_refresh_steps
        if self.engine.reference is not None and every and self.policy_version % every == 0:
            self.refresh_reference()
        return {**metrics, "train/grad_norm": grad_norm, "train/lr": lr}

    @torch.no_grad()
    def measure(self, micro_batches: Sequence[Bin]) -> dict[str, float]:
        """Return the sums over samples that nothing is learned from, for `Task.metrics`."""
        found = self._new_sums()
        for number, bundles in enumerate(micro_batches, 1):
            self._note(f"measure: forward of micro-batch {number}/{len(micro_batches)}")
            _, sums = self.task.loss(self.engine, self._collate(bundles), Versions(0, self.policy_version))
            found.add(sums)
        self.engine.release()
        return dict(found.reduced(self.device, num_copies=self.engine.num_copies))

    def refresh_reference(self) -> None:
        """Make the reference model equal to the policy."""
        self._note("refreshing the reference")
        self.engine.refresh_reference()

    @torch.no_grad()
    def score(self, token_ids: Sequence[int]) -> list[float]:
        """Return [T-1] log-probabilities of `token_ids[1:]` at temperature 1."""
        self._note("score")
        rest = tuple(token_ids[1:])
        sample = TrainingSample(
            prompt_ids=(token_ids[0],),
            completion_ids=rest,
            rollout_logprobs=(0.0,) * len(rest),
            policy_versions=(0,) * len(rest),
            advantage=0.0,
        )
        logprobs, _ = self.engine.policy(self._collate([Bundle([sample])]), 1.0)
        self.engine.release()
        return [float(v) for v in logprobs]

    # -- weights and checkpoints ------------------------------------------------------------------------------

    def connect_rollout(self, client: WeightSyncClient) -> None:
        """Open the weight-transfer channel to the rollout workers behind `client`; rank 0 sends."""
        self._note("connecting to the rollout workers")
        if self.sender is not None:
            self.sender.close()
        self.sender = open_sender(
            self.options.sync_backend,
            self.engine.weights(),
            client,
            rank=self.options.rank,
            address=self.options.master_address,
            timeout_s=self.options.timeout_s,
        )
        self.sender.connect()

    def send_weights(self) -> int:
        """Send the current weights to every rollout engine and return the version they are stamped with."""
        assert self.sender is not None, "connect_rollout comes first"
        self._note(f"send_weights: version {self.policy_version}")
        self.sender.send(self.policy_version)
        return self.policy_version

    def save(self, directory: str) -> None:
        """Write sharded training state and, from rank 0, the model in Hugging Face layout."""
        self._note("save: sharded state")
        self.engine.save(directory)
        self._note("save: export of the model")
        self._export(Path(directory) / MODEL_FOLDER)

    def _export(self, folder: Path) -> None:
        exported = {}
        for name, weight in self.engine.weights():
            if self.options.rank == 0:
                exported[name] = weight.cpu()
        if self.options.rank == 0:
            options = self.options
            self.engine.policy.causal_lm.save_pretrained(folder, state_dict=exported)
            tokenizer = load_tokenizer(options.model_path, options.revision, options.trust_remote_code)
            if options.chat_template is not None:
                tokenizer.chat_template = options.chat_template
            tokenizer.save_pretrained(folder)
        dist.barrier()

    def load(self, directory: str, policy_version: int) -> None:
        """Restore what `save` wrote; world size may differ."""
        self._note("load: sharded state")
        self.engine.load(directory)
        self.policy_version = policy_version

    def shutdown(self) -> None:
        """Leave the process groups."""
        if self.sender is not None:
            self.sender.close()
        if dist.is_initialized():
            dist.destroy_process_group()
