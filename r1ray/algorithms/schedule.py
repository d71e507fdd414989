"""Learning-rate schedules."""

import math
from typing import Literal


def learning_rate(
    step: int, *, peak: float, warmup_steps: int, total_steps: int, schedule: Literal["constant", "linear", "cosine"]
) -> float:
    """Return the learning rate of the update that turns policy version `step` into `step + 1`.

    Rises linearly over `warmup_steps` updates, then stays (`constant`), or falls to a tenth of the peak at
    the last update (`linear`, `cosine`).
    """
    if step < warmup_steps:
        return peak * (step + 1) / warmup_steps
    if schedule == "constant":
        return peak
    progress = (step - warmup_steps) / max(total_steps - 1 - warmup_steps, 1)
    fraction = 0.5 * (1 + math.cos(math.pi * progress)) if schedule == "cosine" else 1 - progress
    return peak * (0.1 + 0.9 * fraction)
