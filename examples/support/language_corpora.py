"""Texts for a causal language model: sentences of a small grammar or a file, as rows of byte-pair tokens."""

from __future__ import annotations

import dataclasses
import functools
from pathlib import Path
from typing import Any

import numpy as np
from support.on_lstm_corpora import read_text
from support.translation_grammar import generated_pairs
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

_END = "<end>"


@dataclasses.dataclass(frozen=True)
class Corpus:
    """Rows of tokens, sentence after sentence without a gap; `<end>` stands between them.

    Attributes:
        tokenizer: What makes tokens of a text and text of tokens.
        training: Tokens `(rows, length + 1)`.
        held_out: The same of sentences that are not in the training rows.
        prompts: How some of the held-out sentences begin, as text.
    """

    tokenizer: Any
    training: np.ndarray
    held_out: np.ndarray
    prompts: tuple[str, ...]

    @property
    def num_tokens(self) -> int:
        """How many tokens there are to choose from."""
        return self.tokenizer.get_vocab_size()

    def ids(self, text: str) -> list[int]:
        """The tokens of a text."""
        return self.tokenizer.encode(text).ids

    def text(self, ids: Any) -> str:
        """The text of tokens, up to the end of the sentence."""
        ids, end = [int(own) for own in ids], self.tokenizer.token_to_id(_END)
        return self.tokenizer.decode(ids[: ids.index(end)] if end in ids else ids).strip()


@functools.lru_cache(maxsize=2)
def load(text: str | None, encoding: str, num_sentences: int, num_tokens: int, length: int) -> Corpus:
    """The corpus; the same for the same arguments.

    Args:
        text: A file with one sentence to a line, plain or packed by gzip; None for generated sentences.
        encoding: Its encoding.
        num_sentences: How many sentences are taken, drawn by lot.
        num_tokens: How many tokens there are at most.
        length: Tokens of a row.

    Raises:
        ValueError: If the file cannot be read or holds too little for ten rows.
    """
    if text is None:
        sentences = [pair.source for pair in generated_pairs(num_sentences, seed=0)]
    else:
        lines = [line.strip() for line in read_text(Path(text), encoding).splitlines() if line.strip()]
        order = np.random.default_rng(0).permutation(len(lines))[:num_sentences]
        sentences = [lines[number] for number in order]
    num_held_out = max(1, len(sentences) // 20)
    held_out, training = sentences[:num_held_out], sentences[num_held_out:]
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(
        vocab_size=num_tokens, special_tokens=[_END], initial_alphabet=alphabet, show_progress=False
    )
    tokenizer.train_from_iterator(training, trainer)
    rows = [_rows(tokenizer, part, length + 1) for part in (training, held_out)]
    if any(len(own) < 1 for own in rows) or len(rows[0]) < 10:
        raise ValueError(
            f"text: {text or 'the generated sentences'!r} gives {len(rows[0])} rows of {length} tokens to learn from "
            f"and {len(rows[1])} to test with; expected at least 10 and 1. Take a longer text or a smaller `length`."
        )
    prompts = tuple(" ".join(sentence.split()[:4]) for sentence in held_out[:3])
    return Corpus(tokenizer, rows[0], rows[1], prompts)


def _rows(tokenizer: Any, sentences: list[str], length: int) -> np.ndarray:
    end = tokenizer.token_to_id(_END)
    tokens = [token for own in tokenizer.encode_batch(sentences) for token in (*own.ids, end)]
    count = len(tokens) // length
    return np.array(tokens[: count * length], "int32").reshape(count, length)
