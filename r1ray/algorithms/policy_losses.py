from r1ray.algorithms.losses import clipped_policy_loss


def policy_loss(
    kind,
    *,
    logprobs,
    old_logprobs,
    advantages,
    sample_index,
    num_samples,
    clip_low,
    clip_high,
    clip_delta,
    gate_temperature_positive,
    gate_temperature_negative,
):
    return clipped_policy_loss(
        logprobs, old_logprobs, advantages, clip_low=clip_low, clip_high=clip_high, clip_delta=clip_delta
    )
