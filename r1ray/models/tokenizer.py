"""Loads the tokenizer of a located model.

Stands between `locate_model` and everything that turns text into ids. Does not template.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from r1ray.errors import ModelError

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


def load_tokenizer(
    model_path: str, revision: str | None = None, trust_remote_code: bool = False
) -> PreTrainedTokenizerBase:
    """Load a tokenizer and make sure that it can end and pad a sequence.

    Args:
        model_path: as `locate_model` returned it.
        revision: branch, tag or commit; hub ids only.
        trust_remote_code: run tokenizer code that comes with the model.

    Returns:
        The tokenizer; where it has no padding token, EOS pads.

    Raises:
        ModelError: it cannot be loaded, or has no EOS token.
    """
    from transformers import AutoTokenizer

    try:
        tokenizer = AutoTokenizer.from_pretrained(model_path, revision=revision, trust_remote_code=trust_remote_code)
    # transformers raises any of these for missing files, an unknown class, code that is not trusted.
    except (OSError, ValueError, KeyError, ImportError) as error:
        raise ModelError(f"tokenizer of {model_path!r} cannot be loaded: {error}") from error
    if tokenizer.eos_token_id is None:
        raise ModelError(f"tokenizer of {model_path!r} has no EOS token: without it no completion can end")
    if tokenizer.pad_token_id is None:
        tokenizer.pad_token = tokenizer.eos_token
    return tokenizer
