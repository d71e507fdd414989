"""What may not go together, said before anything heavy starts.

Every check names the key, what is allowed, what came, and why or what to do.
"""

from __future__ import annotations

from r1ray.config.schema import Config, LearnerConfig, RewardsConfig
from r1ray.config.validate_stages import check_data, check_fits, check_selection, check_supervised, require
from r1ray.errors import ConfigError


def validate(config: Config) -> None:
    """Check values and combinations.

    Raises:
        ConfigError: the first thing found wrong.
    """
    _check_ranges(config)
    _check_sampling(config)
    _check_learner(config)
    if config.stage == "grpo":
        _check_objective(config)
        _check_reference(config)
    check_supervised(config)
    check_selection(config)
    _check_placement(config)
    check_data("data.train", config.data.train)
    check_data("data.eval", config.data.eval)
    _check_rewards(config.rewards)


def _check_ranges(config: Config) -> None:
    r, t, lr = config.rollout, config.train, config.learner
    require(t.steps >= 1, "train.steps", ">= 1", t.steps, "a run has at least one optimizer step")
    require(t.max_staleness_steps >= 0, "train.max_staleness_steps", ">= 0", t.max_staleness_steps, "0 is on-policy")
    for key, value in {
        "train.num_prompts_per_step": t.num_prompts_per_step,
        "train.steps_per_rollout": t.steps_per_rollout,
        "rollout.num_workers": r.num_workers,
        "rollout.tensor_parallel": r.tensor_parallel,
        "rollout.max_completion_tokens": r.max_completion_tokens,
        "rollout.max_num_seqs": r.max_num_seqs,
        "rewards.num_workers": config.rewards.num_workers,
        "rewards.num_judge_workers": config.rewards.num_judge_workers,
        "rewards.num_inference_workers": config.rewards.num_inference_workers,
        "sandbox.tmp_bytes": config.sandbox.tmp_bytes,
        "learner.num_processes": lr.num_processes,
        "learner.micro_batch_tokens": lr.micro_batch_tokens,
        "data.max_prompt_tokens": config.data.max_prompt_tokens,
        "eval.samples_per_prompt": config.eval.samples_per_prompt,
        "checkpoint.keep": config.checkpoint.keep,
    }.items():
        require(value >= 1, key, ">= 1", value, "it is a count")
    for key, value in {
        "rollout.max_restarts": r.max_restarts,
        "rewards.max_restarts": config.rewards.max_restarts,
        "rollout.cpus_per_worker": r.cpus_per_worker,
        "learner.cpus_per_process": lr.cpus_per_process,
        "learner.max_restarts": lr.max_restarts,
        "learner.warmup_steps": lr.warmup_steps,
        "eval.every_steps": config.eval.every_steps,
        "checkpoint.every_steps": config.checkpoint.every_steps,
        "algorithm.reference_refresh_steps": config.algorithm.reference_refresh_steps,
    }.items():
        require(value >= 0, key, ">= 0", value, "0 switches it off or leaves the choice to r1ray")
    for key, seconds in {
        "rollout.group_timeout_s": r.group_timeout_s,
        "rollout.start_timeout_s": r.start_timeout_s,
        "rewards.time_limit_s": config.rewards.time_limit_s,
        "rewards.batch_timeout_s": config.rewards.batch_timeout_s,
        "learner.start_timeout_s": lr.start_timeout_s,
        "learner.step_timeout_s": lr.step_timeout_s,
        "sync.timeout_s": config.sync.timeout_s,
        "cluster.start_timeout_s": config.cluster.start_timeout_s,
    }.items():
        require(seconds > 0, key, "> 0", seconds, "nothing waits without a deadline")


def _check_objective(config: Config) -> None:
    a = config.algorithm
    require(a.clip_low > 0, "algorithm.clip_low", "> 0", a.clip_low, "the ratio is clipped below at 1 - clip_low")
    require(a.clip_high > 0, "algorithm.clip_high", "> 0", a.clip_high, "the ratio is clipped above at 1 + clip_high")
    require(a.kl_coef >= 0, "algorithm.kl_coef", ">= 0", a.kl_coef, "0 leaves the reference model out")
    if a.clip_delta is not None:
        require(
            a.clip_delta > 1 + a.clip_high,
            "algorithm.clip_delta",
            f"> 1 + algorithm.clip_high = {1 + a.clip_high:g}",
            a.clip_delta,
            "it caps the ratio of tokens with a negative advantage above the ordinary clip",
        )
        require(
            a.policy_loss == "clipped",
            "algorithm.policy_loss",
            "clipped with algorithm.clip_delta",
            a.policy_loss,
            "no other loss has a two-sided clip; set algorithm.clip_delta=null",
        )
    require(
        a.importance_cap > a.importance_floor >= 0,
        "algorithm.importance_cap",
        f"> algorithm.importance_floor = {a.importance_floor:g} >= 0",
        a.importance_cap,
        "they bound a ratio",
    )
    require(
        a.importance_correction == "none" or a.importance_floor <= 1 <= a.importance_cap <= 1e6,
        "algorithm.importance_floor, algorithm.importance_cap",
        "around 1 and <= 1e6",
        f"{a.importance_floor:g}, {a.importance_cap:g}",
        "a token that learner and rollout engine find equally likely has the weight 1",
    )
    for key, temperature in {"positive": a.gate_temperature_positive, "negative": a.gate_temperature_negative}.items():
        require(temperature > 0, f"algorithm.gate_temperature_{key}", "> 0", temperature, "sapo divides by it")
    require(
        a.advantage != "pass_at_k" or 1 <= a.pass_at_k < config.rollout.group_size,
        "algorithm.pass_at_k",
        f">= 1 and < rollout.group_size = {config.rollout.group_size}",
        a.pass_at_k,
        "a group is compared by the best of k of its completions",
    )
    require(
        a.kl_in == "loss" or a.kl_coef == 0 or a.advantage not in ("per_reward_zscore", "pass_at_k"),
        "algorithm.kl_in",
        f"loss with algorithm.advantage={a.advantage}",
        a.kl_in,
        "it does not compare sums of rewards, off which a KL could be taken",
    )
    require(
        a.policy_loss != "reinforce" or config.train.steps_per_rollout == 1,
        "train.steps_per_rollout",
        "1 with algorithm.policy_loss=reinforce",
        config.train.steps_per_rollout,
        "it has no ratio, so it is right on policy only",
    )
    r = config.rollout
    require(r.group_size >= 2, "rollout.group_size", ">= 2", r.group_size, "GRPO compares completions within a group")
    require(
        r.temperature > 0, "rollout.temperature", "> 0", r.temperature, "a greedy group has no variance to learn from"
    )
    require(
        r.top_p == 1,
        "rollout.top_p",
        "1 in training",
        r.top_p,
        "GRPO needs log-probabilities of the whole distribution; truncate in eval.top_p",
    )
    check_fits(
        config,
        config.data.max_prompt_tokens + r.max_completion_tokens,
        "data.max_prompt_tokens + rollout.max_completion_tokens",
    )


def _check_reference(config: Config) -> None:
    steps = config.algorithm.reference_refresh_steps
    require(
        config.learner.lora.rank == 0 or config.algorithm.kl_coef == 0 or steps == 0,
        "algorithm.reference_refresh_steps",
        "0 with learner.lora.rank > 0",
        steps,
        "the reference is the base model under the adapters and cannot follow the policy",
    )


def _check_sampling(config: Config) -> None:
    r, e = config.rollout, config.eval
    require(r.temperature >= 0, "rollout.temperature", ">= 0", r.temperature, "0 is greedy")
    require(0 < r.top_p <= 1, "rollout.top_p", "in (0, 1]", r.top_p, "it is a probability mass")
    require(0 < e.top_p <= 1, "eval.top_p", "in (0, 1]", e.top_p, "it is a probability mass")
    require(e.temperature >= 0, "eval.temperature", ">= 0", e.temperature, "0 is greedy")


def _check_learner(config: Config) -> None:
    lr = config.learner
    require(lr.lr > 0, "learner.lr", "> 0", lr.lr, "with 0 nothing is learned")
    require(lr.max_grad_norm > 0, "learner.max_grad_norm", "> 0", lr.max_grad_norm, "a huge value switches it off")
    _check_parallelism(lr)


def _check_parallelism(lr: LearnerConfig) -> None:
    require(lr.zero_stage in (1, 2, 3), "learner.zero_stage", "1, 2 or 3", lr.zero_stage, "ZeRO has these stages")
    for key, value in {"tensor_parallel": lr.tensor_parallel, "context_parallel": lr.context_parallel}.items():
        require(value >= 1, f"learner.{key}", ">= 1", value, "1 splits nothing")
        require(
            value == 1 or lr.backend == "fsdp2",
            f"learner.{key}",
            "1 with learner.backend=deepspeed",
            value,
            "layers and sequences are split on FSDP2's device mesh",
        )
    split = lr.tensor_parallel * lr.context_parallel
    require(
        lr.num_processes % split == 0,
        "learner.num_processes",
        f"a multiple of learner.tensor_parallel * learner.context_parallel = {split}",
        lr.num_processes,
        "so many processes work on the same samples",
    )
    require(
        not (lr.compile and lr.activation_checkpointing == "selective"),
        "learner.activation_checkpointing",
        "none or full with learner.compile",
        lr.activation_checkpointing,
        "which operations are kept cannot be told inside of a compiled block",
    )
    require(lr.lora.rank >= 0, "learner.lora.rank", ">= 0", lr.lora.rank, "0 trains every parameter")
    require(
        lr.lora.rank == 0 or lr.tensor_parallel == 1,
        "learner.tensor_parallel",
        "1 with learner.lora.rank > 0",
        lr.tensor_parallel,
        "adapters and split layers do not go together",
    )
    require(
        not (lr.compile and lr.tensor_parallel > 1),
        "learner.compile",
        "false with learner.tensor_parallel > 1",
        lr.compile,
        "split layers are not compiled",
    )
    require(lr.lora.alpha > 0, "learner.lora.alpha", "> 0", lr.lora.alpha, "it scales the adapters")
    require(
        lr.lora.rank == 0 or lr.backend == "fsdp2",
        "learner.lora.rank",
        "0 with learner.backend=deepspeed",
        lr.lora.rank,
        "adapters are trained on FSDP2",
    )


def _check_placement(config: Config) -> None:
    c, r = config.cluster, config.rollout
    cpu = c.device == "cpu"
    require(
        not (cpu and config.sync.backend in ("nccl", "ipc")),
        "sync.backend",
        "auto or gloo with cluster.device=cpu",
        config.sync.backend,
        "nccl and ipc move weights between GPUs",
    )
    require(
        not (cpu and config.learner.fused_kernels),
        "learner.fused_kernels",
        "false with cluster.device=cpu",
        config.learner.fused_kernels,
        "they are Triton kernels",
    )
    require(
        not (cpu and c.placement == "colocated"),
        "cluster.placement",
        "auto or separate with cluster.device=cpu",
        c.placement,
        "colocated shares GPUs",
    )
    require(
        not (r.engine == "transformers" and r.tensor_parallel > 1),
        "rollout.tensor_parallel",
        "1 with rollout.engine=transformers",
        r.tensor_parallel,
        "only vllm splits a model over several GPUs",
    )
    require(
        not (c.placement == "colocated" and config.train.max_staleness_steps > 0),
        "train.max_staleness_steps",
        "0 with cluster.placement=colocated",
        config.train.max_staleness_steps,
        "colocated rollout and learning take turns on the same GPUs",
    )


def _check_rewards(rewards: RewardsConfig) -> None:
    gpus = rewards.gpus_per_inference_worker
    require(gpus >= 0, "rewards.gpus_per_inference_worker", ">= 0", gpus, "0 runs reward models on the CPU")
    cpus = rewards.cpus_per_inference_worker
    require(cpus >= 1, "rewards.cpus_per_inference_worker", ">= 1", cpus, "reward models compute on them")
    if not rewards.terms:
        raise ConfigError("rewards.terms must name at least one reward, got none: e.g. [{name: accuracy}]")
    for term in rewards.terms:
        key = f"rewards.terms: from_step of {term.name!r}"
        require(term.from_step >= 0, key, ">= 0", term.from_step, "steps count from 0")
        require(
            term.until_step is None or term.until_step > term.from_step,
            f"rewards.terms: until_step of {term.name!r}",
            f"> from_step = {term.from_step} or null",
            term.until_step,
            "the term would never apply",
        )
