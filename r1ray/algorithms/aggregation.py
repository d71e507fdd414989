import torch


def token_weights(lengths, *, aggregation, max_completion_tokens, group_tokens=None):
    if aggregation == "sequence":
        return 1.0 / lengths.double()
    if aggregation == "prompt":
        return 1.0 / group_tokens.clamp(min=1).double()
    return torch.full(
        lengths.shape,
        1.0 if aggregation == "token" else 1.0 / max_completion_tokens,
        dtype=torch.float64,
        device=lengths.device,
    )


def loss_denominator(*, num_tokens, num_completions, num_prompts, aggregation):
    return {"token": num_tokens, "prompt": num_prompts}.get(aggregation, num_completions)
