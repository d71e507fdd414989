"""The reward-model stage: the policy architecture with a scalar head, by pairs or by labels.

The checkpoint is a sequence classifier that the reward `reward_model` loads; both score the same token ids.

Source: arXiv:2501.12948 v2: helpful reward model pairwise, safety reward model pointwise.
"""

from __future__ import annotations

from typing import Any

from r1ray.config.schema import Config
from r1ray.models.locate import locate_model
from r1ray.models.tokenizer import load_tokenizer
from r1ray.rewards.scopes import summary
from r1ray.rewards.turn_encoder import TurnEncoder
from r1ray.stages.supervised import Lesson, train_supervised


def train_reward_model(config: Config) -> dict[str, Any]:
    """Train a reward model and return what summary.json holds.

    Raises:
        R1RayError: with a message for the user.
    """
    model_path = locate_model(config.model.path, config.model.revision)
    turns = TurnEncoder(load_tokenizer(model_path, config.model.revision, config.model.trust_remote_code))
    section = config.reward_model

    def encode(question: str, completion: str) -> tuple[tuple[int, ...], tuple[int, ...]]:
        ids = tuple(turns(question, summary(completion) if section.scope == "summary" else completion))
        # The score is read at the last token.
        return ids[:-1], ids[-1:]

    lesson = Lesson(
        section.kind,
        encode,
        section.epochs,
        section.batch_size,
        section.max_tokens,
        section.held_out_fraction,
    )
    return train_supervised(config, lesson, model_path)
