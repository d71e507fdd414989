from r1ray.algorithms.losses import k3_kl


def kl_estimate(kind, *, logprobs, ref_logprobs, old_logprobs):
    return k3_kl(logprobs, ref_logprobs)
