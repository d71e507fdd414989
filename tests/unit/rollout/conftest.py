"""A small random model with a byte-level tokenizer, saved as users have theirs, and requests for it."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import pytest
import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast, Qwen2Config, Qwen2ForCausalLM

from r1ray.rollout.protocol import EngineOptions
from r1ray.types import GroupRequest, Prompt, SamplingParams

EOS_ID = 256


@pytest.fixture(scope="session")
def make_request() -> Callable[..., GroupRequest]:
    def make(group_id: str, prompt_ids: Sequence[int], seeds: Sequence[int], **sampling: object) -> GroupRequest:
        params = SamplingParams(**{"temperature": 1.0, "top_p": 1.0, "max_completion_tokens": 12, **sampling})
        prompt = Prompt(f"prompt/{group_id}", "", "", tuple(prompt_ids))
        return GroupRequest(group_id, prompt, params, tuple(seeds), tuple(range(len(seeds))))

    return make


@pytest.fixture(scope="session")
def model_path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("model")
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    tokenizer = Tokenizer(models.BPE({symbol: index for index, symbol in enumerate(alphabet)}, []))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    tokenizer.decoder = decoders.ByteLevel()
    fast = PreTrainedTokenizerFast(tokenizer_object=tokenizer, eos_token="<eos>")
    assert fast.eos_token_id == EOS_ID
    fast.save_pretrained(path)
    torch.manual_seed(0)
    # Large initial weights, so that the random model's distributions are far from uniform; two key heads for four
    # query heads, so that sharing heads is tested too.
    config = Qwen2Config(
        vocab_size=EOS_ID + 1,
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        initializer_range=0.2,
        tie_word_embeddings=True,
        bos_token_id=None,
        eos_token_id=EOS_ID,
    )
    Qwen2ForCausalLM(config).save_pretrained(path)
    return path


@pytest.fixture
def reference_model(model_path: Path) -> Qwen2ForCausalLM:
    return Qwen2ForCausalLM.from_pretrained(model_path, dtype=torch.float32).eval()


@pytest.fixture
def options(model_path: Path) -> EngineOptions:
    return EngineOptions(
        model_path=str(model_path),
        revision=None,
        dtype="float32",
        device="cpu",
        sync_backend="gloo",
        max_model_tokens=128,
        max_num_seqs=4,
        tensor_parallel=1,
        gpu_memory_fraction=0.5,
        cpu_kv_cache_bytes=0,
        enforce_eager=True,
        trust_remote_code=False,
        cores=(),
        worker="rollout-0",
    )


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    """Keep small models on one thread: on a busy machine, threads that wait for each other are slow."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)
