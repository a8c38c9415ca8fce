"""Rankings of the encoder's neurons, what erasing them costs, and what controlling them changes."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any

import keras
import numpy as np
from support.translation_data import Languages, Pair
from support.translation_decoding import Translator
from support.translation_properties import NONE, Property

from tfprune import experiments, neurons
from tfprune.graph.nodes import copied
from tfprune.graph.walk import fresh_input, functional, run

SHARES = (0.05, 0.1, 0.2, 0.3, 0.4, 0.6, 0.8)
ORDERS = ("top", "bottom", "random")
DIRECTIONS = "svcca directions"


@dataclasses.dataclass(frozen=True)
class Nets:
    """Nets that were trained on the same task, and sentences that none of them has seen.

    Attributes:
        nets: One for each seed; the first is the one that is erased and controlled.
        languages: Their tokens.
        translator: Translates by any form of them.
        pairs: Pairs that were kept back.
        layer: Name of the layer whose neurons are studied, the last one of the encoder.
    """

    nets: list[keras.Model]
    languages: Languages
    translator: Translator
    pairs: list[Pair]
    layer: str

    def data(self, pairs: Sequence[Pair]) -> tuple[list[np.ndarray], np.ndarray]:
        """Inputs in the order of a net's, and targets, of some pairs."""
        given, targets = self.languages.teacher_forced(pairs)
        return [given[tensor.name] for tensor in functional(self.nets[0]).inputs], targets

    def bleu(self, num_sentences: int) -> list[float]:
        """BLEU of each net on the first of the pairs."""
        inputs, targets = self.data(self.pairs[:num_sentences])
        return [self.translator.bleu(targets, self.translator(net, inputs)) for net in self.nets]


@dataclasses.dataclass(frozen=True)
class Rankings:
    """Neurons of the first net by every method.

    Attributes:
        neurons: Rankings by name of the method.
        directions: What the first two nets share, directions of the first.
        similarity: Mean canonical correlation of the first two nets.
    """

    neurons: dict[str, neurons.Ranking]
    directions: neurons.Directions
    similarity: float


def rank(nets: Nets, reading: Property) -> Rankings:
    """Ranks by cross-model correlation on all tokens, and by what tells the values of a property."""
    inputs, _ = nets.data(nets.pairs)
    tokens = [neurons.activations(net, inputs, nets.layer, points="steps", progress=False) for net in nets.nets]
    found = {
        "max correlation": neurons.max_correlation(tokens)[0],
        "min correlation": neurons.min_correlation(tokens)[0],
        "linear regression": neurons.linear_regression(tokens)[0],
    }
    values, labels = labelled(nets, reading)
    found[f"probe ({reading.name})"] = neurons.probe(values, labels).ranking
    found[f"probeless ({reading.name})"] = neurons.probeless(values, labels, standardise=True)
    shared = neurons.svcca(tokens[:2])
    return Rankings(found, shared.directions[0], shared.similarity)


def labelled(nets: Nets, wanted: Property) -> tuple[dict[str, np.ndarray], np.ndarray]:
    """Activations at the tokens that stand for a property of their sentence, and its value at each."""
    values = wanted.labels([pair.target for pair in nets.pairs])
    pairs = [pair for pair, value in zip(nets.pairs, values, strict=True) if value != NONE]
    found = neurons.activations(nets.nets[0], nets.data(pairs)[0], nets.layer, points="steps", progress=False)
    labels = []
    for pair, value in zip(pairs, values[values != NONE], strict=True):
        # The end of a sentence is a token too, but stands for nothing.
        labels += [*wanted.tokens(nets.languages.source.pieces(pair.source), value), NONE]
    chosen = np.array(labels) != NONE
    return {nets.layer: found[nets.layer][chosen]}, np.array(labels)[chosen]


def erase(nets: Nets, rankings: Rankings, num_sentences: int, repeats: int) -> dict[str, experiments.AblationCurves]:
    """BLEU as neurons of the first net are erased along each ranking, and directions along theirs.

    An erased neuron is 0 wherever it is read, in the recurrence too. The random curves stand with each method.
    """
    data = nets.data(nets.pairs[:num_sentences])
    options = {"metric": nets.translator.bleu, "predict": nets.translator, "steps": list(SHARES)}
    found, random = {}, None
    for name, ranking in rankings.neurons.items():
        orders = ORDERS if random is None else ORDERS[:2]
        curves = experiments.ablation_curve(nets.nets[0], data, ranking, order=orders, repeats=repeats, **options)
        random = curves.curves("random") if random is None else random
        found[name] = curves if "random" in curves.orders else _with_random(curves, random)
    found[DIRECTIONS] = _erase_directions(nets, rankings.directions, data, repeats)
    return found


def _with_random(curves: experiments.AblationCurves, random: np.ndarray) -> experiments.AblationCurves:
    """The same curves with those of random orders, which do not depend on a ranking."""
    return dataclasses.replace(
        curves,
        orders=np.concatenate([curves.orders, ["random"] * len(random)]),
        erased=np.concatenate([curves.erased, curves.erased[:1].repeat(len(random))]),
        values=np.concatenate([curves.values, random]),
    )


def _erase_directions(
    nets: Nets, directions: neurons.Directions, data: tuple, repeats: int
) -> experiments.AblationCurves:
    net, project = with_projection(nets.nets[0], nets.layer)
    inputs, targets = data
    counts = np.unique(np.round(np.append(0, SHARES) * len(directions)).astype(int))
    random = np.random.default_rng(0)
    ways = {"top": [directions.order], "bottom": [directions.order[::-1]]}
    ways["random"] = [random.permutation(len(directions)) for _ in range(repeats)]
    orders, values = [], []
    for order, all_ways in ways.items():
        for way in all_ways:
            orders.append(order)
            values.append([])
            for count in counts:
                project.set_weights(_projection(directions, way[:count]))
                values[-1].append(nets.translator.bleu(targets, nets.translator(net, inputs)))
    return experiments.AblationCurves(
        settings={"metric": "bleu", "num_units": len(directions), "groups": [nets.layer], "seed": 0},
        orders=np.array(orders),
        erased=np.array(["mean"] * len(orders)),
        num_off=counts,
        values=np.array(values),
    )


def _projection(directions: neurons.Directions, off: np.ndarray) -> list[np.ndarray]:
    """Kernel and bias of a dense layer that takes directions out of a row of units."""
    removed = directions.transform[:, off] @ directions.inverse[off]
    return [np.eye(len(removed)) - removed, directions.mean @ removed]


def with_projection(net: keras.Model, layer: str) -> tuple[keras.Model, keras.layers.Dense]:
    """A net in which a dense layer, made to change nothing, reads what a recurrent layer gives out, and its last state.

    The recurrence itself goes on from what the layer has computed: directions are no units that could be masked there.
    """
    units = net.get_layer(layer).units
    project = keras.layers.Dense(units, kernel_initializer="identity", name=f"{layer}_projection")

    def call(node: Any, args: tuple, kwargs: dict) -> list[Any]:
        outputs = keras.tree.flatten(copied(node.operation)(*args, **kwargs))
        if node.operation.name == layer:
            outputs[:2] = [project(output) for output in outputs[:2]]
        return outputs

    inputs = [fresh_input(tensor) for tensor in functional(net).inputs]
    return keras.Model(inputs, run(net, inputs, call)), project


@dataclasses.dataclass(frozen=True)
class Finding:
    """The neurons of a property, and what became of translations when they were controlled.

    Attributes:
        wanted: The property.
        ranking: Neurons by how far apart their means at its values are.
        accuracy: Of a linear probe on tokens that it has not seen, and that of always saying the commonest value.
        by_neuron: Success and BLEU as the best neuron alone is clamped to mean + z std.
        by_shift: Success and BLEU as the best neurons are shifted by a multiple of the difference of class means.
        num_shifted: How many neurons are shifted.
    """

    wanted: Property
    ranking: neurons.Ranking
    accuracy: tuple[float, float]
    by_neuron: experiments.DoseCurve
    by_shift: experiments.DoseCurve
    num_shifted: int


def control(
    nets: Nets, wanted: Property, *, num_sentences: int, zs: Sequence[float], betas: Sequence[float], share: float
) -> Finding | None:
    """Finds the neurons of a property and pushes them from its one value to the other.

    The sentences are those that have the value that control starts from, in the true translation and in the net's own.
    None where there is no such sentence: the net has not learnt to say it.
    """
    pairs = _said(nets, wanted)[:num_sentences]
    if not pairs:
        return None
    values, labels = labelled(nets, wanted)
    two = np.isin(labels, (wanted.source, wanted.target))
    values, labels = {name: own[two] for name, own in values.items()}, labels[two]
    ranking = neurons.probeless(values, labels, standardise=True)
    probe = neurons.probe(values, labels)
    num_shifted = max(1, round(share * len(ranking)))
    best = ranking.labels(num_shifted)
    shift = neurons.class_shift(values, labels, source=wanted.source, target=wanted.target, beta=1.0)
    options = {
        "measured": lambda tokens: wanted.labels(nets.translator.texts(tokens)),
        "wanted": wanted.target,
        "metric": nets.translator.bleu,
        "predict": nets.translator,
    }
    net, data = nets.nets[0], nets.data(pairs)
    return Finding(
        wanted,
        ranking,
        (probe.test_accuracy, probe.majority_accuracy),
        experiments.dose_curve(net, data, best[:1], zs, calibration=nets.data(nets.pairs)[0], **options),
        experiments.dose_curve(net, data, best, betas, shift=shift, **options),
        num_shifted,
    )


def _said(nets: Nets, wanted: Property) -> list[Pair]:
    pairs = [pair for pair in nets.pairs if wanted.label(pair.target) == wanted.source]
    if not pairs:
        return []
    tokens = nets.translator(nets.nets[0], nets.data(pairs)[0])
    labels = wanted.labels(nets.translator.texts(tokens))
    return [pair for pair, label in zip(pairs, labels, strict=True) if label == wanted.source]


def texts(nets: Nets, pairs: Sequence[Pair], unit: int) -> tuple[list[list[str]], list[np.ndarray]]:
    """Tokens of sentences, and the activation of a neuron at each."""
    inputs, _ = nets.data(pairs)
    found = neurons.activations(nets.nets[0], inputs, nets.layer, points="steps", progress=False)
    values, samples = found[nets.layer][:, unit], found.samples[nets.layer]
    pieces = [[*nets.languages.source.pieces(pair.source), "</s>"] for pair in pairs]
    return pieces, [values[samples == number] for number in range(len(pairs))]
