"""Pairs of sentences for the example of translation: reading, splitting, and sentences as rows of tokens."""

from __future__ import annotations

import dataclasses
import gzip
import os
import re
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from tfprune.files import atomic_write

PADDING, START, END, UNKNOWN = range(4)
_SPECIAL = ["<pad>", "<start>", "<end>", "<unk>"]
# A word or a mark of punctuation, with the blank before it: parentheses are tokens of their own.
_WORD = r"▁?[\p{L}\p{M}\p{N}_]+|▁?[^\p{L}\p{M}\p{N}_▁]|▁"


@dataclasses.dataclass(frozen=True)
class Pair:
    """A sentence and its translation."""

    source: str
    target: str


def read_pairs(path: str | os.PathLike) -> list[Pair]:
    """Pairs of a text file with a sentence, a tab and its translation on each line, plain or compressed (.gz).

    A sentence that comes again is left out, so that no sentence is both learnt and tested; blank lines are skipped.

    Raises:
        ValueError: If the file is missing, holds no pair, is not in UTF-8, or has a line that is no pair.
    """
    path = Path(path)
    pairs: dict[str, Pair] = {}
    for number, line in enumerate(_text(path).split("\n"), start=1):
        if not line.strip():
            continue
        parts = [part.strip() for part in line.rstrip("\r").split("\t")]
        if len(parts) != 2 or not all(parts):
            raise ValueError(
                f"{path}, line {number}: expected a sentence, one tab and its translation, received {line[:80]!r}. "
                "Write one pair on a line, and no tab inside a sentence."
            )
        pairs.setdefault(parts[0], Pair(*parts))
    if not pairs:
        raise ValueError(f"{path}: expected at least one pair of sentences, received none: the file is empty.")
    return list(pairs.values())


def _text(path: Path) -> str:
    if not path.is_file():
        raise ValueError(f"{path}: expected a file of pairs of sentences, but there is none.")
    content = path.read_bytes()
    if content[:2] == b"\x1f\x8b":
        content = gzip.decompress(content)
    try:
        return content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        number = content[: error.start].count(b"\n") + 1
        raise ValueError(
            f"{path}, line {number}: expected text in UTF-8, received the byte 0x{content[error.start]:02x} in another "
            "encoding. Convert the file first, for instance with: iconv -f latin1 -t utf-8"
        ) from error


def num_words(sentence: str) -> int:
    """Number of words and marks of punctuation."""
    return len(re.findall(r"\w+|[^\w\s]", sentence))


@dataclasses.dataclass(frozen=True)
class Parts:
    """Pairs to learn from and pairs kept back.

    Attributes:
        training: What nets learn from; each net its own share of it.
        held_out: What no net has seen.
    """

    training: list[Pair]
    held_out: list[Pair]

    def share(self, seed: int, share: float) -> list[Pair]:
        """The pairs that the net of this seed learns from: a random share, of its own."""
        order = np.random.default_rng([seed, 1]).permutation(len(self.training))
        return [self.training[number] for number in order[: max(1, round(share * len(order)))]]


def split(pairs: Sequence[Pair], *, max_words: int, num_held_out: int) -> Parts:
    """Leaves out long pairs and keeps some of the others back, the same ones at every start.

    Raises:
        ValueError: If fewer than ``2 * num_held_out`` pairs are short enough.
    """
    short = [pair for pair in pairs if max(num_words(pair.source), num_words(pair.target)) <= max_words]
    if len(short) < 2 * num_held_out:
        raise ValueError(
            f"expected at least {2 * num_held_out} pairs of at most {max_words} words, twice num_held_out, received "
            f"{len(short)} of {len(pairs)}. Take a longer corpus, keep fewer back or let sentences be longer."
        )
    order = np.random.default_rng(0).permutation(len(short))
    chosen = [short[number] for number in order]
    return Parts(chosen[num_held_out:], chosen[:num_held_out])


class Tokens:
    """The tokens of one language, pieces of words by byte pair encoding: sentences to rows of numbers and back.

    Args:
        tokenizer: A ``tokenizers.Tokenizer``.
    """

    def __init__(self, tokenizer: Any):
        self._tokenizer = tokenizer

    @classmethod
    def learn(cls, sentences: Iterable[str], num_tokens: int) -> Tokens:
        """Finds at most ``num_tokens`` tokens for these sentences."""
        # Imported here: only this example needs it.
        from tokenizers import Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers

        tokenizer = Tokenizer(models.BPE(unk_token=_SPECIAL[UNKNOWN]))
        tokenizer.normalizer = normalizers.NFC()
        words = pre_tokenizers.Split(Regex(_WORD), behavior="isolated")
        tokenizer.pre_tokenizer = pre_tokenizers.Sequence([pre_tokenizers.Metaspace(split=False), words])
        tokenizer.decoder = decoders.Metaspace()
        trainer = trainers.BpeTrainer(vocab_size=num_tokens, special_tokens=_SPECIAL, show_progress=False)
        tokenizer.train_from_iterator(sentences, trainer)
        return cls(tokenizer)

    @classmethod
    def load(cls, path: str | os.PathLike) -> Tokens:
        from tokenizers import Tokenizer

        return cls(Tokenizer.from_file(os.fspath(path)))

    def save(self, path: str | os.PathLike) -> None:
        self._tokenizer.save(os.fspath(path))

    def __len__(self) -> int:
        return self._tokenizer.get_vocab_size()

    def numbers(self, sentence: str) -> list[int]:
        """Numbers of the sentence's tokens, without start and end."""
        return self._tokenizer.encode(sentence).ids

    def pieces(self, sentence: str) -> list[str]:
        """Tokens of the sentence as text; ▁ stands for the blank before a word."""
        return self._tokenizer.encode(sentence).tokens

    def text(self, numbers: Iterable[int]) -> str:
        """The sentence of a row, up to its end."""
        kept = []
        for number in numbers:
            if number == END:
                break
            if number > END:
                kept.append(int(number))
        return self._tokenizer.decode(kept)


@dataclasses.dataclass(frozen=True)
class Languages:
    """The tokens of both languages."""

    source: Tokens
    target: Tokens

    @classmethod
    def learn(cls, pairs: Sequence[Pair], num_tokens: int) -> Languages:
        """Finds the tokens of both sides."""
        sides = ([pair.source for pair in pairs], [pair.target for pair in pairs])
        return cls(*(Tokens.learn(side, num_tokens) for side in sides))

    @classmethod
    def load(cls, folder: Path) -> Languages:
        """What :meth:`save` wrote."""
        return cls(*(Tokens.load(folder / f"tokens_{side}.json") for side in ("source", "target")))

    def save(self, folder: Path) -> None:
        """Writes the tokens of both sides into a folder."""
        for side in ("source", "target"):
            with atomic_write(folder / f"tokens_{side}.json") as temporary:
                getattr(self, side).save(temporary)

    def source_rows(self, sentences: Sequence[str]) -> list[list[int]]:
        """What the encoder reads of each sentence: its tokens and the end."""
        return [[*self.source.numbers(sentence), END] for sentence in sentences]

    def teacher_forced(self, pairs: Sequence[Pair]) -> tuple[dict[str, np.ndarray], np.ndarray]:
        """Inputs of a net (the true translation, one step late) and the tokens to say next; all rows are padded."""
        targets = [self.target.numbers(pair.target) for pair in pairs]
        sources = self.source_rows([pair.source for pair in pairs])
        return {"source": padded(sources), "target": padded_starts(targets)}, padded([[*row, END] for row in targets])


def padded(rows: Sequence[Sequence[int]]) -> np.ndarray:
    """Rows of one length, the shorter ones filled up: ``(rows, longest)`` of int32."""
    filled = np.full((len(rows), max(map(len, rows))), PADDING, "int32")
    for place, row in enumerate(rows):
        filled[place, : len(row)] = row
    return filled


def padded_starts(rows: Sequence[Sequence[int]]) -> np.ndarray:
    """The same with the start before each row."""
    return padded([[START, *row] for row in rows])
