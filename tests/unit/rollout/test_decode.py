from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import pytest
import torch
from torch import Tensor
from transformers import AutoModelForCausalLM, Qwen2ForCausalLM

from r1ray.errors import ModelError, RolloutError
from r1ray.rollout.cascade import CASCADE_ATTENTION
from r1ray.rollout.decode import Decoder
from r1ray.rollout.sampling import sample_tokens
from r1ray.rollout.sequence import DecodingSequence
from r1ray.types import GroupRequest

EOS_ID = 256
MakeRequest = Callable[..., GroupRequest]
PROMPTS = [list(range(3, 40)), [7], [9, 8, 7, 6, 5], list(range(100, 170)), [7, 7, 7]]


@pytest.fixture
def make_decoder(model_path: Path) -> Callable[..., Decoder]:
    model = AutoModelForCausalLM.from_pretrained(
        model_path, dtype=torch.float32, attn_implementation=CASCADE_ATTENTION
    ).eval()

    def make(max_num_seqs: int = 4, eos_token_ids: Sequence[int] = (EOS_ID,)) -> Decoder:
        return Decoder(
            model, max_num_seqs=max_num_seqs, eos_token_ids=eos_token_ids, is_stopped=lambda token_ids, stop: False
        )

    return make


@pytest.fixture
def requests(make_request: MakeRequest) -> list[GroupRequest]:
    """Ragged prompts and ragged limits; group 3 is wider than four slots, group 0 and 5 share their prompt."""
    seeds = [range(i * 10, i * 10 + size) for i, size in enumerate((3, 2, 1, 6, 3, 2))]
    return [
        make_request(
            str(i), PROMPTS[i % 5], seeds[i], max_completion_tokens=limit, temperature=temperature, top_p=top_p
        )
        for i, (limit, temperature, top_p) in enumerate(
            [(40, 1.0, 1.0), (3, 0.7, 1.0), (50, 1.0, 0.9), (9, 1.3, 1.0), (1, 1.0, 1.0), (35, 0.0, 1.0)]
        )
    ]


def decode_all(decoder: Decoder, requests: Sequence[GroupRequest]) -> list[DecodingSequence]:
    decoder.add(requests)
    finished = []
    while decoder.has_work:
        finished.extend(decoder.step())
    return finished


def by_sample(sequences: Sequence[DecodingSequence]) -> dict[tuple[str, int], DecodingSequence]:
    return {(s.request.group_id, s.sample_index): s for s in sequences}


def last_logits(model: Qwen2ForCausalLM, token_ids: Sequence[int]) -> Tensor:
    with torch.no_grad():
        return model(torch.tensor([token_ids]), use_cache=False).logits[:, -1]


def reference_decode(model: Qwen2ForCausalLM, request: GroupRequest, seed: int) -> tuple[list[int], list[float]]:
    """Decode one completion with a full forward pass per token."""
    completion_ids: list[int] = []
    logprobs = []
    while len(completion_ids) < request.sampling.max_completion_tokens and EOS_ID not in completion_ids:
        token, logprob = sample_tokens(
            last_logits(model, [*request.prompt.prompt_ids, *completion_ids]),
            temperatures=torch.tensor([request.sampling.temperature]),
            top_ps=torch.tensor([request.sampling.top_p]),
            seeds=torch.tensor([seed]),
            positions=torch.tensor([len(completion_ids)]),
        )
        completion_ids.append(int(token))
        logprobs.append(float(logprob))
    return completion_ids, logprobs


@pytest.mark.parametrize("max_num_seqs", [1, 4, 64])
def test_batched_decoding_matches_one_full_forward_pass_per_token(
    make_decoder: Callable[..., Decoder],
    reference_model: Qwen2ForCausalLM,
    requests: list[GroupRequest],
    max_num_seqs: int,
) -> None:
    finished = by_sample(decode_all(make_decoder(max_num_seqs), requests))
    assert len(finished) == 17
    for request in requests:
        for sample_index, seed in zip(request.sample_indices, request.seeds, strict=True):
            sequence = finished[request.group_id, sample_index]
            token_ids, logprobs = reference_decode(reference_model, request, seed)
            assert sequence.completion_ids == token_ids
            torch.testing.assert_close(torch.tensor(sequence.logprobs), torch.tensor(logprobs), atol=1e-5, rtol=0)
            assert sequence.finish_reason == ("stop" if token_ids[-1] == EOS_ID else "length")


def test_same_requests_give_the_same_bits(make_decoder: Callable[..., Decoder], requests: list[GroupRequest]) -> None:
    first, second = (decode_all(make_decoder(), requests) for _ in range(2))
    assert [(s.completion_ids, s.logprobs, s.finish_reason) for s in first] == [
        (s.completion_ids, s.logprobs, s.finish_reason) for s in second
    ]


def test_logprobs_are_the_log_softmax_of_the_full_sequence(
    make_decoder: Callable[..., Decoder], reference_model: Qwen2ForCausalLM, make_request: MakeRequest
) -> None:
    [sequence] = decode_all(make_decoder(eos_token_ids=()), [make_request("0", PROMPTS[0], [3], temperature=0.8)])
    token_ids = [*PROMPTS[0], *sequence.completion_ids]
    with torch.no_grad():
        logprobs = (reference_model(torch.tensor([token_ids])).logits[0] / 0.8).log_softmax(-1)
    expected = [logprobs[len(PROMPTS[0]) - 1 + i, token].item() for i, token in enumerate(sequence.completion_ids)]
    assert sequence.logprobs == pytest.approx(expected, abs=1e-5)


def test_greedy_matches_generate(
    make_decoder: Callable[..., Decoder], reference_model: Qwen2ForCausalLM, make_request: MakeRequest
) -> None:
    requests = [
        make_request(str(i), ids, [0], temperature=0.0, max_completion_tokens=20) for i, ids in enumerate(PROMPTS)
    ]
    finished = by_sample(decode_all(make_decoder(), requests))
    for i, prompt_ids in enumerate(PROMPTS):
        inputs = torch.tensor([prompt_ids])
        expected = reference_model.generate(
            inputs, attention_mask=torch.ones_like(inputs), do_sample=False, max_new_tokens=20, pad_token_id=0
        )
        assert finished[str(i), 0].completion_ids == expected[0, len(prompt_ids) :].tolist()


def test_completion_ends_at_any_of_the_eos_tokens_and_includes_it(
    make_decoder: Callable[..., Decoder], make_request: MakeRequest
) -> None:
    requests = [make_request("0", PROMPTS[2], range(16), max_completion_tokens=60, temperature=1.5)]
    eos_token_ids = set(range(0, 257, 10))
    for sequence in decode_all(make_decoder(eos_token_ids=tuple(eos_token_ids)), requests):
        if sequence.finish_reason == "stop":
            assert [i for i, token in enumerate(sequence.completion_ids) if token in eos_token_ids] == [
                len(sequence.completion_ids) - 1
            ]
        else:
            assert len(sequence.completion_ids) == 60


def test_abort_returns_what_was_decoded_and_leaves_the_others_as_they_were(
    make_decoder: Callable[..., Decoder], requests: list[GroupRequest]
) -> None:
    undisturbed = by_sample(decode_all(make_decoder(), requests))
    decoder = make_decoder()
    decoder.add(requests)
    finished = [sequence for _ in range(5) for sequence in decoder.step()]
    aborted = decoder.abort({"0", "5"})
    assert {s.request.group_id for s in aborted} == {"0", "5"}
    for sequence in aborted:
        assert sequence.finish_reason == "abort"
        whole = undisturbed[sequence.request.group_id, sequence.sample_index].completion_ids
        assert sequence.completion_ids == whole[: len(sequence.completion_ids)]
    while decoder.has_work:
        finished.extend(decoder.step())
    rest = by_sample(finished)
    assert len(rest) + len(aborted) == 17
    for key, sequence in rest.items():
        assert sequence.completion_ids == undisturbed[key].completion_ids
    assert decoder.abort(None) == []


def test_sequences_keep_their_keys_across_a_weight_update_and_new_ones_use_new_weights(
    make_decoder: Callable[..., Decoder], reference_model: Qwen2ForCausalLM, make_request: MakeRequest
) -> None:
    request = make_request("0", PROMPTS[0], [1, 2], max_completion_tokens=6)
    decoder = make_decoder(max_num_seqs=1, eos_token_ids=())
    decoder.add([request])
    decoder.step()
    decoder.step()
    for model in (decoder._model, reference_model):
        with torch.no_grad():
            model.model.layers[0].mlp.up_proj.weight.mul_(1.5)
    decoder.set_policy_version(7)
    finished = []
    while decoder.has_work:
        finished.extend(decoder.step())
    assert finished[0].policy_versions == [0, 0, 7, 7, 7, 7]
    assert finished[1].policy_versions == [7] * 6
    token_ids, logprobs = reference_decode(reference_model, request, 2)
    assert finished[1].completion_ids == token_ids
    assert finished[1].logprobs == pytest.approx(logprobs, abs=1e-5)


def test_score_gives_the_logprobs_of_a_full_forward_pass(
    make_decoder: Callable[..., Decoder], reference_model: Qwen2ForCausalLM
) -> None:
    token_ids = PROMPTS[3]
    with torch.no_grad():
        logprobs = reference_model(torch.tensor([token_ids])).logits[0].log_softmax(-1)
    expected = [logprobs[i, token].item() for i, token in enumerate(token_ids[1:])]
    assert make_decoder().score(token_ids) == pytest.approx(expected, abs=1e-5)
    assert make_decoder().score([5]) == []


def test_stores_are_freed_when_nothing_is_left(
    make_decoder: Callable[..., Decoder], requests: list[GroupRequest]
) -> None:
    decoder = make_decoder()
    decode_all(decoder, requests)
    assert decoder._prompt_store._layers == {}
    assert decoder._completion_store._layers == {}
    assert decoder._current_prompts == {}


def test_weights_that_are_not_finite_are_an_error(
    make_decoder: Callable[..., Decoder], make_request: MakeRequest
) -> None:
    decoder = make_decoder()
    with torch.no_grad():
        decoder._model.model.norm.weight.fill_(torch.nan)
    decoder.add([make_request("0", [1, 2], [0])])
    with pytest.raises(RolloutError, match=r"policy version 0 .* not finite"):
        decoder.step()


def test_attention_with_soft_caps_is_refused(make_decoder: Callable[..., Decoder]) -> None:
    from r1ray.rollout.cascade import CascadeBatch, cascade_attention

    states = torch.zeros(1, 1, 1, 8)
    with pytest.raises(ModelError, match=r"use rollout\.engine=vllm"):
        cascade_attention(
            torch.nn.Module(), states, states, states, None, cascade=CascadeBatch(None, [(0, 1)]), softcap=30.0
        )
