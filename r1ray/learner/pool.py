"""The learner processes as Ray actors, driven as one.

Calls are sent to all processes at once and come back as `Pending`, so that the driver keeps grading while a step runs.
Samples are packed here as they come; what fills a micro-batch on every process goes out at once, the rest with
`finish_step`. The state of a learner is spread over all processes: if one dies, all start again from a checkpoint.
"""

from __future__ import annotations

import uuid
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import ray
from ray.exceptions import GetTimeoutError, RayError

from r1ray.errors import LearnerDied, LearnerError
from r1ray.learner.packing import Bin, Cost, Packer
from r1ray.learner.pending import Pending
from r1ray.learner.protocol import LearnerOptions
from r1ray.learner.sync_client import RayWeightSyncClient
from r1ray.learner.worker import LearnerFacts, LearnerWorker, forget_note, read_note
from r1ray.types import TrainingBatch

SHUTDOWN_TIMEOUT_S = 20.0


class LearnerPool:
    """All learner processes; used from the driver's thread only."""

    def __init__(self, options: LearnerOptions, placements: Sequence[tuple[dict[str, Any], tuple[int, ...]]]) -> None:
        """Create the actors; `placements` gives Ray actor options and cores per process."""
        self._options = options
        self._placements = placements
        self._name = f"learner/{uuid.uuid4().hex}"
        self._actors: list[Any] = []
        self._lives: Pending | None = None
        self._starting: Pending | None = None
        self._facts = LearnerFacts(Cost(), None)
        self._packer = self._new_packer()
        self._accumulating: list[Pending] = []
        self._rollout_version = 0

    # -- life -------------------------------------------------------------------------------------------------

    def start(self) -> None:
        """Let every process begin to load the model; `wait_started` ends it."""
        actor = ray.remote(concurrency_groups={"watch": 1})(LearnerWorker)
        self._actors = [
            actor.options(max_restarts=0, **resources).remote(self._note_key(rank))
            for rank, (resources, _) in enumerate(self._placements)
        ]
        lives = tuple(each.live.remote() for each in self._actors)
        self._lives = Pending(lives, "a pause between calls", 0.0, self._last_note)
        timeout_s = self._options.learner.start_timeout_s
        try:
            address, port = ray.get(self._actors[0].address.remote(), timeout=timeout_s)
        except (GetTimeoutError, RayError) as error:
            raise LearnerError(
                f"learner 0 did not start within learner.start_timeout_s={timeout_s:g}: {error}"
            ) from error
        refs = tuple(
            actor.start.remote(replace(self._options, rank=rank, cores=cores, master_address=address, master_port=port))
            for rank, (actor, (_, cores)) in enumerate(zip(self._actors, self._placements, strict=True))
        )
        self._starting = Pending(refs, "start", timeout_s, self._last_note)

    def wait_started(self) -> None:
        """Wait until every process has loaded the model.

        Raises:
            ModelError, LearnerError: one could not.
        """
        assert self._starting is not None
        self._facts = self._starting.results()[0]
        self._packer = self._new_packer()

    def restart(self) -> None:
        """Replace every process; the new ones hold the initial model until `load`."""
        self._kill()
        self._accumulating = []
        self.start()
        self.wait_started()

    def shutdown(self) -> None:
        """Stop every process; never raises."""
        refs = [actor.call.remote("shutdown") for actor in self._actors]
        if refs:
            ray.wait(refs, num_returns=len(refs), timeout=SHUTDOWN_TIMEOUT_S)
        self._kill()

    def _kill(self) -> None:
        self._lives = None
        for rank, actor in enumerate(self._actors):
            ray.kill(actor, no_restart=True)
            forget_note(self._note_key(rank))
        self._actors = []

    def _note_key(self, rank: int) -> str:
        return f"{self._name}/{rank}"

    def _last_note(self, rank: int) -> str:
        return read_note(self._note_key(rank))

    # -- steps ------------------------------------------------------------------------------------------------

    @property
    def _processes_per_share(self) -> int:
        """Processes that work on the same samples: they split layers and sequences."""
        config = self._options.learner
        return config.tensor_parallel * config.context_parallel

    def _new_packer(self) -> Packer:
        config = self._options.learner
        return Packer(
            # A sequence is split over the processes of its context.
            micro_batch_tokens=config.micro_batch_tokens * config.context_parallel,
            num_ranks=len(self._placements) // self._processes_per_share,
            cost=self._facts.cost,
            together=self._options.task == "pairwise",
        )

    def _shares(self, rows: Sequence[Sequence[Bin]]) -> list[list[Bin]]:
        """Turn rows of bins into each process's micro-batches."""
        each = self._processes_per_share
        return [[row[rank // each] for row in rows] for rank in range(len(self._actors))]

    def _call(self, method: str, *args: Any, **kwargs: Any) -> Pending:
        return self._call_each(method, [args] * len(self._actors), **kwargs)

    def _call_each(self, method: str, arguments: Sequence[tuple[Any, ...]], **kwargs: Any) -> Pending:
        refs = tuple(
            actor.call.remote(method, *given, **kwargs) for actor, given in zip(self._actors, arguments, strict=True)
        )
        return Pending(refs, method, self._options.learner.step_timeout_s, self._last_note)

    def accumulate(self, batch: TrainingBatch, *, rollout_version: int) -> None:
        """Take samples of the step under way and send out what is full.

        Errors of the processes surface in `finish_step`, the death of one at once.
        """
        self._rollout_version = rollout_version
        rows = self._packer.add(batch.samples)
        if not rows:
            return
        arguments = [(share,) for share in self._shares(rows)]
        self._accumulating.append(self._call_each("accumulate", arguments, rollout_version=rollout_version))

    def finish_step(self) -> Pending:
        """Send the rest and start the optimizer step; the result holds metrics per process, all alike."""
        requires, self._accumulating = tuple(self._accumulating), []
        arguments = [(share,) for share in self._shares(self._packer.finish())]
        pending = self._call_each("finish_step", arguments, rollout_version=self._rollout_version)
        return replace(pending, requires=requires)

    def check(self) -> None:
        """Raise if a process is gone or `accumulate` has failed, without waiting for anything.

        Raises:
            LearnerDied, LearnerError: see `Pending.results`.
        """
        for pending in (*self._accumulating, *([self._lives] if self._lives else [])):
            if pending.failed:
                pending.results()

    def with_rates(self, metrics: dict[str, float]) -> dict[str, float]:
        """Turn counts of tokens and operations into rates, by the time the slowest process computed."""
        refs = [actor.take_busy_s.remote() for actor in self._actors]
        try:
            busy_s = float(max(ray.get(refs, timeout=self._options.learner.step_timeout_s)))
        except (GetTimeoutError, RayError) as error:
            raise LearnerDied(f"a learner process died after a step: {error}") from error
        counts = dict(metrics)
        tokens, flops = counts.pop("learner/tokens", 0.0), counts.get("learner/model_flops", 0.0)
        peak = self._facts.peak_flops_per_s
        counts["learner/tokens_per_s"] = tokens / busy_s if busy_s else 0.0
        counts["learner/flops_per_s"] = flops / busy_s if busy_s else 0.0
        if peak is not None:
            counts["learner/mfu"] = counts["learner/flops_per_s"] / (peak * len(self._actors))
        return counts

    def logprobs(self, batch: TrainingBatch, *, reference: bool = False) -> dict[int, tuple[float, ...]]:
        """Return log-probabilities [C] of every sample, by its position in `batch`."""
        position = {id(sample): i for i, sample in enumerate(batch.samples)}
        packer = self._new_packer()
        shares = self._shares([*packer.add(batch.samples), *packer.finish()])
        arguments = [(share,) for share in shares]
        results = self._call_each("logprobs", arguments, reference=reference).results()
        found: dict[int, tuple[float, ...]] = {}
        for share, result in zip(shares, results, strict=True):
            for bundles, values in zip(share, result, strict=True):
                samples = [s for bundle in bundles for s in bundle.samples]
                found |= {position[id(s)]: v for s, v in zip(samples, values, strict=True)}
        return found

    def measure(self, batch: TrainingBatch) -> dict[str, float]:
        """Return the sums over samples that nothing is learned from, for `Task.metrics`."""
        packer = self._new_packer()
        shares = self._shares([*packer.add(batch.samples), *packer.finish()])
        sums: dict[str, float] = self._call_each("measure", [(share,) for share in shares]).results()[0]
        return sums

    def score(self, token_ids: Sequence[int]) -> list[float]:
        """Return the policy's log-probabilities of `token_ids[1:]`."""
        scores: list[float] = self._call("score", tuple(token_ids)).results()[0]
        return scores

    # -- weights and checkpoints ------------------------------------------------------------------------------

    def connect_rollout(self, workers: Sequence[Any], *, ranks_per_worker: int, timeout_s: float) -> None:
        """Open the weight-transfer channel to these rollout workers."""
        client = RayWeightSyncClient(workers, [ranks_per_worker] * len(workers), timeout_s)
        replace(self._call("connect_rollout", client), deadline_s=timeout_s).results()

    def send_weights(self) -> Pending:
        """Start sending the current weights to every rollout worker; the result is their version, per process."""
        return self._call("send_weights")

    def save(self, directory: str) -> Pending:
        """Start writing a checkpoint."""
        return self._call("save", directory)

    def load(self, directory: str, policy_version: int) -> None:
        """Restore a checkpoint."""
        self._call("load", directory, policy_version).results()
