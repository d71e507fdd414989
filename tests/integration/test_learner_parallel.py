"""Tensor and context parallelism and sharded adapters in four gloo processes, each against one process alone.

One start of the processes runs everything (`in_every_process`) and brings back figures; each test judges some.
"""

import multiprocessing
import re
import time
import traceback
import warnings
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist
import torch.distributed.checkpoint as dcp
from torch import Tensor, nn
from torch.distributed.checkpoint.state_dict import (
    StateDictOptions,
    get_model_state_dict,
    get_state_dict,
    set_model_state_dict,
    set_state_dict,
)
from torch.distributed.fsdp import MixedPrecisionPolicy, fully_shard
from torch.distributed.tensor import DTensor
from torch.distributed.tensor.debug import CommDebugMode
from transformers import (
    AttentionInterface,
    LlamaConfig,
    LlamaForCausalLM,
    Olmo2Config,
    Olmo2ForCausalLM,
    Qwen2Config,
    Qwen2ForCausalLM,
    Qwen3Config,
    Qwen3ForCausalLM,
)

from r1ray.config.schema import LoraConfig
from r1ray.errors import ConfigError, ModelError
from r1ray.learner.attention import packed_attention
from r1ray.learner.context import check_heads, context_attention, cut_tokens, gather_tokens, to_heads, to_tokens
from r1ray.learner.lora import MergedWeightSource, adapter_state, adapters_disabled, add_adapters
from r1ray.learner.micro_batch import MicroBatch, collate
from r1ray.learner.packing import Bundle
from r1ray.learner.parallel import (
    Meshes,
    apply_tensor_parallel,
    build_meshes,
    clip_gradients,
    synchronize_gradients,
)
from r1ray.types import TrainingSample

WORLD = 4
DEADLINE_S = 240.0
# Of what is computed in float64; found are 3e-15.
EXACT = 1e-12
KINDS = ("qwen2", "qwen3", "llama")
# (tensor, context, model) of the four processes: several key-value heads each; fewer than processes, twice.
LAYOUTS = ((1, 2, "llama"), (2, 2, "qwen3"), (1, 4, "qwen2"))
SIZES: dict[str, Any] = {
    "vocab_size": 61,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 128,
    # Large enough that attention is far from uniform and its gradients weigh.
    "initializer_range": 0.3,
}


def tiny(kind: str) -> Any:
    """A random model, the same each time; norms and biases are not left at one and zero.

    In float64, so that another order of addition does not hide an error.
    """
    torch.manual_seed(0)
    model: Any
    if kind == "qwen2":
        model = Qwen2ForCausalLM(Qwen2Config(**SIZES, tie_word_embeddings=True))
    elif kind == "qwen3":
        model = Qwen3ForCausalLM(Qwen3Config(**SIZES, head_dim=8, tie_word_embeddings=True))
    else:
        model = LlamaForCausalLM(LlamaConfig(**{**SIZES, "num_key_value_heads": 4}, attention_bias=True, mlp_bias=True))
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "norm" in name or "bias" in name:
                parameter.add_(0.1 * torch.randn_like(parameter))
    model.set_attn_implementation("test_context")
    return model.double()


def attend(module: Any, q: Tensor, k: Tensor, v: Tensor, mask: Any, **kwargs: Any) -> Any:
    group, num_tokens = kwargs.pop("context_group"), kwargs["layout"].tokens
    if group is None:
        return packed_attention(module, q, k, v, mask, **kwargs)
    return context_attention(packed_attention, module, q, k, v, mask, group=group, num_tokens=num_tokens, **kwargs)


class Scorer(nn.Module):
    """A causal LM with its head on the predicted tokens only, as the policy runs it."""

    def __init__(self, causal_lm: Any) -> None:
        super().__init__()
        self.causal_lm = causal_lm

    def forward(self, batch: MicroBatch, group: dist.ProcessGroup | None) -> Tensor:
        rank, size = (0, 1) if group is None else (group.rank(), group.size())
        share = cut_tokens(batch.input_ids, batch.position_ids, batch.predict_from, rank=rank, size=size)
        hidden = self.causal_lm.base_model(
            input_ids=share.input_ids,
            position_ids=share.position_ids,
            layout=batch.layout,
            context_group=group,
            use_cache=False,
        ).last_hidden_state[0]
        scores = self.causal_lm.lm_head(hidden.index_select(0, share.predict_from)).log_softmax(-1)
        logprobs = scores.gather(1, batch.targets[share.chosen][:, None])[:, 0]
        return logprobs if group is None else gather_tokens(logprobs, share.counts, group)[share.restore]


def sharded(causal_lm: Any, meshes: Meshes, **kwargs: Any) -> Scorer:
    scorer = Scorer(causal_lm)
    for layer in causal_lm.model.layers:
        fully_shard(layer, mesh=meshes.shard, **kwargs)
    fully_shard(scorer, mesh=meshes.shard, **kwargs)
    return scorer


def packed(data_rank: int) -> MicroBatch:
    """A batch with two shared prompts and an odd number of tokens, the prompts first and long."""
    generator = torch.Generator().manual_seed(data_rank)

    def ids(count: int) -> tuple[int, ...]:
        return tuple(torch.randint(1, 61, (count,), generator=generator).tolist())

    def sample(prompt: tuple[int, ...], length: int, key: str) -> TrainingSample:
        return TrainingSample(prompt, ids(length), (0.0,) * length, (0,) * length, 1.0, trained=True, prompt_key=key)

    first, second = ids(19), ids(4)
    return collate(
        [
            Bundle([sample(first, 3, "a"), sample(first, 7, "a"), sample(first, 1, "a")]),
            Bundle([sample(second, 6, "b"), sample(second, 2, "b")]),
            Bundle([sample(ids(2), 5, "c")]),
        ]
    )


def loss_of(logprobs: Tensor) -> Tensor:
    weights = torch.linspace(-1.0, 1.0, len(logprobs), dtype=logprobs.dtype)
    return (weights * logprobs + 0.1 * logprobs.square()).sum()


def alone(kind: str, num_data_ranks: int) -> tuple[Scorer, float]:
    """The whole batch in this process; gradients are left in the model."""
    scorer = Scorer(tiny(kind))
    total = 0.0
    for data_rank in range(num_data_ranks):
        loss = loss_of(scorer(packed(data_rank), None))
        loss.backward()
        total += loss.item()
    return scorer, total


def distance(found: list[Tensor], expected: list[Tensor]) -> float:
    """|found - expected| / |expected|, over all of them together."""
    difference = sum(float((f - e).square().sum()) for f, e in zip(found, expected, strict=True))
    return float((difference / sum(float(e.square().sum()) for e in expected)) ** 0.5)


def worst(found: list[Tensor], expected: list[Tensor]) -> float:
    """The largest `distance` of one parameter's gradient."""
    return max(distance([f], [e]) for f, e in zip(found, expected, strict=True))


def full(tensor: Tensor) -> Tensor:
    tensor = tensor.detach()
    return tensor.full_tensor() if isinstance(tensor, DTensor) else tensor


def full_gradients(module: nn.Module) -> list[Tensor]:
    return [full(p.grad) for p in module.parameters() if p.grad is not None]


def check_tensor_parallel(kind: str, folder: Path) -> dict[str, Any]:
    meshes = build_meshes("cpu", WORLD, tensor_parallel=2, context_parallel=1, timeout_s=60)
    assert meshes.tensor is not None
    expected, expected_loss = alone(kind, meshes.num_data_ranks)
    model = tiny(kind)
    partial = apply_tensor_parallel(model, meshes.tensor)
    scorer = sharded(model, meshes)
    with CommDebugMode() as calls:
        loss = loss_of(scorer(packed(meshes.data_rank), None))
        (loss * meshes.shard.size()).backward()
    figures: dict[str, Any] = {"exchanges": calls.get_comm_counts()[torch.ops.c10d_functional.all_reduce]}
    synchronize_gradients(scorer, meshes, partial=partial)
    total = loss.detach().clone()
    dist.all_reduce(total, group=meshes.shard.get_group())
    figures["loss"] = abs(float(total) / expected_loss - 1)
    reference = [p.grad for p in expected.parameters() if p.grad is not None]
    figures["gradient"] = distance(full_gradients(scorer), reference)
    figures["worst"] = worst(full_gradients(scorer), reference)
    figures["names"] = [n for n, _ in scorer.named_parameters()] == [n for n, _ in expected.named_parameters()]
    try:
        torch.nn.utils.clip_grad_norm_(scorer.parameters(), 1.0)
        figures["torch_clips"] = True
    except RuntimeError:
        figures["torch_clips"] = False
    figures["norm"] = clip_gradients(scorer.parameters(), 1.0, meshes=meshes)
    figures["expected_norm"] = float(torch.nn.utils.clip_grad_norm_(expected.parameters(), 1.0))
    figures["clipped"] = distance(full_gradients(scorer), reference)
    # SGD: Adam's first step hides the size of the gradient and magnifies the error of those near zero.
    for module in (scorer, expected):
        torch.optim.SGD(module.parameters(), lr=0.1).step()
    optimizer, reference_optimizer = (
        torch.optim.AdamW(module.parameters(), lr=1e-3, foreach=True, weight_decay=0.1, eps=1e-2)
        for module in (scorer, expected)
    )
    optimizer.step()
    reference_optimizer.step()
    wanted = {name: p.detach() for name, p in expected.named_parameters()}
    values = list(wanted.values())
    figures["step"] = distance([full(p) for p in scorer.parameters()], values)
    copies = [p for p in scorer.parameters() if not isinstance(p, DTensor) or p.device_mesh.ndim == 1]
    figures["copies"] = [full(p) for p in copies]
    exported = get_model_state_dict(model, options=StateDictOptions(full_state_dict=True, cpu_offload=True))
    if dist.get_rank() == 0:
        figures["export"] = max(
            float((exported[name] - value).abs().max()) for name, value in expected.causal_lm.state_dict().items()
        )
    figures |= check_checkpoint(kind, folder, scorer, optimizer, values, reference_optimizer)
    return figures


def check_checkpoint(
    kind: str, folder: Path, scorer: Scorer, optimizer: Any, wanted: list[Tensor], reference_optimizer: Any
) -> dict[str, Any]:
    def state(module: Any, optimizer: Any) -> dict[str, Any]:
        return dict(zip(("model", "optimizer"), get_state_dict(module, optimizer), strict=True))

    def load(module: Any, optimizer: Any) -> float:
        content = state(module, optimizer)
        dcp.load(content, checkpoint_id=str(folder / kind))
        set_state_dict(module, optimizer, model_state_dict=content["model"], optim_state_dict=content["optimizer"])
        return distance([full(p) for p in module.parameters()], wanted)

    dcp.save(state(scorer, optimizer), checkpoint_id=str(folder / kind))
    other = sharded(tiny(kind), build_meshes("cpu", WORLD, tensor_parallel=1, context_parallel=1, timeout_s=60))
    other_optimizer = torch.optim.AdamW(other.parameters())
    figures = {"other_layout": load(other, other_optimizer)}
    with torch.no_grad():
        for parameter in scorer.parameters():
            parameter.zero_()
    figures["same_layout"] = load(scorer, optimizer)
    moments = [reference_optimizer.state[p]["exp_avg"] for p in reference_optimizer.param_groups[0]["params"]]
    found = [full(other_optimizer.state[p]["exp_avg"]) for p in other.parameters()]
    return {**figures, "moments": distance(found, moments)}


def check_context(tensor: int, context: int, kind: str) -> dict[str, Any]:
    meshes = build_meshes("cpu", WORLD, tensor_parallel=tensor, context_parallel=context, timeout_s=60)
    assert meshes.context is not None
    expected, expected_loss = alone(kind, meshes.num_data_ranks)
    model = tiny(kind)
    partial = apply_tensor_parallel(model, meshes.tensor) if meshes.tensor is not None else ()
    model.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})
    scorer = sharded(model.train(), meshes)
    loss = loss_of(scorer(packed(meshes.data_rank), meshes.context))
    (loss * meshes.shard.size()).backward()
    # An empty micro-batch is one token that predicts nothing; it adds nothing and hangs nowhere.
    scorer(collate([]), meshes.context).sum().backward()
    synchronize_gradients(scorer, meshes, partial=partial)
    total = loss.detach().clone()
    dist.all_reduce(total)
    reference = [p.grad for p in expected.parameters() if p.grad is not None]
    return {
        "loss": abs(float(total) / (tensor * context) / expected_loss - 1),
        "gradient": distance(full_gradients(scorer), reference),
        "worst": worst(full_gradients(scorer), reference),
        "norm": clip_gradients(scorer.parameters(), 1.0, meshes=meshes),
        "expected_norm": float(torch.nn.utils.clip_grad_norm_(expected.parameters(), 1.0)),
        "data_rank": meshes.data_rank,
        "context_rank": meshes.context.rank(),
        "counts": cut_tokens(*indices(packed(0)), rank=0, size=context).counts,
    }


def indices(batch: MicroBatch) -> tuple[Tensor, Tensor, Tensor]:
    return batch.input_ids, batch.position_ids, batch.predict_from


def check_exchange() -> dict[str, Any]:
    """Tokens for heads and back, by hand: entry = 100 * head + token."""
    group = dist.group.WORLD
    assert group is not None
    rank, (heads, share) = group.rank(), (8, 3)
    everything = (100 * torch.arange(heads)[:, None] + torch.arange(WORLD * share)).float()[None, :, :, None]
    mine = everything[:, :, rank * share : (rank + 1) * share].clone().requires_grad_()
    by_heads = to_heads(mine, group)
    back = to_tokens(by_heads, group)
    (by_heads.square().sum() / 2 + back.sum()).backward()
    return {
        "heads": torch.equal(by_heads, everything[:, 2 * rank : 2 * rank + 2]),
        "tokens": torch.equal(back, mine),
        "gradient": torch.equal(mine.grad, mine.detach() + 1),
    }


def adapted(dtype: torch.dtype) -> Any:
    model = add_adapters(tiny("qwen2").to(dtype), LoraConfig(rank=4, alpha=6.0))
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if ".lora_B." in name:
                parameter.copy_(0.3 * torch.randn(parameter.shape))
    return model


def check_adapters(dtype: torch.dtype) -> dict[str, Any]:
    meshes = build_meshes("cpu", WORLD, tensor_parallel=1, context_parallel=1, timeout_s=60)
    expected = Scorer(adapted(dtype))
    mixed = MixedPrecisionPolicy(param_dtype=dtype, reduce_dtype=torch.float32)
    scorer = sharded(adapted(dtype), meshes, mp_policy=mixed)
    figures: dict[str, Any] = {}
    if dtype == torch.float32:
        with torch.no_grad(), adapters_disabled(scorer):
            base = scorer(packed(0), None)
        with torch.no_grad():
            figures["reference"] = distance([base], [Scorer(tiny("qwen2").to(dtype))(packed(0), None)])
        for data_rank in range(WORLD):
            loss_of(expected(packed(data_rank), None)).backward()
    (loss_of(scorer(packed(meshes.data_rank), None).float()) * meshes.shard.size()).backward()
    found = full_gradients(scorer)
    figures["finite"] = all(bool(g.isfinite().all()) for g in found)
    figures["trained"] = len(found)
    if dtype == torch.float32:
        figures["gradient"] = distance(found, full_gradients(expected))
        torch.optim.SGD([p for p in scorer.parameters() if p.requires_grad], lr=0.01).step()
        torch.optim.SGD([p for p in expected.parameters() if p.requires_grad], lr=0.01).step()
    here, there = MergedWeightSource(scorer.causal_lm), dict(MergedWeightSource(expected.causal_lm))
    merged = dict(here)
    figures["merged"] = distance([v.float() for v in merged.values()], [v.float() for v in there.values()])
    figures["specs"] = [(s.name, s.shape) for s in here.specs()] == [(n, tuple(v.shape)) for n, v in there.items()]
    found_state, expected_state = adapter_state(scorer.causal_lm), adapter_state(expected.causal_lm)
    figures["names"] = list(found_state) == list(expected_state)
    figures["state"] = distance(list(found_state.values()), list(expected_state.values()))
    # Not ignore_frozen_params: it leaves the alias of a tied embedding in.
    kept = {name: value for name, value in get_model_state_dict(scorer).items() if ".lora_" in name}
    figures["kept"] = len(kept)
    copies = {name: value.clone() for name, value in kept.items()}
    with torch.no_grad():
        for parameter in scorer.parameters():
            if parameter.requires_grad:
                parameter.zero_()
    set_model_state_dict(scorer, copies, options=StateDictOptions(strict=False))
    restored = adapter_state(scorer.causal_lm)
    figures["restored"] = distance(list(restored.values()), list(found_state.values()))
    return figures


def check_refusals() -> dict[str, str]:
    meshes = build_meshes("cpu", WORLD, tensor_parallel=4, context_parallel=1, timeout_s=60)
    assert meshes.tensor is not None
    no_plan = tiny("llama")
    no_plan.config.base_model_tp_plan = None
    models = {
        "heads": tiny("qwen2"),
        "plan": no_plan,
        "style": Olmo2ForCausalLM(Olmo2Config(**SIZES)),
        "adapters": add_adapters(tiny("qwen2"), LoraConfig(rank=2)),
    }
    said = {}
    for what, model in models.items():
        try:
            apply_tensor_parallel(model, meshes.tensor)
        except (ConfigError, ModelError) as error:
            said[what] = f"{type(error).__name__}: {error}"
    try:
        build_meshes("cpu", WORLD, tensor_parallel=3, context_parallel=1, timeout_s=60)
    except ConfigError as error:
        said["processes"] = f"ConfigError: {error}"
    return said


def in_every_process(rank: int, folder: Path) -> None:
    """Run every check and write its figures to `folder`."""
    torch.set_num_threads(1)
    warnings.simplefilter("ignore")
    try:
        dist.init_process_group(
            "gloo",
            init_method=f"file://{folder / 'rendezvous'}",
            rank=rank,
            world_size=WORLD,
        )
        AttentionInterface.register("test_context", attend)
        results: dict[str, Any] = {kind: check_tensor_parallel(kind, folder) for kind in KINDS}
        results |= {f"context {t} {c}": check_context(t, c, kind) for t, c, kind in LAYOUTS}
        results["exchange"] = check_exchange()
        results["adapters"] = check_adapters(torch.float32)
        results["adapters on bfloat16"] = check_adapters(torch.bfloat16)
        results["refusals"] = check_refusals()
        dist.destroy_process_group()
        torch.save(results, folder / f"{rank}.pt")
    except BaseException:
        (folder / f"{rank}.error").write_text(traceback.format_exc())
        raise


@pytest.fixture(scope="module")
def figures(tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, Any]]:
    """The figures of every process."""
    folder = tmp_path_factory.mktemp("parallel")
    context = multiprocessing.get_context("forkserver")
    # Imported once, for all four.
    context.set_forkserver_preload([__name__])
    processes = [context.Process(target=in_every_process, args=(rank, folder)) for rank in range(WORLD)]
    for process in processes:
        process.start()
    deadline = time.monotonic() + DEADLINE_S
    for process in processes:
        process.join(max(0.0, deadline - time.monotonic()))
    late = [process for process in processes if process.is_alive()]
    for process in late:
        process.kill()
    errors = [path.read_text() for path in sorted(folder.glob("*.error"))]
    assert not errors, errors[0]
    assert not late, f"not done after {DEADLINE_S} s"
    return [torch.load(folder / f"{rank}.pt", weights_only=False) for rank in range(WORLD)]


@pytest.mark.parametrize("kind", KINDS)
def test_tensor_parallel_gradients_and_steps_equal_one_process(figures: list[dict[str, Any]], kind: str) -> None:
    for each in figures:
        found = each[kind]
        assert found["names"]
        assert found["loss"] < EXACT
        assert found["gradient"] < EXACT
        assert found["worst"] < EXACT
        assert found["step"] < EXACT
    assert figures[0][kind]["export"] < EXACT


@pytest.mark.parametrize("kind", KINDS)
def test_a_block_exchanges_twice_forward_and_twice_backward(figures: list[dict[str, Any]], kind: str) -> None:
    assert figures[0][kind]["exchanges"] == 4 * SIZES["num_hidden_layers"]


@pytest.mark.parametrize("kind", KINDS)
def test_copies_of_a_parameter_stay_equal_on_tensor_ranks(figures: list[dict[str, Any]], kind: str) -> None:
    # Embedding, two norms a block, the last norm, a head of its own; norms of heads.
    assert len(figures[0][kind]["copies"]) == {"qwen2": 6, "qwen3": 10, "llama": 7}[kind]
    for each in figures[1:]:
        assert all(map(torch.equal, each[kind]["copies"], figures[0][kind]["copies"]))


@pytest.mark.parametrize("kind", KINDS)
def test_the_norm_over_two_meshes_is_exact_and_the_same_everywhere(figures: list[dict[str, Any]], kind: str) -> None:
    found = figures[0][kind]
    assert not found["torch_clips"], "torch clips over mixed meshes now: clip_gradients may go"
    assert found["norm"] == pytest.approx(found["expected_norm"], rel=EXACT)
    assert found["clipped"] < EXACT
    assert {each[kind]["norm"] for each in figures} == {found["norm"]}


@pytest.mark.parametrize("kind", KINDS)
def test_a_checkpoint_loads_on_its_own_and_another_layout(figures: list[dict[str, Any]], kind: str) -> None:
    for each in figures:
        assert each[kind]["same_layout"] < EXACT
        assert each[kind]["other_layout"] < EXACT
        assert each[kind]["moments"] < EXACT


@pytest.mark.parametrize(("tensor", "context"), [layout[:2] for layout in LAYOUTS])
def test_context_parallel_loss_and_gradients_equal_one_process(
    figures: list[dict[str, Any]], tensor: int, context: int
) -> None:
    for rank, each in enumerate(figures):
        found = each[f"context {tensor} {context}"]
        assert found["loss"] < EXACT
        assert found["gradient"] < EXACT
        assert found["worst"] < EXACT
        assert found["norm"] == pytest.approx(found["expected_norm"], rel=EXACT)
        assert found["data_rank"] == rank // (tensor * context)
        assert found["context_rank"] == rank // tensor % context
    # The first process of four has prompt tokens only, and predicts nothing.
    assert (0 in found["counts"]) == (context == 4)


def test_heads_and_tokens_change_places(figures: list[dict[str, Any]]) -> None:
    for each in figures:
        assert all(each["exchange"].values())


def test_sharded_adapters_equal_those_of_one_process(figures: list[dict[str, Any]]) -> None:
    for each in figures:
        found = each["adapters"]
        assert found["names"]
        assert found["specs"]
        assert found["trained"] == 2 * 7 * 2
        assert found["reference"] < 1e-6
        assert found["gradient"] < 1e-6
        assert found["merged"] < 1e-6
        assert found["state"] < 1e-6


def test_float32_adapters_train_over_a_bfloat16_base(figures: list[dict[str, Any]]) -> None:
    for each in figures:
        found = each["adapters on bfloat16"]
        assert found["finite"]
        assert found["trained"] == 2 * 7 * 2
        # The same float32 sum rounded to bfloat16.
        assert found["merged"] == 0


def test_a_checkpoint_may_leave_the_frozen_base_out(figures: list[dict[str, Any]]) -> None:
    for each in figures:
        assert each["adapters"]["kept"] == 2 * 7 * 2
        assert each["adapters"]["restored"] == 0


@pytest.mark.parametrize(
    ("what", "message"),
    [
        ("heads", r"ConfigError: .*Qwen2ForCausalLM.*num_key_value_heads = 2 does not divide by 4.*\[1, 2\]"),
        ("plan", r"ModelError: LlamaForCausalLM has no plan.*learner.tensor_parallel=1"),
        ("style", r"ModelError: Olmo2ForCausalLM.*colwise_gather_output.*learner.tensor_parallel=1"),
        ("adapters", r"ConfigError: learner.tensor_parallel must be 1.*q_proj"),
        ("processes", r"ConfigError: learner.num_processes must be a multiple.*3 x 1, got 4"),
    ],
)
def test_what_cannot_be_split_is_refused_with_a_remedy(figures: list[dict[str, Any]], what: str, message: str) -> None:
    assert re.match(message, figures[0]["refusals"][what])


@pytest.mark.parametrize("context", [3, 8])
def test_context_must_fit_the_heads(context: int) -> None:
    check_heads(Qwen2Config(**SIZES), tensor_parallel=1, context_parallel=4)
    with pytest.raises(ConfigError, match=rf"qwen2.*4 heads and 2 key-value heads.*got {context}.*\[1, 2, 4\]"):
        check_heads(Qwen2Config(**SIZES), tensor_parallel=1, context_parallel=context)


def test_every_token_is_predicted_by_one_process() -> None:
    batch = packed(0)
    shares = [cut_tokens(*indices(batch), rank=rank, size=3) for rank in range(3)]
    tokens = torch.cat([s.input_ids for s in shares], dim=1)[0]
    num_tokens = batch.input_ids.shape[1]
    assert torch.equal(tokens[:num_tokens], batch.input_ids[0])
    assert tokens[num_tokens:].tolist() == [0] * (-num_tokens % 3)
    assert num_tokens % 3, "the batch should need padding"
    gathered = torch.cat([s.chosen for s in shares])
    assert torch.equal(gathered[shares[0].restore], torch.arange(len(batch.targets)))
    width = len(tokens) // 3
    for rank, s in enumerate(shares):
        assert torch.equal(s.predict_from + rank * width, batch.predict_from[s.chosen])
