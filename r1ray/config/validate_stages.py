"""What the sections of single stages and of the data may hold; see `validate.py`."""

from __future__ import annotations

from r1ray.config.data_sections import DatasetConfig, SourceConfig
from r1ray.config.schema import Config
from r1ray.config.stage_sections import EndpointConfig, RewardModelConfig, SftConfig
from r1ray.errors import ConfigError


def require(holds: bool, key: str, allowed: str, got: object, why: str) -> None:
    """Raise a `ConfigError` that names key, what is allowed, what came and why, unless it holds."""
    if not holds:
        raise ConfigError(f"{key} must be {allowed}, got {got}: {why}")


def check_fits(config: Config, longest: int, what: str) -> None:
    """Refuse micro-batches into which the longest sample does not fit."""
    lr = config.learner
    fits = lr.micro_batch_tokens * lr.context_parallel >= longest
    require(
        fits,
        "learner.micro_batch_tokens",
        f">= {what} = {longest}"
        + (f" divided by learner.context_parallel = {lr.context_parallel}" if lr.context_parallel > 1 else ""),
        lr.micro_batch_tokens,
        "the longest sample must fit one forward pass",
    )


def check_supervised(config: Config) -> None:
    """Check `sft` and `reward_model`."""
    sections: dict[str, SftConfig | RewardModelConfig] = {"sft": config.sft, "reward_model": config.reward_model}
    for key, section in sections.items():
        for name, value in {
            "epochs": section.epochs,
            "batch_size": section.batch_size,
            "max_tokens": section.max_tokens,
        }.items():
            require(value >= 1, f"{key}.{name}", ">= 1", value, "it is a count")
        fraction = section.held_out_fraction
        require(0 <= fraction < 1, f"{key}.held_out_fraction", "in [0, 1)", fraction, "the rest is trained on")
        if config.stage == key:
            check_fits(config, section.max_tokens, f"{key}.max_tokens")
    require(
        config.stage != "reward_model" or config.learner.lora.rank == 0,
        "learner.lora.rank",
        "0 with stage=reward_model",
        config.learner.lora.rank,
        "the scalar head is trained with the whole model",
    )


def check_selection(config: Config) -> None:
    """Check `selection` and `preferences`."""
    s, p = config.selection, config.preferences
    for key, value in {
        "selection.samples_per_prompt": s.samples_per_prompt,
        "selection.max_kept_per_prompt": s.max_kept_per_prompt,
        "selection.prompts_per_shard": s.prompts_per_shard,
        "preferences.num_judgements": p.num_judgements,
        "preferences.prompts_per_shard": p.prompts_per_shard,
    }.items():
        require(value >= 1, key, ">= 1", value, "it is a count")
    if s.max_prompts is not None:
        require(s.max_prompts >= 1, "selection.max_prompts", ">= 1 or null", s.max_prompts, "it is a count")
    for key, share in {
        "selection.min_language_consistency": s.min_language_consistency,
        "selection.max_repetition": s.max_repetition,
    }.items():
        require(0 <= share <= 1, key, "in [0, 1]", share, "it is a share")
    require(0 <= s.general_share < 1, "selection.general_share", "in [0, 1)", s.general_share, "it is a share")
    require(s.min_chain_chars >= 0, "selection.min_chain_chars", ">= 0", s.min_chain_chars, "0 is no limit")
    require(s.max_paragraph_chars >= 0, "selection.max_paragraph_chars", ">= 0", s.max_paragraph_chars, "0 is no limit")
    require(s.decontaminate_ngram >= 0, "selection.decontaminate_ngram", ">= 0", s.decontaminate_ngram, "0 is never")
    fewest = 2 if p.kind == "pairwise" else 1
    require(
        p.samples_per_prompt >= fewest,
        "preferences.samples_per_prompt",
        f">= {fewest} with preferences.kind={p.kind}",
        p.samples_per_prompt,
        "a pair is two completions of one prompt",
    )
    require(0 <= p.min_margin <= 2, "preferences.min_margin", "in [0, 2]", p.min_margin, "2 is much better")
    require(p.max_length_bias > 0, "preferences.max_length_bias", "> 0", p.max_length_bias, "1 or more never acts")
    require(
        config.stage != "preferences" or p.judge.base_url is not None,
        "preferences.judge.base_url",
        "the root of an OpenAI-compatible API with stage=preferences",
        p.judge.base_url,
        "the judge decides",
    )
    _check_endpoint("preferences.judge", p.judge)
    _check_endpoint("selection.rewrite", s.rewrite)


def _check_endpoint(key: str, endpoint: EndpointConfig) -> None:
    if endpoint.base_url is not None:
        require(bool(endpoint.model), f"{key}.model", "the name of a model there", "nothing", "an endpoint serves many")
    require(endpoint.timeout_s > 0, f"{key}.timeout_s", "> 0", endpoint.timeout_s, "nothing waits without a deadline")
    require(endpoint.max_concurrency >= 1, f"{key}.max_concurrency", ">= 1", endpoint.max_concurrency, "it is a count")
    require(endpoint.max_retries >= 0, f"{key}.max_retries", ">= 0", endpoint.max_retries, "0 asks once")


def check_data(key: str, data: DatasetConfig) -> None:
    """Check a dataset and its parts."""
    for index, part in enumerate(data.parts):
        name = f"{key}.parts[{index}]"
        _check_source(name, part)
        require(part.share > 0, f"{name}.share", "> 0", part.share, "leave the part out instead")
        require(part.from_step >= 0, f"{name}.from_step", ">= 0", part.from_step, "steps count from 0")
        require(
            part.until_step is None or part.until_step > part.from_step,
            f"{name}.until_step",
            f"> from_step = {part.from_step} or null",
            part.until_step,
            "the part would never apply",
        )
    if not data.parts:
        _check_source(key, data)


def _check_source(key: str, data: SourceConfig) -> None:
    if not data.name:
        raise ConfigError(f"{key}.name must name a task, generator, dataset or file, got an empty string")
    if data.source == "reasoning_gym":
        require(data.size is not None, f"{key}.size", "set for reasoning_gym", data.size, "a generator has no end")
    if data.size is not None:
        require(data.size >= 1, f"{key}.size", ">= 1 or null", data.size, "it limits the rows")
