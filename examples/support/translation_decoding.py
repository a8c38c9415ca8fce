"""Greedy translation by any form of the net (masked, controlled, cut), one token after the other."""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import keras
import numpy as np
import tensorflow as tf
from keras.src import backend
from support.translation_data import END, PADDING, START, Languages

from tfprune.compiling import ByLengths
from tfprune.graph.walk import functional, nodes_of

TARGET = "target"


class _Cut(NamedTuple):
    """A net cut where what depends on the translation so far begins.

    Attributes:
        encoder: All inputs but the translation -> what the decoder reads of them.
        decoder: The translation and what the encoder gives -> logits, then the new states.
        states: For each new state of the decoder, its place among what the encoder gives: where the old one stands.
    """

    encoder: keras.Model
    decoder: keras.Model
    states: list[int]


def _cut(net: keras.Model) -> _Cut:
    """Finds the cut in the graph itself, so that masks and stand-ins may be anywhere."""
    graph = functional(net)
    (target,) = [tensor for tensor in graph.inputs if tensor.name == TARGET]
    dependent, crossing, old, new = {id(target)}, {}, [], []
    for node in nodes_of(net):
        if not any(id(tensor) in dependent for tensor in node.input_tensors):
            continue
        dependent.update(id(tensor) for tensor in node.outputs)
        crossing.update((id(tensor), tensor) for tensor in node.input_tensors if id(tensor) not in dependent)
        starts = node.arguments.kwargs.get("initial_state")
        if starts is not None:
            old += starts
            new += node.outputs[1:]
    given = list(crossing.values())
    places = [next(place for place, tensor in enumerate(given) if tensor is own) for own in old]
    others = [tensor for tensor in graph.inputs if tensor is not target]
    return _Cut(keras.Model(others, given), keras.Model([target, *given], [graph.outputs[0], *new]), places)


@functools.lru_cache(maxsize=2)
def _decode(net: keras.Model) -> Callable[[list[Any], Any], Any]:
    """A compiled function: the inputs but the translation, and a number of steps -> tokens, ``(sentences, steps)``."""
    encoder, decoder, places = _cut(net)

    def decode(inputs: list[Any], num_steps: Any) -> Any:
        given = encoder(inputs, training=False)
        masks = [backend.get_keras_mask(tensor) for tensor in given]
        num_sentences = tf.shape(inputs[0])[0]

        def unfinished(step: Any, tokens: Any, said: Any, states: list[Any]) -> Any:
            return (step < num_steps) & ~tf.reduce_all(tf.reduce_any(said == END, axis=0) & (step > 0))

        def say(step: Any, tokens: Any, said: Any, states: list[Any]) -> tuple:
            now = list(given)
            for place, state in zip(places, states, strict=True):
                now[place] = state
            # `call` itself: called as a layer, it would warn that the masks end here.
            logits, *new = decoder.call([tokens, *now], training=False, mask=[None, *masks])
            # Padding and start are no words.
            best = START + 1 + tf.argmax(logits[:, 0, START + 1 :], axis=-1, output_type="int32")
            return step + 1, best[:, None], tf.tensor_scatter_nd_update(said, [[step]], best[None]), new

        first = tf.fill([num_sentences, 1], START)
        nothing = tf.fill([num_steps, num_sentences], PADDING)
        states = [given[place] for place in places]
        shapes = [tf.TensorShape([]), first.shape, nothing.shape, [state.shape for state in states]]
        loop = tf.while_loop(unfinished, say, [tf.constant(0), first, nothing, states], shape_invariants=shapes)
        return tf.transpose(loop[2])

    return ByLengths(decode)


class Translator:
    """Translates by a net; also what ``experiments.ablation_curve`` and ``dose_curve`` take as ``predict``.

    Args:
        languages: The tokens.
        max_tokens: Where a sentence that does not end is broken off.
    """

    def __init__(self, languages: Languages, max_tokens: int):
        self._languages = languages
        self._max_tokens = max_tokens

    def __call__(self, net: keras.Model, inputs: Sequence[np.ndarray]) -> np.ndarray:
        """Tokens that the net says, ``(sentences, max_tokens)``; the translations among the inputs are not looked at.

        Args:
            net: The net of :func:`translation_net`, or what a mask, control or removal has made of it.
            inputs: Arrays in the order of the net's inputs.
        """
        names = [tensor.name for tensor in functional(net).inputs]
        given = [tf.convert_to_tensor(own) for name, own in zip(names, inputs, strict=True) if name != TARGET]
        return _decode(net)(given, tf.constant(self._max_tokens)).numpy()

    def texts(self, tokens: np.ndarray) -> list[str]:
        """The sentences of rows of tokens."""
        return [self._languages.target.text(row) for row in tokens]

    def bleu(self, targets: np.ndarray, tokens: np.ndarray) -> float:
        """Corpus BLEU, 0 to 100, of translations; both are rows of tokens."""
        # Imported here: only this example needs it.
        import sacrebleu

        return sacrebleu.corpus_bleu(self.texts(tokens), [self.texts(targets)]).score
