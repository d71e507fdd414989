import torch
from r1ray.algorithms.losses import truncated_importance_weights


def importance_weights(old, rollout, index, count, *, correction, level, cap, floor):
    return torch.ones_like(old) if correction == "none" else truncated_importance_weights(old, rollout, cap=cap)
