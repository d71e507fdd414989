import pytest

from r1ray.algorithms.schedule import learning_rate


def test_learning_rate_warms_up_and_falls_to_a_tenth() -> None:
    def lr(step: int, schedule: str) -> float:
        return learning_rate(step, peak=1.0, warmup_steps=2, total_steps=12, schedule=schedule)  # type: ignore[arg-type]

    assert [lr(0, "cosine"), lr(1, "cosine"), lr(2, "cosine")] == pytest.approx([0.5, 1.0, 1.0])
    assert lr(11, "cosine") == pytest.approx(0.1)
    assert lr(11, "linear") == pytest.approx(0.1)
    assert lr(11, "constant") == 1.0
