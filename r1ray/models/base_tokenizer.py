"""The embedded base models' tokenizer: the corpus's words, single digits, and bytes for all the rest.

Byte-level, so that any text encodes and decodes back exactly. The template's tags are single ordinary tokens, which
survive decoding without special tokens. A number is its digits; a sign between numbers is one token with its spaces.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence

from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from r1ray.template import ANSWER_CLOSE, ANSWER_OPEN, THINK_CLOSE, THINK_OPEN

EOS = "<|endoftext|>"
VOCAB_LIMIT = 448
_TAGS = (THINK_OPEN, THINK_CLOSE, ANSWER_OPEN, ANSWER_CLOSE)
# A digit; a sign that takes the spaces before a following digit with it; a word; other signs; white space.
_PIECE = r"\p{N}| ?[^\s\p{L}\p{N}]+ (?=\p{N})| ?\p{L}+| ?[^\s\p{L}\p{N}]+|\s+"


def train_tokenizer(
    texts: Iterable[str], *, piece: str = _PIECE, vocab_limit: int = VOCAB_LIMIT, turns: Sequence[str] = ()
) -> PreTrainedTokenizerFast:
    """Build the tokenizer from a sample of the corpus.

    Args:
        texts: documents; their commonest words and signs become tokens of their own.
        piece: regular expression of what may become a token.
        vocab_limit: largest number of tokens.
        turns: marks of a conversation's turns, each a single ordinary token like the tags.

    Returns:
        A tokenizer with EOS as end and padding token.
    """
    splitter = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(piece), behavior="isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    marks = [*_TAGS, *turns]
    reserved = [EOS, *marks]
    room = vocab_limit - len(alphabet) - len(reserved)
    words = _common_pieces(texts, splitter, known=set(alphabet), marks=reserved)[:room]
    vocab = {piece: token_id for token_id, piece in enumerate([*reserved, *words, *alphabet])}
    # With ignore_merges a piece in the vocabulary is one token at once; without merges any other is bytes.
    tokenizer = Tokenizer(models.BPE(vocab=vocab, merges=[], ignore_merges=True))
    tokenizer.pre_tokenizer = splitter
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_tokens([AddedToken(mark, normalized=False) for mark in marks])
    tokenizer.add_special_tokens([AddedToken(EOS, normalized=False, special=True)])
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        eos_token=EOS,
        pad_token=EOS,
        model_max_length=1024,
        padding_side="left",
        clean_up_tokenization_spaces=False,
    )


def _common_pieces(
    texts: Iterable[str], splitter: pre_tokenizers.PreTokenizer, *, known: set[str], marks: Sequence[str]
) -> list[str]:
    """Return the pieces of the texts, commonest first, without marks and without those already known."""
    counts: Counter[str] = Counter()
    for text in texts:
        for mark in marks:
            text = text.replace(mark, "\n")
        counts.update(piece for piece, _ in splitter.pre_tokenize_str(text))
    pieces = (piece for piece, _ in sorted(counts.items(), key=lambda entry: (-entry[1], entry[0])))
    return [piece for piece in pieces if piece not in known and "Ċ" not in piece]
