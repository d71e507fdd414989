"""The reward model: a sequence-classification checkpoint scores completions. Does not train it.

    texts --tokenize, sort by length--> padded batches within a token budget --forward--> one score each

Runs in an inference worker; torch and transformers are imported and weights loaded there, at `start()` or the first
completion, never where a config is only checked.

Source: reward models for helpfulness and harmlessness, arXiv:2501.12948, section 2.3.4 (v2: 3.1): helpfulness is
scored on the summary alone, harmlessness on the whole completion.
"""

from __future__ import annotations

import math
import threading
from collections.abc import Sequence
from concurrent.futures import Future
from typing import Any

from r1ray.errors import ConfigError
from r1ray.rewards.classifier import Classifier
from r1ray.rewards.protocol import Lane, RewardResult
from r1ray.rewards.scopes import summary
from r1ray.types import Completion, Prompt, Verdict

_SCOPES = ("summary", "response")
_TRANSFORMS = ("none", "sigmoid", "softmax")
_DTYPES = ("auto", "float32", "bfloat16", "float16")
_TOO_LONG = ("truncate", "error")

# transformers imports its parts when they are asked for, and two threads that ask at once meet half-made modules.
_LOADING = threading.Lock()


class RewardModelReward:
    """The model's score of question and completion: any number without a transform, in [0, 1] with one.

    value = transform((logit - mean) / std)
    """

    lane = Lane.INFERENCE

    def __init__(
        self,
        *,
        model: str,
        revision: str | None = None,
        scope: str = "summary",
        label: int | str | None = None,
        transform: str = "none",
        mean: float = 0.0,
        std: float = 1.0,
        max_tokens: int | None = None,
        too_long: str = "truncate",
        micro_batch_tokens: int = 16384,
        dtype: str = "auto",
        device: str | None = None,
        trust_remote_code: bool = False,
    ) -> None:
        """Choose model and text; loads nothing.

        Args:
            model: directory or hub id of a sequence-classification checkpoint.
            revision: branch, tag or commit; hub ids only.
            scope: `summary`: what follows the thinking (helpfulness; an unfinished chain has an empty summary);
                `response`: all of the completion (harmlessness).
            label: number or name of the class to score, for models with several.
            transform: `none`, `sigmoid`, or `softmax` over the classes of a model with several.
            mean: subtracted from the logits.
            std: divides them.
            max_tokens: of the model's input; None: as many as the model has positions.
            too_long: `truncate` drops the beginning of longer inputs, `error` does not grade them.
            micro_batch_tokens: of one forward pass, padding included.
            dtype: `auto` as in the checkpoint, or float32, bfloat16, float16.
            device: None: the GPU where there is one.
            trust_remote_code: run code that comes with the checkpoint.

        Raises:
            ConfigError: an option out of its range.
        """
        for name, value, allowed in (
            ("scope", scope, _SCOPES),
            ("transform", transform, _TRANSFORMS),
            ("dtype", dtype, _DTYPES),
            ("too_long", too_long, _TOO_LONG),
        ):
            if value not in allowed:
                raise ConfigError(
                    f"reward reward_model: option {name} must be one of {', '.join(allowed)}, got {value!r}"
                )
        for name, number in (
            ("std", std),
            ("micro_batch_tokens", micro_batch_tokens),
            ("max_tokens", 1 if max_tokens is None else max_tokens),
        ):
            if not (number > 0 and math.isfinite(number)):
                raise ConfigError(f"reward reward_model: option {name} must be positive and finite, got {number}")
        if not math.isfinite(mean):
            raise ConfigError(f"reward reward_model: option mean must be finite, got {mean}")
        if transform == "softmax" and (mean, std) != (0.0, 1.0):
            raise ConfigError(
                "reward reward_model: options mean and std do not go with transform softmax: leave them out"
            )
        self._scope = scope
        self._transform = transform
        self._mean = mean
        self._std = std
        self._too_long = too_long
        self._options: dict[str, Any] = {
            "revision": revision,
            "label": label,
            "max_tokens": max_tokens,
            "micro_batch_tokens": micro_batch_tokens,
            "dtype": dtype,
            "device": device,
            "trust_remote_code": trust_remote_code,
        }
        self._model = model
        self._classifier: Future[Classifier] | None = None

    def start(self) -> None:
        """Begin to load the model."""
        if self._classifier is None:
            self._classifier = Future()
            threading.Thread(target=self._load, args=(self._classifier,), name="reward model", daemon=True).start()

    def check(self) -> None:
        """Load the model, to learn before a run whether it can score.

        Raises:
            ModelError: there is no such checkpoint, or it has no classification head.
            ConfigError: `label` or `transform` do not fit it.
        """
        self._loaded()

    def score(self, items: Sequence[tuple[Prompt, Completion]]) -> list[RewardResult]:
        """Score completions.

        Raises:
            ModelError: the model cannot be loaded, or a forward pass does not fit the device.
            ConfigError: options do not fit the model.
        """
        classifier = self._loaded()
        pairs = [(prompt.question, self._text(completion)) for prompt, completion in items]
        inputs = [classifier.encode(question, text) for question, text in pairs]
        lengths = [len(ids) for ids in inputs]
        kept = [i for i, n in enumerate(lengths) if n <= classifier.max_tokens or self._too_long == "truncate"]
        logits = classifier.logits([inputs[i][-classifier.max_tokens :] for i in kept])
        results = [_too_long(length, classifier.max_tokens) for length in lengths]
        for i, row in zip(kept, logits, strict=True):
            cut = f", cut to {classifier.max_tokens}" if lengths[i] > classifier.max_tokens else ""
            results[i] = RewardResult(self._value(row, classifier.label), detail=f"{lengths[i]} tokens{cut}")
        return results

    def _text(self, completion: Completion) -> str:
        return summary(completion.text) if self._scope == "summary" else completion.text

    def _value(self, row: Sequence[float], label: int) -> float:
        if self._transform == "softmax":
            highest = max(row)
            return math.exp(row[label] - highest) / math.fsum(math.exp(logit - highest) for logit in row)
        scaled = (row[label] - self._mean) / self._std
        # Through tanh, which does not overflow.
        return scaled if self._transform == "none" else (1 + math.tanh(scaled / 2)) / 2

    def _loaded(self) -> Classifier:
        self.start()
        assert self._classifier is not None, "start() has set it"
        return self._classifier.result()

    def _load(self, future: Future[Classifier]) -> None:
        try:
            with _LOADING:
                classifier = Classifier(self._model, **self._options)
            if self._transform == "softmax" and classifier.num_labels == 1:
                raise ConfigError(
                    f"reward reward_model: option transform=softmax needs several classes, {self._model!r} has one: "
                    "use sigmoid"
                )
        except BaseException as error:  # handed over to the thread that waits
            future.set_exception(error)
        else:
            future.set_result(classifier)


def _too_long(length: int, limit: int) -> RewardResult:
    detail = f"reward reward_model: {length} tokens are more than the {limit} allowed: raise option max_tokens"
    return RewardResult(0.0, Verdict.ERROR, f"{detail}, or set too_long=truncate")
