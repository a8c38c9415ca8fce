"""A row for every public class in `keras.layers`: how to put it into a net, adapted, between two kernels.

`python tests/every_layer.py` prints `docs/layers.md`.
"""

import inspect
import sys
from dataclasses import dataclass
from typing import Any

import keras
import numpy as np
from keras import layers, ops

import tfprune

VIDEO, IMAGE, SEQUENCE, VECTOR = (4, 4, 4, 2), (8, 8, 2), (6, 3), (4,)
COLOURS = (8, 8, 3)
SHAPES = {"1D": SEQUENCE, "2D": IMAGE, "3D": VIDEO}


@dataclass
class Row:
    """How a net is made around a layer.

    Attributes:
        make: makes the layer.
        shape: of one sample of the model's input.
        units: how many channels the kernel in front of the layer makes; None for a layer that stands at the input.
        call: calls the layer on what comes from the front.
        adapt: what the layer is adapted to, or None.
        dtype: of the model's input.
        values: for an input that is not normal numbers: takes a generator and a shape.
        behind: what is done with its outputs so that a dense layer can read them.
        training: whether two models with the same seeds agree in training mode too.
    """

    make: Any
    shape: tuple
    units: int | None = 6
    call: Any = staticmethod(lambda layer, h: layer(h))
    adapt: Any = None
    dtype: str = "float32"
    values: Any = staticmethod(lambda generator, shape: generator.normal(size=shape))
    behind: Any = staticmethod(lambda h: h)
    training: bool = True


ROWS = {}
"""Rows by the name of the class."""

ELSEWHERE = {
    "InputLayer": "every functional model holds them",
    "InputSpec": "no layer",
    "Layer": "the base of all; what is derived from it by users is tested beside this table",
    "Wrapper": "a base class",
    "TFSMLayer": "holds a SavedModel, of which there is no second copy: tested beside this table",
    "Equalization": "Keras itself cannot put it into a functional model",
    "MaxNumBoundingBoxes": "takes dictionaries with boxes, in front of a model",
    "JaxLayer": "for another backend",
    "FlaxLayer": "for another backend",
    "TorchModuleWrapper": "for another backend",
}
"""Classes that have no row, and why."""


def public_classes():
    """Returns the classes of `keras.layers` by name; of several names of one class, its own or the first."""
    found = {}
    for name, value in vars(layers).items():
        if inspect.isclass(value) and not name.startswith("_"):
            found.setdefault(value, []).append(name)
    return {value.__name__ if value.__name__ in names else names[0]: value for value, names in found.items()}


def row(name, make, shape, units=6, **options):
    ROWS[name] = Row(make, shape, units, **options)


def simple(names, shape, *args, units=6, **options):
    """Rows of layers that are called on one tensor; classes that this Keras does not have yet are left out."""
    for name in names.split():
        if hasattr(layers, name):
            own = {key: value for key, value in options.items() if key in Row.__dataclass_fields__}
            rest = {key: value for key, value in options.items() if key not in own}
            row(name, lambda name=name, rest=rest: getattr(layers, name)(*args, **rest), shape, units, **own)


# Kernels.
simple("Dense", VECTOR, 5)
row("EinsumDense", lambda: layers.EinsumDense("abc,cd->abd", (6, 5), bias_axes="d"), SEQUENCE)
for rank, shape in SHAPES.items():
    simple(f"Conv{rank} Conv{rank}Transpose SeparableConv{rank}", shape, 5, 2)
    simple(f"DepthwiseConv{rank}", shape, 2)
    simple(f"ConvLSTM{rank}", (3, *shape[:-1], 2), 4, 2)
    simple(f"MaxPooling{rank} AveragePooling{rank} UpSampling{rank} ZeroPadding{rank} Cropping{rank}", shape, 1)
    simple(f"AdaptiveAveragePooling{rank} AdaptiveMaxPooling{rank}", shape, 2)
    simple(f"GlobalMaxPooling{rank} GlobalAveragePooling{rank}", shape)
    simple(f"SpatialDropout{rank}", shape, 0.3)
row("Embedding", lambda: layers.Embedding(9, 5), (4,), None, dtype="int32", values=lambda g, s: g.integers(0, 9, s))
if hasattr(layers, "ReversibleEmbedding"):
    simple("ReversibleEmbedding", (4,), 9, 5, units=None, dtype="int32", values=lambda g, s: g.integers(0, 9, s))

# Recurrence.
simple("SimpleRNN GRU LSTM", SEQUENCE, 5)
row("Bidirectional", lambda: layers.Bidirectional(layers.GRU(5, return_sequences=True)), SEQUENCE)
row("TimeDistributed", lambda: layers.TimeDistributed(layers.Dense(5)), SEQUENCE)
row("RNN", lambda: layers.RNN(layers.LSTMCell(5)), SEQUENCE)
for name in ("SimpleRNNCell", "GRUCell", "LSTMCell"):
    row(name, lambda name=name: layers.RNN(getattr(layers, name)(5)), SEQUENCE)
row("StackedRNNCells", lambda: layers.RNN(layers.StackedRNNCells([layers.GRUCell(5), layers.LSTMCell(4)])), SEQUENCE)

# Attention and merging.
for name in ("Attention", "AdditiveAttention"):
    row(name, lambda name=name: getattr(layers, name)(use_scale=True), SEQUENCE, call=lambda layer, h: layer([h, h]))
row("MultiHeadAttention", lambda: layers.MultiHeadAttention(3, 4), SEQUENCE, call=lambda layer, h: layer(h, h))
row("GroupQueryAttention", lambda: layers.GroupQueryAttention(4, 4, 2), SEQUENCE, call=lambda layer, h: layer(h, h))
for name in ("Add", "Subtract", "Multiply", "Average", "Maximum", "Minimum", "Concatenate"):
    row(name, lambda name=name: getattr(layers, name)(), VECTOR, call=lambda layer, h: layer([h, layers.Dense(6)(h)]))
row("Dot", lambda: layers.Dot(axes=-1), SEQUENCE, call=lambda layer, h: layer([h, layers.Dense(6)(h)]))

# Norms, activations, noise.
simple("BatchNormalization LayerNormalization UnitNormalization RMSNormalization", VECTOR)
row("GroupNormalization", lambda: layers.GroupNormalization(3), IMAGE)
row("SpectralNormalization", lambda: layers.SpectralNormalization(layers.Dense(5)), VECTOR)
row("Normalization", layers.Normalization, VECTOR, None, adapt=lambda g: g.normal(3.0, 2.0, (50, 4)).astype("float32"))
simple("ReLU LeakyReLU ELU PReLU Softmax Identity ActivityRegularization Flatten", VECTOR)
simple("Activation", VECTOR, "gelu")
simple("Dropout GaussianDropout GaussianNoise AlphaDropout", VECTOR, 0.3)
row("Masking", layers.Masking, SEQUENCE, behind=lambda h: layers.GlobalAveragePooling1D()(h))
row("Lambda", lambda: layers.Lambda(lambda h: 2.0 * h), VECTOR)

# Shapes.
row("Reshape", lambda: layers.Reshape((3, 6, 1)), SEQUENCE, call=lambda layer, h: layer(layers.Dense(3)(h)))
row("Permute", lambda: layers.Permute((2, 1)), SEQUENCE)
row("RepeatVector", lambda: layers.RepeatVector(3), VECTOR)
simple("Rescaling", VECTOR, 0.5, offset=0.1)

# Images.
simple("Resizing CenterCrop", IMAGE, 4, 4)
simple("RandomCrop", IMAGE, 8, 8)
simple("RandomFlip", IMAGE)
simple("RandomRotation RandomContrast RandomZoom", IMAGE, 0.2)
simple("RandomTranslation", IMAGE, 0.2, 0.2)
simple("RandomBrightness RandomPerspective", COLOURS, 0.2, units=3)
simple("RandomShear", COLOURS, (0.1, 0.2), units=3)
simple("RandomPosterization", COLOURS, 4, units=3)
simple("RandomSaturation RandomSharpness RandomHue RandomColorDegeneration RandomGrayscale", COLOURS, 0.4, units=3)
simple("RandomInvert RandomErasing RandomElasticTransform", COLOURS, 0.4, units=3)
simple("RandomColorJitter RandomGaussianBlur AutoContrast Solarization", COLOURS, units=3)
simple("AugMix RandAugment ContrastLimitedAdaptiveHistogramEqualization", COLOURS, units=3)
simple("MixUp CutMix", COLOURS, units=3)
row("Pipeline", lambda: layers.Pipeline([layers.Rescaling(0.5), layers.RandomFlip()]), IMAGE)

# What stands at the input: words, categories, sound.
WORDS = np.array(["red", "green", "blue", "grey"])
CATEGORIES = {"dtype": "int64", "values": lambda g, s: g.integers(0, 9, s), "units": None}
FLOAT = {"behind": lambda h: ops.cast(h, "float32")}
row(
    "StringLookup", lambda: layers.StringLookup(output_mode="multi_hot"), (3,), None, dtype="string",
    adapt=lambda g: WORDS, values=lambda g, s: g.choice(WORDS, s), **FLOAT,
)  # fmt: skip
row(
    "IntegerLookup", lambda: layers.IntegerLookup(output_mode="tf_idf"), (3,), None, dtype="int64",
    adapt=lambda g: g.integers(0, 9, (20, 3)), values=lambda g, s: g.integers(0, 9, s), **FLOAT,
)  # fmt: skip
row(
    "TextVectorization", lambda: layers.TextVectorization(output_sequence_length=4), (1,), None, dtype="string",
    adapt=lambda g: np.array(["red green", "blue and grey"]), values=lambda g, s: g.choice(WORDS, s), **FLOAT,
)  # fmt: skip
row(
    "Discretization", lambda: layers.Discretization(num_bins=4, output_mode="one_hot"), (1,), None,
    adapt=lambda g: g.normal(size=(90, 1)).astype("float32"), **FLOAT,
)  # fmt: skip
row("CategoryEncoding", lambda: layers.CategoryEncoding(9, "multi_hot"), (3,), **CATEGORIES, **FLOAT)
row("Hashing", lambda: layers.Hashing(7, output_mode="multi_hot"), (3,), **CATEGORIES, **FLOAT)
row(
    "HashedCrossing", lambda: layers.HashedCrossing(7, output_mode="one_hot"), (2,), **CATEGORIES, **FLOAT,
    call=lambda layer, x: layer((x[:, :1], x[:, 1:])),
)  # fmt: skip
simple("MelSpectrogram", (600,), units=None, num_mel_bins=8, fft_length=64, sequence_stride=32)
simple("STFTSpectrogram", (120, 1), units=None, frame_length=16, frame_step=8, fft_length=16)


if tuple(int(part) for part in keras.__version__.split(".")[:2]) < (3, 15):
    # Faults of earlier versions, in models that nothing was removed from.
    for name, reason in {
        "RandomGrayscale": "this Keras cannot put it into a functional model",
        "IntegerLookup": "this Keras cannot load one that weighs by tf-idf",
        "Discretization": "this Keras does not know the shape of what it gives out",
    }.items():
        if ROWS.pop(name, None) is not None:
            ELSEWHERE[name] = reason


def net_around(own, generator):
    """Returns a net around the layer of a row, and the layer, adapted; every weight is random."""
    layer = own.make()
    if own.adapt is not None:
        layer.adapt(own.adapt(generator))
    x = keras.Input(own.shape, dtype=own.dtype, name="x")
    h = x if own.units is None else layers.Dense(own.units, activation="tanh", name="before")(x)
    h = own.behind(own.call(layer, h))
    h = layers.Dense(5, activation="tanh", name="after")(layers.Flatten(name="flat")(h))
    model = keras.Model(x, layers.Dense(2, name="out")(h), name=f"around_{layer.name}")
    for variable in model.weights:
        if "float" in variable.dtype and own.adapt is None:
            low = 0.5 if variable.name in ("gamma", "scale", "moving_variance") else -0.5
            variable.assign(generator.uniform(low, low + 1.0, variable.shape))
    return model, layer


def net_with(name, generator):
    """Returns a net around the layer `name` and data for it."""
    own = ROWS[name]
    x = own.values(generator, (12, *own.shape)).astype("object" if own.dtype == "string" else own.dtype)
    return net_around(own, generator)[0], x


def what_is_read(name):
    """Returns what `unit_groups` makes of a layer between two kernels: its own units, and those in front of it."""
    model, layer = net_around(ROWS[name], np.random.default_rng(0))
    graph = tfprune.unit_groups(model)
    made = {member.operation for group in graph.values() for member in group.members}
    own = "makes units" if layer in made or any(inner in made for inner in layer._flatten_layers()) else ""
    if ROWS[name].units is None:
        return own, "stands at the input"
    if layer.name in graph.walls:
        return own, f"wall: {graph.walls[layer.name]}"
    if "before" in graph.fixed:
        return own, f"stay: {graph.fixed['before'][1].removeprefix(layer.name + ': ')}"
    return own, "can go"


def table():
    """Returns `docs/layers.md`."""
    lines = [
        "# Every layer of Keras",
        "",
        "What `unit_groups` makes of each public class in `keras.layers` that stands between two kernels: whether it",
        "makes units of its own, and whether those in front of it can go. Whatever stays is copied with all that it",
        "carries. `tests/test_every_layer.py` cuts each of these nets; this page is the output of",
        "`python tests/every_layer.py`.",
        "",
        "| layer | own units | units in front |",
        "|---|---|---|",
        *(f"| {name} | {' | '.join(what_is_read(name))} |" for name in sorted(ROWS)),
        "",
        *(f"- {name}: {reason}." for name, reason in sorted(ELSEWHERE.items())),
    ]
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    sys.stdout.write(table())
