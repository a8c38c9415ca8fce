"""The net of the example of translation: recurrent encoder and decoder with attention, and its training."""

from __future__ import annotations

import functools
import json
import time
from collections.abc import Sequence
from pathlib import Path

import keras
import numpy as np
import tensorflow as tf
from support.translation_data import (
    END,
    PADDING,
    Languages,
    Pair,
    Parts,
    padded,
    padded_starts,
    read_pairs,
    split,
)
from support.translation_grammar import generated_pairs

from tfprune.files import atomic_write

CHECKPOINT = "model.keras"
HISTORY = "history.json"
_BATCHES_IN_POOL = 20


def translation_net(num_sources: int, num_targets: int, *, units: int, num_layers: int, dropout: float) -> keras.Model:
    """A net with the inputs ``source`` and ``target`` (token numbers) that says the logits of each next token.

    Encoder and decoder have ``num_layers`` LSTM layers each, ``encoder_1``, ``decoder_1`` and so on. The decoder starts
    from the encoder's last states through dense bridges, so that units of both stay apart: without them a unit of the
    encoder and one of the decoder would be one. Attention is Luong's, with a matrix between decoder and encoder.
    """
    layers = keras.layers
    source = keras.Input((None,), dtype="int32", name="source")
    target = keras.Input((None,), dtype="int32", name="target")
    h = layers.Embedding(num_sources, units, _embeddings(), mask_zero=True, name="source_embedding")(source)
    starts = []
    for number in range(1, num_layers + 1):
        h = layers.Dropout(dropout, name=f"encoder_{number}_dropout")(h)
        lstm = layers.LSTM(units, return_sequences=True, return_state=True, name=f"encoder_{number}")
        h, *states = lstm(h)
        bridges = (layers.Dense(units, name=f"bridge_{number}_{kind}") for kind in ("state", "cell"))
        starts.append([bridge(state) for bridge, state in zip(bridges, states, strict=True)])
    encoded = h
    h = layers.Embedding(num_targets, units, _embeddings(), mask_zero=True, name="target_embedding")(target)
    for number in range(1, num_layers + 1):
        h = layers.Dropout(dropout, name=f"decoder_{number}_dropout")(h)
        lstm = layers.LSTM(units, return_sequences=True, return_state=True, name=f"decoder_{number}")
        h, *_ = lstm(h, initial_state=starts[number - 1])
    key = layers.Dense(units, use_bias=False, name="key")(encoded)
    # Keras's own layer of attention, in its version 3.8, cannot be told of padding.
    scores = layers.Dot((2, 2), name="attention_scores")([h, key])
    weights = layers.Softmax(name="attention")(scores, mask=keras.ops.greater(source, PADDING)[:, None, :])
    context = layers.Dot((2, 1), name="context")([weights, encoded])
    h = layers.Concatenate(name="decoded_and_context")([h, context])
    h = layers.Dense(units, activation="tanh", name="attended")(h)
    h = layers.Dropout(dropout, name="attended_dropout")(h)
    return keras.Model([source, target], layers.Dense(num_targets, name="next_token")(h), name="translation")


def _embeddings() -> keras.Initializer:
    # Keras's own, some thirty times smaller, take several times as many steps until the attention finds its words.
    return keras.initializers.RandomNormal(stddev=1.0)


def compile_net(net: keras.Model, learning_rate: float, num_steps: int) -> None:
    """Adam with gradients of bounded norm, and a rate that falls to nothing along half a cosine."""
    schedule = keras.optimizers.schedules.CosineDecay(learning_rate, num_steps)
    net.compile(
        keras.optimizers.Adam(schedule, clipnorm=5.0),
        keras.losses.SparseCategoricalCrossentropy(from_logits=True, ignore_class=PADDING),
        # Batches differ in length, and XLA would compile anew for each.
        jit_compile=False,
    )


@functools.lru_cache(maxsize=1)
def load_parts(pairs: str | None, num_pairs: int, max_words: int, num_held_out: int) -> Parts:
    """Pairs of a file, or ``num_pairs`` of the grammar, to learn from and kept back."""
    found = generated_pairs(num_pairs) if pairs is None else read_pairs(pairs)
    return split(found, max_words=max_words, num_held_out=num_held_out)


def train(
    seed: int,
    *,
    pairs: str | None,
    num_pairs: int,
    max_words: int,
    num_held_out: int,
    share: float,
    units: int,
    num_layers: int,
    dropout: float,
    epochs: int,
    batch_size: int,
    learning_rate: float,
    folder: Path,
) -> dict[str, list[float]]:
    """Trains the net of a seed on its own share of the pairs; after each epoch all of it goes to the folder.

    Started again with the same folder, it goes on after the last whole epoch. The tokens lie two folders above.

    Returns:
        Loss of training and on pairs that were kept back, in nats per token, after each epoch.
    """
    parts = load_parts(pairs, num_pairs, max_words, num_held_out)
    languages = Languages.load(folder.parents[1])
    training = _Rows(languages, parts.share(seed, share), batch_size)
    held_out = _Rows(languages, parts.held_out[:500], batch_size)
    history_path = folder / HISTORY
    if (folder / CHECKPOINT).is_file():
        net, history = keras.models.load_model(folder / CHECKPOINT), json.loads(history_path.read_text())
    else:
        keras.utils.set_random_seed(seed)
        sizes = (len(languages.source), len(languages.target))
        net, history = translation_net(*sizes, units=units, num_layers=num_layers, dropout=dropout), []
        compile_net(net, learning_rate, epochs * training.num_batches)
    # The weights know how many steps they have seen; a line of history may be ahead of them.
    done = int(net.optimizer.iterations) // training.num_batches
    history = history[:done]
    for epoch in range(done, epochs):
        start = time.perf_counter()
        _reseed(net, seed, epoch)
        told = net.fit(training.epoch([seed, epoch]), epochs=1, shuffle=False, verbose=0).history["loss"][0]
        found = net.evaluate(held_out.epoch([0]), verbose=0)
        seconds = time.perf_counter() - start
        history.append({"loss": float(told), "held_out_loss": float(found), "seconds": seconds})
        with atomic_write(history_path) as temporary:
            temporary.write_text(json.dumps(history, indent=1) + "\n")
        with atomic_write(folder / CHECKPOINT) as temporary:
            net.save(temporary)
    return {name: [line[name] for line in history] for name in ("loss", "held_out_loss", "seconds")}


def _reseed(net: keras.Model, seed: int, epoch: int) -> None:
    """Makes what is dropped depend on seed and epoch alone; Keras does not save how far a random generator has come."""
    for number, layer in enumerate(net.layers):
        generator = getattr(layer, "seed_generator", None)
        if generator is not None:
            generator.state.assign(np.random.SeedSequence([seed, epoch, number]).generate_state(2))


class _Rows:
    """Pairs as rows of tokens, and epochs of batches of them."""

    def __init__(self, languages: Languages, pairs: Sequence[Pair], batch_size: int):
        self._sources = languages.source_rows([pair.source for pair in pairs])
        self._targets = [languages.target.numbers(pair.target) for pair in pairs]
        self._lengths = np.array([len(target) for target in self._targets])
        self._batch_size = batch_size
        self.num_batches = len(_pieces(self._lengths, batch_size))

    def epoch(self, seed: Sequence[int]) -> tf.data.Dataset:
        """Batches of sentences of like length, in an order that the seed fixes."""
        random = np.random.default_rng(seed)
        pools = _pieces(random.permutation(len(self._lengths)), self._batch_size * _BATCHES_IN_POOL)
        batches = []
        for pool in pools:
            batches += _pieces(pool[np.argsort(self._lengths[pool], kind="stable")], self._batch_size)
        order = random.permutation(len(batches))
        rows = tf.TensorSpec((None, None), "int32")
        signature = ({"source": rows, "target": rows}, rows)
        dataset = tf.data.Dataset.from_generator(
            lambda: (self._batch(batches[number]) for number in order), output_signature=signature
        )
        return dataset.apply(tf.data.experimental.assert_cardinality(len(batches)))

    def _batch(self, places: np.ndarray) -> tuple[dict[str, np.ndarray], np.ndarray]:
        targets = [self._targets[place] for place in places]
        given = {"source": padded([self._sources[place] for place in places]), "target": padded_starts(targets)}
        return given, padded([[*row, END] for row in targets])


def _pieces(row: np.ndarray, size: int) -> list[np.ndarray]:
    return [row[start : start + size] for start in range(0, len(row), size)]
