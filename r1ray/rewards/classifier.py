"""A sequence-classification model: token ids in, logits out. Knows nothing of rewards."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from r1ray.errors import ConfigError, ModelError
from r1ray.models.locate import locate_model
from r1ray.rewards.turn_encoder import TurnEncoder

# Tokenizers without a limit say so with a huge number.
_NO_LIMIT = 10**9


class Classifier:
    """Model and tokenizer on one device.

    Attributes:
        max_tokens: the longest input.
        num_labels: classes.
        label: the one that is scored.
    """

    def __init__(
        self,
        path: str,
        *,
        revision: str | None,
        label: int | str | None,
        max_tokens: int | None,
        micro_batch_tokens: int,
        dtype: str,
        device: str | None,
        trust_remote_code: bool,
    ) -> None:
        """Load; the arguments are options of the reward.

        Raises:
            ModelError: no such checkpoint, one without a trained classification head, or without a tokenizer.
            ConfigError: options that do not fit it.
        """
        import torch

        located = locate_model(path, revision)
        common = {"revision": revision, "trust_remote_code": trust_remote_code}
        model = _load_model(path, located, dtype=dtype, **common)
        self._tokenizer = _load_tokenizer(path, located, **common)
        self._device = device or ("cuda" if torch.cuda.is_available() else "cpu")
        self._model = model.to(self._device).eval()
        self._micro_batch_tokens = micro_batch_tokens
        self.num_labels = int(model.config.num_labels)
        self.label = _label_index(path, label, model.config)
        positions = getattr(model.config, "max_position_embeddings", None) or _NO_LIMIT
        limit = min(positions, self._tokenizer.model_max_length)
        if max_tokens is not None and max_tokens > positions:
            raise ConfigError(
                f"reward reward_model: option max_tokens must be at most {positions}, the positions of {path!r}, "
                f"got {max_tokens}"
            )
        self.max_tokens = max_tokens or limit
        pad = self._tokenizer.pad_token_id
        self._pad_id = next(
            (i for i in (pad, model.config.pad_token_id, self._tokenizer.eos_token_id) if i is not None), 0
        )
        # Decoders find the last token, whose state is scored, as the last that is not padding.
        model.config.pad_token_id = self._pad_id
        self.encode = TurnEncoder(self._tokenizer)

    def logits(self, inputs: Sequence[Sequence[int]]) -> list[list[float]]:
        """Score inputs, in order.

        Args:
            inputs: [N] lists of token ids, each at most `max_tokens` long.

        Returns:
            [N, num_labels].

        Raises:
            ModelError: a forward pass does not fit the device.
        """
        rows: list[list[float]] = [[]] * len(inputs)
        for batch in _batches([len(ids) for ids in inputs], self._micro_batch_tokens):
            for i, row in zip(batch, self._forward([inputs[i] for i in batch]), strict=True):
                rows[i] = row
        return rows

    def _forward(self, inputs: Sequence[Sequence[int]]) -> list[list[float]]:
        import torch

        width = max(1, *(len(ids) for ids in inputs)) if inputs else 1
        # Padding stands on the right whatever the tokenizer prefers: positions then need no correction.
        ids = torch.full((len(inputs), width), self._pad_id)
        mask = torch.zeros((len(inputs), width), dtype=torch.long)
        for row, tokens in enumerate(inputs):
            ids[row, : len(tokens)] = torch.tensor(list(tokens), dtype=torch.long)
            mask[row, : len(tokens)] = 1
        try:
            with torch.inference_mode():
                output = self._model(input_ids=ids.to(self._device), attention_mask=mask.to(self._device))
        except torch.OutOfMemoryError as error:
            raise ModelError(
                f"reward reward_model: {len(inputs)} inputs of up to {width} tokens do not fit {self._device}: lower "
                "option micro_batch_tokens or max_tokens"
            ) from error
        logits: list[list[float]] = output.logits.float().cpu().tolist()
        return logits


def _batches(lengths: Sequence[int], micro_batch_tokens: int) -> list[list[int]]:
    """Group indices by length, longest first, each group's padded size within the budget (one input always fits)."""
    batches: list[list[int]] = []
    for i in sorted(range(len(lengths)), key=lambda i: -lengths[i]):
        if batches and lengths[batches[-1][0]] * (len(batches[-1]) + 1) <= micro_batch_tokens:
            batches[-1].append(i)
        else:
            batches.append([i])
    return batches


def _load_model(path: str, located: str, *, dtype: str, **common: Any) -> Any:
    from transformers import AutoModelForSequenceClassification

    try:
        model, loaded = AutoModelForSequenceClassification.from_pretrained(
            located, dtype=dtype, output_loading_info=True, **common
        )
    except (OSError, ValueError) as error:
        reason = " ".join(str(error).split())[:300]
        raise ModelError(
            f"reward reward_model: option model must be a sequence-classification checkpoint, got {path!r}: {reason}"
        ) from error
    wrong = sorted({*loaded["missing_keys"], *(entry[0] for entry in loaded["mismatched_keys"])})
    if wrong:
        raise ModelError(
            f"reward reward_model: {path!r} has no weights for {', '.join(wrong[:3])}, which would be random: option "
            "model must be a checkpoint trained as a sequence classifier, not a language model"
        )
    return model


def _load_tokenizer(path: str, located: str, **common: Any) -> Any:
    from transformers import AutoTokenizer

    try:
        return AutoTokenizer.from_pretrained(located, **common)
    except (OSError, ValueError) as error:
        raise ModelError(
            f"reward reward_model: cannot load the tokenizer of {path!r} ({' '.join(str(error).split())[:300]}): save "
            "it beside the model"
        ) from error


def _label_index(path: str, label: int | str | None, config: Any) -> int:
    names: dict[int, str] = {int(i): str(name) for i, name in config.id2label.items()}
    if label is None and len(names) == 1:
        return 0
    for i, name in names.items():
        if label in (i, name):
            return i
    known = ", ".join(f"{i} ({name})" for i, name in sorted(names.items()))
    raise ConfigError(f"reward reward_model: option label must name a class of {path!r}, {known}: got {label!r}")
