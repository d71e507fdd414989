"""The tokenizer that both bilingual models share: words of two languages, digits, and bytes for all the rest."""

from __future__ import annotations

from transformers import PreTrainedTokenizerFast

from r1ray.models.base_tokenizer import train_tokenizer
from r1ray.models.bilingual_chat import ASSISTANT, CHAT_TEMPLATE, USER
from r1ray.models.bilingual_corpus import FINAL_SHARES, make_document, words_to_keep_whole

VOCAB_LIMIT = 896
_DOCUMENTS = 12_000
# A digit; signs that take the spaces around them before a digit; a Chinese word that is kept whole, or one ideograph;
# a word of other letters; other signs; white space.
_PIECE = (
    r"\p{{N}}| ?(?:[^\s\p{{L}}\p{{N}}]+ )+(?=\p{{N}})|{words}|\p{{Han}}| ?(?:(?!\p{{Han}})\p{{L}})+"
    r"| ?[^\s\p{{L}}\p{{N}}]+|\s+"
)


def train_bilingual_tokenizer(seed: int) -> PreTrainedTokenizerFast:
    """Build the tokenizer from the first documents of the corpus of a seed; it carries the chat template."""
    documents = (make_document(index, seed=seed, shares=FINAL_SHARES) for index in range(_DOCUMENTS))
    tokenizer = train_tokenizer(
        (document.prompt + document.completion for document in documents),
        piece=_PIECE.format(words="|".join(words_to_keep_whole())),
        vocab_limit=VOCAB_LIMIT,
        turns=(USER, ASSISTANT),
    )
    tokenizer.chat_template = CHAT_TEMPLATE
    return tokenizer
