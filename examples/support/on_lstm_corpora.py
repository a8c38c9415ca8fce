"""Corpora of the study of ON-LSTM: generated brackets whose depth is known, and sentences of a text file."""

from __future__ import annotations

import collections
import dataclasses
import gzip
import re
from pathlib import Path

import numpy as np

PAD, START, END, UNKNOWN = "<pad>", "<start>", "<end>", "<unknown>"
PAIRS = ("()", "[]", "{}")
OPENING, CLOSING = "".join(pair[0] for pair in PAIRS), "".join(pair[1] for pair in PAIRS)
WORDS = "abcdefgh"
"""Two for the ground, and two for the inside of each kind of bracket."""
MOST_DEPTH = 8
_WORD = re.compile(r"[^\W_]+(?:['’][^\W_]+)*|[^\w\s]")


@dataclasses.dataclass(frozen=True)
class Corpus:
    """Sentences as numbers, and what is known of them.

    Attributes:
        vocabulary: The tokens; their places are the numbers. The first is padding.
        training: Numbers `(sentences, length)`, padded behind; each begins with the start and ends with the end, or is
            cut off.
        test: The same, of other sentences.
        depth: For the test sentences, how many brackets are open behind each token; None for a text.
        floor: The perplexity of whoever knows how the test sentences were made; None for a text.
    """

    vocabulary: tuple[str, ...]
    training: np.ndarray
    test: np.ndarray
    depth: np.ndarray | None = None
    floor: float | None = None

    def tokens(self, row: np.ndarray) -> list[str]:
        """The tokens of a sentence, without padding."""
        return [self.vocabulary[number] for number in row if number]


def brackets(num_sentences: int, num_test: int, length: int, seed: int) -> Corpus:
    """Sentences of nested brackets and words, from a process whose probabilities are known.

    A bracket opens the more rarely the deeper it lies, and closes only behind something. Nine words of ten are those of
    the innermost open bracket: behind a bracket that closes one must know again what lies around it.
    """
    generator = np.random.default_rng(seed)
    vocabulary = (PAD, START, END, *OPENING, *CLOSING, *WORDS)
    place = {token: number for number, token in enumerate(vocabulary)}
    count = num_sentences + num_test
    rows, depth, nats = np.zeros((count, length), int), np.zeros((count, length), int), np.zeros((count, length))
    for number in range(count):
        for step, (token, own_depth, probability) in enumerate(_sentence(generator, length)):
            rows[number, step], depth[number, step] = place[token], own_depth
            nats[number, step] = -np.log(probability)
    # The start is given.
    read = rows[num_sentences:, 1:] > 0
    floor = float(np.exp(nats[num_sentences:, 1:][read].mean()))
    rows = rows.astype("int32")
    return Corpus(vocabulary, rows[:num_sentences], rows[num_sentences:], depth[num_sentences:], floor)


def _sentence(generator: np.random.Generator, length: int) -> list[tuple[str, int, float]]:
    """Returns at most `length` tokens, each with the depth behind it and its probability."""
    found: list[tuple[str, int, float]] = [(START, 0, 1.0)]
    stack: list[int] = []
    while len(found) < length and found[-1][0] != END:
        chances = _next(stack, empty=found[-1][0] in OPENING or found[-1][0] == START)
        tokens = list(chances)
        token = tokens[generator.choice(len(tokens), p=list(chances.values()))]
        if token in OPENING:
            stack.append(OPENING.index(token))
        elif token in CLOSING:
            stack.pop()
        found.append((token, len(stack), chances[token]))
    return found


def _next(stack: list[int], *, empty: bool) -> dict[str, float]:
    """Returns the probability of every token that may come next."""
    opens = 0.4 * (1.0 - len(stack) / MOST_DEPTH)
    leaves = 0.0 if empty else 0.35 if stack else 0.15
    chances = {token: opens / len(PAIRS) for token in OPENING}
    chances[CLOSING[stack[-1]] if stack else END] = leaves
    own = WORDS[2 * (stack[-1] + 1) : 2 * (stack[-1] + 1) + 2] if stack else WORDS[:2]
    for word in WORDS:
        share = 0.9 / 2 if word in own else 0.1 / (len(WORDS) - 2)
        chances[word] = (1.0 - opens - leaves) * share
    return {token: chance for token, chance in chances.items() if chance > 0.0}


def text(path: Path, encoding: str, num_words: int, length: int, most: int | None, seed: int) -> Corpus:
    """The lines of a text file, plain or packed by gzip, one sentence each; a tenth of them are for the test.

    Args:
        path: The file.
        encoding: Its encoding.
        num_words: How many of the most frequent words are known; the others are one token.
        length: Tokens of a sentence, start and end included; what is longer is cut off.
        most: How many sentences are taken, drawn by lot; all if None.
        seed: Of the lot.

    Raises:
        ValueError: If there is no file, it is in another encoding, or holds fewer than ten sentences.
    """
    sentences = [words for line in read_text(path, encoding).splitlines() if (words := _WORD.findall(line.lower()))]
    if len(sentences) < 10:
        raise ValueError(
            f"text: {str(path)!r} holds {len(sentences)} lines with words; expected one sentence to a line, 10 or more."
        )
    order = np.random.default_rng(seed).permutation(len(sentences))[:most]
    num_test = max(1, len(order) // 10)
    training, test = ([sentences[k] for k in part] for part in (order[num_test:], order[:num_test]))
    counts = collections.Counter(word for sentence in training for word in sentence)
    known = [word for word, _ in counts.most_common(num_words)]
    vocabulary = (PAD, START, END, UNKNOWN, *known)
    place = {token: number for number, token in enumerate(vocabulary)}

    def numbers(part: list[list[str]]) -> np.ndarray:
        rows = np.zeros((len(part), length), "int32")
        for row, sentence in zip(rows, part, strict=True):
            own = [START, *sentence, END][:length]
            row[: len(own)] = [place.get(word, place[UNKNOWN]) for word in own]
        return rows

    return Corpus(vocabulary, numbers(training), numbers(test))


def read_text(path: Path, encoding: str) -> str:
    """Returns what a text file holds, unpacked if it is packed by gzip.

    Raises:
        ValueError: If there is no file, it is empty, the encoding is unknown or another one.
    """
    path = Path(path)
    if not path.is_file():
        raise ValueError(f"text: there is no file {str(path)!r}.")
    content = path.read_bytes()
    try:
        if content[:2] == b"\x1f\x8b":
            content = gzip.decompress(content)
        found = content.decode(encoding)
    except LookupError:
        raise ValueError(
            f"encoding: {encoding!r} is no encoding that Python knows, such as utf-8 or latin-1."
        ) from None
    except (EOFError, gzip.BadGzipFile) as error:
        raise ValueError(f"text: {str(path)!r} cannot be unpacked: {error}.") from None
    except UnicodeDecodeError as error:
        raise ValueError(
            f"text: {str(path)!r} is not in {encoding}: byte {error.object[error.start]:#04x} at place {error.start}. "
            "Say which it is by --encoding, such as latin-1 or cp1252."
        ) from None
    if not found.strip():
        raise ValueError(f"text: {str(path)!r} is empty.")
    return found


def true_spans(tokens: list[str]) -> set[tuple[int, int]]:
    """Returns the parts of a sentence that a pair of brackets encloses, brackets included: `(first, last)`."""
    found, stack = set(), []
    for place, token in enumerate(tokens):
        if token in OPENING:
            stack.append(place)
        elif token in CLOSING:
            found.add((stack.pop(), place))
    return found
