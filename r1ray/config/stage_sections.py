"""The sections of single stages: supervised training, reward models, selection of samples, preferences by a judge."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

from r1ray.config.data_sections import DatasetConfig


@dataclass
class SftConfig:
    """Supervised fine-tuning on completions: cold start, the SFT stage, distillation."""

    epochs: int = 2
    # Samples per optimizer step.
    batch_size: int = 64
    # Longer samples (prompt and completion) are counted and skipped.
    max_tokens: int = 32768
    # Share of the samples that is held out for `eval/loss`; 0: none.
    held_out_fraction: float = 0.02


@dataclass
class RewardModelConfig:
    """Training of a reward model: the policy architecture with a scalar head."""

    # pairwise: the chosen completion scores above the rejected one (Bradley-Terry); pointwise: labels good or bad.
    kind: Literal["pairwise", "pointwise"] = "pairwise"
    # What is scored: the summary after the thinking, or the whole response. The reward's option `scope` must say the
    # same.
    scope: Literal["summary", "response"] = "summary"
    epochs: int = 1
    # Pairs, or labelled completions, per optimizer step.
    batch_size: int = 256
    # Longer samples (question and completion) are counted and skipped.
    max_tokens: int = 8192
    # Share of the prompts that is held out for `eval/accuracy`.
    held_out_fraction: float = 0.05


@dataclass
class EndpointConfig:
    """An OpenAI-compatible endpoint: vLLM's own server, or a hosted model."""

    # Root of the API, e.g. http://judge:8000/v1; null: there is none.
    base_url: str | None = None
    model: str = ""
    # Environment variable that holds the key; null: the endpoint asks for none.
    api_key_env: str | None = None
    temperature: float = 0.0
    max_tokens: int = 2048
    timeout_s: float = 120.0
    max_retries: int = 5
    requests_per_minute: float | None = None
    max_concurrency: int = 32


@dataclass
class SelectionConfig:
    """Which sampled completions are kept, by `rejection` and `cold_start`."""

    # Prompts to sample from at most, in a shuffled order; null: all of data.train.
    max_prompts: int | None = None
    # Completions sampled per prompt, and kept at most.
    samples_per_prompt: int = 4
    max_kept_per_prompt: int = 1
    # Which of the good ones: at random by the run's seed, the shortest, or those with the highest reward.
    choose: Literal["random", "shortest", "best"] = "random"
    # Only completions whose verdict is `correct`; and whose reward is at least this (null: any).
    correct_only: bool = True
    min_reward: float | None = None
    # Share of the chain's words that must be in the prompt's language (0: not checked).
    min_language_consistency: float = 0.9
    # Shortest chain of thought in characters, as lucky guesses teach nothing (0: not checked).
    min_chain_chars: int = 0
    # Longest paragraph of the chain in characters (0: not checked).
    max_paragraph_chars: int = 4000
    # Drop chains of thought that hold code blocks.
    drop_code_blocks: bool = True
    # Largest share of words in repeated 20-grams (1: not checked).
    max_repetition: float = 0.2
    # Only completions in the form of the template that they were sampled with.
    require_format: bool = True
    # Drop what shares an n-gram of words with a question or answer of these datasets (0: not checked).
    decontaminate: list[DatasetConfig] = field(default_factory=list)
    decontaminate_ngram: int = 10
    # Supplied samples (columns question, completion) mixed in, and their share of all samples written.
    general: list[DatasetConfig] = field(default_factory=list)
    general_share: float = 0.25
    # Prompts of one file of candidates.
    prompts_per_shard: int = 256
    # A model that rewrites each kept completion to be readable; one that changes the answer is not used.
    rewrite: EndpointConfig = field(default_factory=lambda: EndpointConfig(max_tokens=32768, timeout_s=1800.0))


@dataclass
class PreferencesConfig:
    """Preference data by an LLM judge, for reward models."""

    # pairwise: two completions of a prompt are compared; pointwise: each is called safe or unsafe.
    kind: Literal["pairwise", "pointwise"] = "pairwise"
    judge: EndpointConfig = field(default_factory=EndpointConfig)
    # Completions sampled per prompt from the model.
    samples_per_prompt: int = 2
    # Pairs made of each prompt's completions at most.
    max_pairs_per_prompt: int = 1
    # Judgements of each pair, half of them with the two swapped; scores are averaged.
    num_judgements: int = 4
    # Pairs whose mean verdict is nearer to a tie are dropped: 2 is much better, 1 better, 0 as good.
    min_margin: float = 1.0
    # Pairs are left out until the mean lengths of chosen and rejected completions differ by at most this share.
    max_length_bias: float = 0.1
    prompts_per_shard: int = 256
