"""One training of the study of ON-LSTM: a language model, what its master gates say, and its dead chunks cut out."""

from __future__ import annotations

import dataclasses
import functools
from pathlib import Path
from typing import Any, Literal

import keras
import numpy as np
from keras import layers
from scipy.stats import spearmanr
from support import on_lstm_corpora as corpora
from support.on_lstm_corpora import CLOSING, OPENING, Corpus
from support.on_lstm_trees import recall, spans_of, tree_of

import tfprune as tfp
from tfprune.layers import ONLSTM

NetKind = Literal["on_lstm", "lstm"]
LAYERS = ("first", "second")
_AT_ONCE = 128


@dataclasses.dataclass(frozen=True)
class Sizes:
    """How large the nets and the corpora are, and how long they learn.

    Attributes:
        units: Units of each of the two recurrent layers of the ON-LSTM, and width of the embedding.
        chunk_size: Units in a chunk.
        dropout: Share of the inputs of each layer that are dropped in training.
        dropconnect: Share of the recurrent weights of the ON-LSTM that are dropped in training.
        learning_rate: Of Adam; it falls to a tenth, by cosine.
        batch_size: Sentences of a step.
        epochs: Times through the training sentences.
        length: Tokens of a sentence at most, start and end included.
        num_sentences: Training sentences of brackets; of a text, sentences at most, a tenth for the test.
        num_test: Test sentences of brackets.
        num_words: Words of a text that are known.
    """

    units: int = 64
    chunk_size: int = 8
    dropout: float = 0.0
    dropconnect: float = 0.0
    learning_rate: float = 4e-3
    batch_size: int = 64
    epochs: int = 10
    length: int = 40
    num_sentences: int = 4000
    num_test: int = 400
    num_words: int = 5000

    def check(self) -> None:
        """Raises ValueError if a size is none; in one go with all settings, which say so in words."""
        for name in ("batch_size", "epochs", "num_sentences", "num_test", "num_words"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name}: expected a number of at least 1, received {getattr(self, name)}.")
        if self.length < 4:
            raise ValueError(f"length: expected at least 4 tokens, received {self.length}.")
        ONLSTM(self.units, self.chunk_size, self.dropconnect, dropout=self.dropout)


@functools.lru_cache(maxsize=2)
def load(corpus: str, text: str | None, encoding: str | None, sizes: Sizes) -> Corpus:
    """The brackets, or the sentences of the text; the same in every training."""
    if corpus == "brackets":
        return corpora.brackets(sizes.num_sentences, sizes.num_test, sizes.length, seed=0)
    return corpora.text(Path(text), encoding, sizes.num_words, sizes.length, sizes.num_sentences, seed=0)


def build(net: NetKind, num_tokens: int, sizes: Sizes, units: int) -> keras.Model:
    """An embedding, two recurrent layers, and a guess of the next token at every place."""
    x = keras.Input((None,), dtype="int32", name="tokens")
    h = layers.Embedding(num_tokens, sizes.units, name="embedding")(x)
    for name in LAYERS:
        options = {"return_sequences": True, "dropout": sizes.dropout, "name": name}
        if net == "on_lstm":
            h = ONLSTM(units, sizes.chunk_size, sizes.dropconnect, **options)(h)
        else:
            h = layers.LSTM(units, use_cudnn=False, **options)(h)
    h = layers.Dropout(sizes.dropout, name="dropout")(h)
    return keras.Model(x, layers.Dense(num_tokens, name="logits")(h), name=net)


def equal_units(num_tokens: int, sizes: Sizes) -> int:
    """Returns how wide an LSTM is that has as many parameters as the ON-LSTM, as nearly as may be."""
    levels, width = sizes.units // sizes.chunk_size, sizes.units
    wanted = 2 * (2 * width + 1) * (4 * width + 2 * levels) + (width + 1) * num_tokens

    def parameters(units: int) -> int:
        return 4 * units * (width + units + 1) + 4 * units * (2 * units + 1) + (units + 1) * num_tokens

    return min(range(1, 4 * width), key=lambda units: abs(parameters(units) - wanted))


def train(
    net: NetKind, seed: int, *, corpus: str, text: str | None, encoding: str | None, sizes: dict[str, Any], folder: Path
) -> dict[str, Any]:
    """Trains one language model and looks into it.

    Args:
        net: "on_lstm", or an LSTM of as many parameters.
        seed: Of the weights and the order of the sentences.
        corpus: "brackets" or "text".
        text: File of the text; None for brackets.
        encoding: Its encoding.
        sizes: Entries of `Sizes`.
        folder: Where the trained model goes.

    Returns:
        Parameters, perplexity of the test sentences after every epoch; of an ON-LSTM also what its gates say and what
        becomes of it without its dead chunks.
    """
    sizes = Sizes(**sizes)
    held = load(corpus, text, encoding, sizes)
    keras.utils.set_random_seed(seed)
    num_tokens = len(held.vocabulary)
    model = build(net, num_tokens, sizes, sizes.units if net == "on_lstm" else equal_units(num_tokens, sizes))
    untrained = said_by_gates(model, held) if net == "on_lstm" else {}
    x, y = held.training[:, :-1], held.training[:, 1:]
    steps = sizes.epochs * -(-len(x) // sizes.batch_size)
    rate = keras.optimizers.schedules.CosineDecay(sizes.learning_rate, steps, alpha=0.1)
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    # Long steps are rare, and one of them can undo an epoch.
    model.compile(keras.optimizers.Adam(rate, clipnorm=1.0), loss)
    watch = _Perplexity(held.test)
    weights = (y > 0).astype("float32")
    model.fit(
        x, y, sample_weight=weights, batch_size=sizes.batch_size, epochs=sizes.epochs, verbose=0, callbacks=[watch]
    )
    result = {"parameters": model.count_params(), "units": model.get_layer("second").units, "curve": watch.found}
    result |= {"perplexity": watch.found[-1], "num_tokens": num_tokens}
    if net == "on_lstm":
        result |= said_by_gates(model, held) | {f"untrained/{name}": value for name, value in untrained.items()}
        result |= without_dead_chunks(model, held)
    model.save(folder / "model.keras")
    return result


class _Perplexity(keras.callbacks.Callback):
    """Notes the perplexity of the test sentences before the first epoch and after every one."""

    def __init__(self, test: np.ndarray):
        super().__init__()
        self.test, self.found = test, []

    def on_train_begin(self, logs=None):
        self.found.append(perplexity(self.model, self.test))

    def on_epoch_end(self, epoch, logs=None):
        self.found.append(perplexity(self.model, self.test))


def perplexity(model: keras.Model, rows: np.ndarray) -> float:
    """Returns exp of the mean negative log probability of each token behind the first, padding aside."""
    total, count = 0.0, 0
    for start in range(0, len(rows), _AT_ONCE):
        x, y = rows[start : start + _AT_ONCE, :-1], rows[start : start + _AT_ONCE, 1:]
        nats = keras.losses.sparse_categorical_crossentropy(y, model.predict_on_batch(x), from_logits=True)
        read = y > 0
        total += float(keras.ops.convert_to_numpy(nats)[read].sum())
        count += int(read.sum())
    return float(np.exp(total / count))


def distances(model: keras.Model, rows: np.ndarray) -> dict[str, np.ndarray]:
    """Returns what each ON-LSTM erases at every token, one minus the mean of its master forget gate."""
    found = {}
    for name in LAYERS:
        layer = model.get_layer(name)
        reads = keras.Model(model.inputs[0], layer.input)
        parts = [
            layer.master_gates(reads(rows[start : start + _AT_ONCE])).forget_distance
            for start in range(0, len(rows), _AT_ONCE)
        ]
        found[name] = np.concatenate([keras.ops.convert_to_numpy(part) for part in parts])
    return found


def said_by_gates(model: keras.Model, held: Corpus) -> dict[str, Any]:
    """What the distances say of the sentences, and the distances of the first of them."""
    found, read = distances(model, held.test), held.test > 0
    kinds = np.array(held.vocabulary)[held.test]
    result: dict[str, Any] = {f"{name}/distances": own[:_AT_ONCE] for name, own in found.items()}
    for name, own in found.items():
        if held.depth is None:
            result |= {f"{name}/{key}": value for key, value in _after_punctuation(own, kinds, read).items()}
            continue
        for group, tokens in (("opening", OPENING), ("closing", CLOSING)):
            at = read & np.isin(kinds, list(tokens))
            result[f"{name}/depth_{group}"] = _rank_correlation(own[at], held.depth[at])
        result[f"{name}/depth"] = _rank_correlation(own[read], held.depth[read])
        result |= {f"{name}/found_{side}": found_brackets(held, own, side) for side in ("before", "behind")}
    return result


def _rank_correlation(one: np.ndarray, other: np.ndarray) -> float:
    return float(spearmanr(one, other).statistic) if np.ptp(one) > 0 and np.ptp(other) > 0 else 0.0


def _after_punctuation(own: np.ndarray, kinds: np.ndarray, read: np.ndarray) -> dict[str, float]:
    """How well the distance at a word tells whether a mark stands before it: 0.5 says nothing, 1 all."""
    is_mark = np.char.str_len(kinds) == 1
    is_mark &= ~np.char.isalnum(kinds)
    word = read[:, 1:] & ~is_mark[:, 1:] & (kinds[:, 1:] != corpora.END) & (kinds[:, :-1] != corpora.START)
    behind = is_mark[:, :-1][word]
    ranks = np.argsort(np.argsort(own[:, 1:][word], kind="stable"), kind="stable") + 1.0
    first, second = int(behind.sum()), int((~behind).sum())
    if not first or not second:
        return {"behind_mark": 0.5}
    return {"behind_mark": float((ranks[behind].sum() - first * (first + 1) / 2) / (first * second))}


def boundaries(tokens: list[str], own: np.ndarray, side: str) -> np.ndarray:
    """Returns how high the boundary before every token is; `tokens` come without the start, `own` with it.

    A word erases what is over as it is read, so that the boundary lies "before" it. A closing bracket can erase what it
    ends itself, so that the boundary lies "behind" it.
    """
    first = 1 if side == "before" else 0
    return own[first : first + len(tokens)]


def found_brackets(held: Corpus, own: np.ndarray, side: str) -> float:
    """Returns the share of the pairs of brackets that are constituents of the trees of the test sentences."""
    sentences = [held.tokens(row)[1:] for row in held.test]
    found = [
        spans_of(tree_of(boundaries(tokens, distance, side))) for tokens, distance in zip(sentences, own, strict=True)
    ]
    return recall(found, [corpora.true_spans(tokens) for tokens in sentences])


def without_dead_chunks(model: keras.Model, held: Corpus) -> dict[str, Any]:
    """Cuts out what nothing ever enters, and measures what changes."""
    small = tfp.remove_dead(model, held.test[:_AT_ONCE, :-1])
    x = held.test[:_AT_ONCE, :-1]
    before, after = (own.predict_on_batch(x) for own in (model, small))
    return {
        "dead/parameters": small.count_params(),
        "dead/chunks": [model.get_layer(name).num_levels - len(small.get_layer(name).levels) for name in LAYERS],
        "dead/difference": float(np.abs(after - before).max()),
        "dead/perplexity": perplexity(small, held.test),
    }
