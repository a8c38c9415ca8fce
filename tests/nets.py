"""A table of tiny networks, one for every kind of layer and every trap, each with random weights everywhere.

`NETS[name]()` builds a fresh model; every one has at least one group of units, two units in each, and no softmax at its
head unless the name says so. `inputs_for` makes data that fit. Names and sizes are part of the tests' expectations.
"""

from inspect import signature

import keras
import numpy as np
import pytest
import tensorflow as tf
from conftest import SEED, randomise
from keras import layers, ops
from keras.src.applications import convnext

from tfprune.graph import register
from tfprune.layers import ONLSTM, CrossedConv, CrossedDense, ONLSTMCell

VOCABULARY = 9
"""Every Embedding here has as many entries."""

# Keras 3.8 knows no gates of heads.
GATED = {"use_gate": True} if "use_gate" in signature(layers.MultiHeadAttention).parameters else {}

NETS = {}
"""Builders by name."""

WALLS = {}
"""Names of the operations that cannot be read, by net; nets that are not here have none."""


EARLY_KERAS = not hasattr(layers, "ReversibleEmbedding")
"""Whether this Keras has faults of its own that later versions have mended."""


def net(build=None, *, walls=(), needs=None):
    """Puts a builder into the table; it returns `(inputs, outputs)`, or a whole model.

    Where this version of Keras lacks the layer `needs`, a test that builds the net is skipped.
    """

    def keep(build):
        def make():
            if needs and not hasattr(layers, needs):
                pytest.skip(f"Keras {keras.__version__} has no layer {needs}")
            made = build()
            model = made if isinstance(made, keras.Model) else keras.Model(*made, name=build.__name__)
            return randomise(model)

        NETS[build.__name__] = make
        if walls:
            WALLS[build.__name__] = tuple(walls)
        return build

    return keep if build is None else keep(build)


def inputs_for(model, batch=4, seed=SEED):
    """Returns one array per input of `model`: normal numbers, or entries of the vocabulary."""
    generator = np.random.default_rng(seed)
    arrays = []
    for tensor in model.inputs:
        shape = (batch, *tensor.shape[1:])
        if np.dtype(str(tensor.dtype)).kind in "iu":
            arrays.append(generator.integers(0, VOCABULARY, shape).astype(tensor.dtype))
        else:
            arrays.append(generator.normal(size=shape).astype(tensor.dtype))
    return arrays


def random_masks(num_units, num_masks=4, seed=SEED, groups=None):
    """Returns bool masks `(num_masks, num_units)`, about half on; where `groups` are given, none is emptied or full."""
    generator = np.random.default_rng(seed)
    masks = generator.random((num_masks, num_units)) < 0.5
    for group in groups or ():
        part = masks[:, group.start : group.start + group.size]
        for row in part:
            if row.all() or not row.any():
                row[:] = generator.permutation(np.arange(group.size) % 2 == 0)
    return masks


def flat_outputs(outputs):
    """Returns all outputs of a model for one batch as one float64 array `(batch, ...)`."""
    outputs = [np.asarray(ops.convert_to_numpy(output), "float64") for output in keras.tree.flatten(outputs)]
    return np.concatenate([output.reshape(len(output), -1) for output in outputs], axis=1)


def outputs_of(model, inputs, on_nodes=None):
    """Returns the outputs for a list of arrays, `(batch, numbers)` in float64.

    For a masked model `on_nodes` is one row or one per sample, bool or float.
    """
    rows = [] if on_nodes is None else [np.atleast_2d(on_nodes).astype("float32")]
    tensors = [ops.convert_to_tensor(array) for array in [*inputs, *rows]]
    return flat_outputs(model(tensors if len(tensors) > 1 else tensors[0], training=False))


def head_without_softmax(model):
    """Returns a model that ends before the softmax of its one output, with the same layers and weights before it.

    A softmax hides differences where it saturates. A model without softmax at its head comes back as it is.
    """
    (output,) = model.outputs
    (inputs,) = model.inputs if len(model.inputs) == 1 else (model.inputs,)
    head = output._keras_history.operation
    if isinstance(head, layers.Softmax):
        return keras.Model(inputs, head.input, name=model.name)
    if getattr(head, "activation", None) is not keras.activations.softmax:
        return model
    if isinstance(head, layers.Activation):
        return keras.Model(inputs, head.input, name=model.name)
    linear = type(head).from_config({**head.get_config(), "activation": "linear"})
    result = keras.Model(inputs, linear(head.input), name=model.name)
    linear.set_weights(head.get_weights())
    return result


def Dense(units, activation=None, **kwargs):
    return layers.Dense(units, activation=activation, **kwargs)


# Dense ----------------------------------------------------------------------------------------------------------------


@net
def dense_chain():
    """Activations with f(0) != 0."""
    x = keras.Input((4,), name="x")
    h = Dense(5, "sigmoid", name="first")(x)
    h = Dense(6, "softplus", name="second")(h)
    h = Dense(4, "relu", name="third")(h)
    return x, Dense(3, name="out")(h)


@net
def dense_sequential():
    return keras.Sequential(
        [
            keras.Input((3,), name="x"),
            Dense(5, name="first"),
            layers.Activation("exponential", name="exponential"),
            layers.Dropout(0.3, name="dropout"),
            Dense(4, "hard_sigmoid", use_bias=False, name="second"),
            Dense(2, name="out"),
        ],
        name="dense_sequential",
    )


@net
def dense_rank_3():
    x = keras.Input((5, 3), name="x")
    h = Dense(6, "tanh", name="first")(x)
    h = Dense(4, "relu", name="second")(h)
    return x, Dense(2, name="out")(layers.Flatten(name="flatten")(h))


@net
def softmax_head():
    x = keras.Input((3,), name="x")
    return x, Dense(4, "softmax", name="out")(Dense(6, "tanh", name="hidden")(x))


@net
def hidden_softmax():
    """The softmax looks across units: those of `gate` stay."""
    x = keras.Input((4,), name="x")
    h = Dense(5, "sigmoid", name="first")(x)
    h = Dense(5, "softmax", name="gate")(h)
    h = Dense(4, "elu", name="last")(h)
    return x, Dense(2, name="out")(h)


@net
def hidden_softmax_layer():
    x = keras.Input((4,), name="x")
    h = Dense(5, "sigmoid", name="first")(x)
    h = layers.Softmax(name="softmax")(Dense(5, name="gate")(h))
    h = Dense(4, "elu", name="last")(h)
    return x, Dense(2, name="out")(h)


@net(walls=["lambda"])
def lambda_wall():
    x = keras.Input((4,), name="x")
    h = Dense(5, "sigmoid", name="first")(x)
    h = layers.Lambda(lambda tensor: tf.math.erfc(tensor[:, ::-1]), output_shape=(5,), name="lambda")(h)
    h = Dense(4, "elu", name="last")(h)
    return x, Dense(2, name="out")(h)


@net
def einsum_dense():
    x = keras.Input((3, 4), name="x")
    h = layers.EinsumDense("abc,cd->abd", (3, 6), bias_axes="d", activation="tanh", name="first")(x)
    h = layers.EinsumDense("abd,de->abe", (3, 5), activation="sigmoid", name="second")(h)
    return x, Dense(2, name="out")(layers.GlobalAveragePooling1D(name="mean")(h))


@net
def einsum_two_new_axes():
    # More positions than units: where there are as many, Keras adds a bias of one column along the positions.
    x = keras.Input((7, 4), name="x")
    h = layers.EinsumDense("abc,cde->abde", (None, 3, 5), bias_axes="de", activation="sigmoid", name="split")(x)
    h = layers.EinsumDense("abde,def->abf", (None, 6), bias_axes="f", activation="relu", name="join")(h)
    return x, Dense(2, name="out")(h)


@net
def einsum_ellipsis():
    x = keras.Input((3, 2, 4), name="x")
    h = layers.EinsumDense("...x,xy->...y", 5, bias_axes="y", activation="softplus", name="first")(x)
    h = layers.EinsumDense("...y,yz->...z", 6, bias_axes="z", activation="relu", name="second")(h)
    return x, Dense(2, name="out")(layers.GlobalAveragePooling2D(name="mean")(h))


@net
def einsum_per_unit():
    """A kernel letter in input and output: one weight per unit. Kernels over the middle axis and over two axes."""
    x = keras.Input((3, 4), name="x")
    h = Dense(5, "sigmoid", name="first")(x)
    h = layers.EinsumDense("abc,c->abc", (3, 5), bias_axes="c", name="scale")(h)
    h = layers.EinsumDense("abc,bd->adc", (4, 5), bias_axes="dc", activation="tanh", name="mix")(h)
    h = layers.EinsumDense("adc,dce->ae", (5,), bias_axes="e", activation="elu", name="join")(h)
    return x, Dense(2, name="out")(h)


# Convolution ----------------------------------------------------------------------------------------------------------


@net
def conv_1d():
    """valid, same, causal, strided, dilated."""
    x = keras.Input((16, 2), name="x")
    h = layers.Conv1D(4, 3, activation="relu", name="valid")(x)
    h = layers.Conv1D(5, 3, padding="same", activation="sigmoid", name="same")(h)
    h = layers.Conv1D(4, 2, padding="causal", activation="softplus", name="causal")(h)
    h = layers.Conv1D(6, 3, strides=2, activation="tanh", name="strided")(h)
    h = layers.Conv1D(3, 2, dilation_rate=2, padding="same", activation="relu", name="dilated")(h)
    return x, Dense(2, name="out")(layers.Flatten(name="flatten")(h))


@net
def conv_2d():
    x = keras.Input((8, 8, 2), name="x")
    h = layers.Conv2D(4, 3, activation="relu", name="valid")(x)
    h = layers.Conv2D(5, 3, padding="same", activation="sigmoid", name="same")(h)
    h = layers.MaxPooling2D(2, name="pool")(h)
    h = layers.Conv2D(4, 3, strides=2, padding="same", activation="softplus", name="strided")(h)
    h = layers.Conv2D(3, 2, dilation_rate=2, padding="same", activation="tanh", name="dilated")(h)
    return x, Dense(2, name="out")(layers.Flatten(name="flatten")(h))


@net
def conv_3d():
    x = keras.Input((4, 4, 4, 2), name="x")
    h = layers.Conv3D(4, 2, activation="sigmoid", name="first")(x)
    h = layers.AveragePooling3D(2, padding="same", name="pool")(h)
    h = layers.Conv3D(3, 2, padding="same", activation="elu", name="second")(h)
    return x, Dense(2, name="out")(layers.GlobalMaxPooling3D(name="max")(h))


@net
def conv_1d_transpose():
    x = keras.Input((5, 3), name="x")
    h = layers.Conv1DTranspose(4, 3, strides=2, padding="same", activation="sigmoid", name="first")(x)
    h = layers.Conv1DTranspose(3, 2, activation="relu", name="second")(h)
    return x, Dense(2, name="out")(layers.Flatten(name="flatten")(h))


@net
def conv_2d_transpose():
    x = keras.Input((3, 3, 3), name="x")
    h = layers.Conv2DTranspose(5, 3, strides=2, padding="same", activation="softplus", name="first")(x)
    h = layers.Conv2DTranspose(4, 2, activation="relu", name="second")(h)
    return x, layers.Conv2DTranspose(1, 2, name="out")(h)


@net
def conv_3d_transpose():
    x = keras.Input((2, 2, 2, 2), name="x")
    h = layers.Conv3DTranspose(4, 2, activation="sigmoid", name="first")(x)
    h = layers.Conv3DTranspose(3, 2, strides=2, activation="tanh", name="second")(h)
    return x, Dense(2, name="out")(layers.GlobalAveragePooling3D(name="mean")(h))


@net
def grouped_conv_block():
    """Four groups of two channels: a unit is one group."""
    x = keras.Input((6, 6, 2), name="x")
    h = layers.Conv2D(8, 3, padding="same", activation="sigmoid", name="first")(x)
    h = layers.Conv2D(8, 3, groups=4, activation="elu", name="grouped")(h)
    h = layers.Conv2D(3, 1, activation="elu", name="last")(h)
    return x, Dense(2, name="out")(layers.GlobalAveragePooling2D(name="mean")(h))


@net
def grouped_conv_position():
    """Two groups of four channels: a unit is one position in every group."""
    x = keras.Input((6, 6, 2), name="x")
    h = layers.Conv2D(8, 3, padding="same", activation="sigmoid", name="first")(x)
    h = layers.Conv2D(6, 3, groups=2, activation="softplus", name="grouped")(h)
    return x, Dense(2, name="out")(layers.GlobalAveragePooling2D(name="mean")(h))


@net
def grouped_conv_depthwise():
    x = keras.Input((7, 3), name="x")
    h = layers.Conv1D(5, 2, activation="sigmoid", name="first")(x)
    h = layers.Conv1D(5, 3, groups=5, padding="same", activation="relu", name="grouped")(h)
    return x, Dense(2, name="out")(layers.Flatten(name="flatten")(h))


@net
def grouped_conv_on_inputs():
    """The groups read raw inputs, in position mode and in block mode."""
    x = keras.Input((6, 6, 4), name="x")
    left = layers.Conv2D(6, 3, groups=2, activation="sigmoid", name="position")(x)
    right = layers.Conv2D(4, 3, groups=4, activation="sigmoid", name="block")(x)
    h = layers.Concatenate(name="joined")([left, right])
    return x, Dense(2, name="out")(layers.GlobalAveragePooling2D(name="mean")(h))


@net
def depthwise_conv():
    x = keras.Input((6, 6, 2), name="x")
    h = layers.Conv2D(4, 2, activation="sigmoid", name="first")(x)
    h = layers.DepthwiseConv2D(3, padding="same", activation="softplus", name="single")(h)
    h = layers.DepthwiseConv2D(2, depth_multiplier=2, activation="relu", name="double")(h)
    h = layers.Conv2D(3, 1, activation="relu", name="last")(h)
    return x, Dense(2, name="out")(layers.Flatten(name="flatten")(h))


@net
def depthwise_conv_1d():
    """The first depthwise layer reads raw inputs, where nothing can go."""
    x = keras.Input((9, 2), name="x")
    h = layers.DepthwiseConv1D(2, depth_multiplier=2, name="raw")(x)
    h = layers.Conv1D(5, 2, activation="sigmoid", name="first")(h)
    h = layers.DepthwiseConv1D(3, depth_multiplier=2, padding="same", activation="relu", name="double")(h)
    return x, Dense(2, name="out")(layers.GlobalMaxPooling1D(name="max")(h))


@net
def separable_conv():
    x = keras.Input((6, 6, 2), name="x")
    h = layers.SeparableConv2D(5, 3, padding="same", activation="sigmoid", name="first")(x)
    h = layers.SeparableConv2D(4, 2, depth_multiplier=2, activation="relu", name="second")(h)
    return x, Dense(2, name="out")(layers.Flatten(name="flatten")(h))


@net
def separable_conv_1d():
    x = keras.Input((8, 2), name="x")
    h = layers.SeparableConv1D(4, 3, depth_multiplier=2, activation="softplus", name="first")(x)
    h = layers.SeparableConv1D(3, 2, padding="same", activation="relu", name="second")(h)
    return x, Dense(2, name="out")(layers.GlobalAveragePooling1D(name="mean")(h))


@net
def channels_first():
    """Dense heads behind a flatten that first moves the channels to the back."""
    x = keras.Input((3, 8), name="x")
    h = Dense(5, "sigmoid", name="first")(layers.Permute((2, 1), name="to_last")(x))
    h = layers.Permute((2, 1), name="to_first")(h)
    h = layers.BatchNormalization(axis=1, name="norm")(h)
    h = layers.AveragePooling1D(2, data_format="channels_first", name="pool")(h)
    h = layers.Flatten(data_format="channels_first", name="flatten")(h)
    return x, Dense(2, name="out")(Dense(4, "relu", name="last")(h))


@net
def conv_channels_first():
    x = keras.Input((2, 10, 10), name="x")
    # Wider maps than there are channels: where both are equal, Keras adds the bias along the width.
    h = layers.Conv2D(5, 3, data_format="channels_first", activation="sigmoid", name="first")(x)
    h = layers.MaxPooling2D(2, data_format="channels_first", name="pool")(h)
    h = layers.Conv2D(3, 2, data_format="channels_first", padding="same", activation="sigmoid", name="second")(h)
    h = layers.Flatten(data_format="channels_first", name="flatten")(h)
    return x, Dense(2, name="out")(h)


# Embedding and recurrence ---------------------------------------------------------------------------------------------


@net
def embedding_mask():
    """The mask of missing entries must reach the LSTM through whatever switches units off."""
    x = keras.Input((6,), dtype="int32", name="x")
    h = layers.Embedding(VOCABULARY, 5, mask_zero=True, name="embedding")(x)
    h = Dense(4, "sigmoid", name="dense")(h)
    h = layers.LSTM(4, name="lstm")(h)
    return x, Dense(2, name="out")(h)


@net
def embedding_mean():
    x = keras.Input((6,), dtype="int32", name="x")
    h = layers.Embedding(VOCABULARY, 5, mask_zero=True, name="embedding")(x)
    return x, Dense(2, name="out")(layers.GlobalAveragePooling1D(name="mean")(h))


# Keras of the time before that layer cannot join a mask to a tensor without one where the batch is open.
@net(needs="ReversibleEmbedding")
def embedding_joined():
    """Masks of missing entries meet where tensors are joined, along the units and along time."""
    x = keras.Input((6,), dtype="int32", name="x")
    one = layers.Embedding(VOCABULARY, 5, mask_zero=True, name="one")(x)
    other = layers.Embedding(VOCABULARY, 4, mask_zero=True, name="other")(x)
    wide = layers.Concatenate(name="wide")([one, Dense(4, "sigmoid", name="dense")(one), other])
    h = layers.LSTM(5, return_sequences=True, name="lstm")(wide)
    both = layers.Concatenate(axis=1, name="both")([h, Dense(5, "tanh", name="of_lstm")(h)])
    return x, Dense(2, name="out")(layers.GlobalAveragePooling1D(name="mean")(both))


@net
def masking():
    """A mask made of raw numbers reaches layers that know it and layers that do not."""
    x = keras.Input((5, 3), name="x")
    h = layers.GRU(5, return_sequences=True, name="gru")(layers.Masking(0.0, name="masking")(x))
    h = layers.Bidirectional(layers.LSTM(3, return_sequences=True), name="both")(Dense(4, "sigmoid", name="dense")(h))
    return x, Dense(2, name="out")(layers.GlobalAveragePooling1D(name="mean")(h))


@net
def recurrent_cells():
    """RNN around each cell, and a Bidirectional around an RNN."""
    x = keras.Input((5, 3), name="x")
    h = layers.RNN(layers.SimpleRNNCell(6), return_sequences=True, name="simple")(x)
    h, _, cell = layers.RNN(layers.LSTMCell(4), return_sequences=True, return_state=True, name="lstm")(h)
    h = layers.Bidirectional(layers.RNN(layers.GRUCell(3), return_sequences=True), name="both")(h)
    h = layers.RNN(layers.GRUCell(5, reset_after=False), go_backwards=True, name="gru")(h)
    return x, Dense(2, name="out")(layers.Concatenate(name="joined")([h, cell]))


@net
def simple_rnn():
    x = keras.Input((5, 3), name="x")
    h = layers.SimpleRNN(6, return_sequences=True, name="first")(x)
    h = layers.SimpleRNN(4, activation="sigmoid", go_backwards=True, name="second")(h)
    return x, Dense(2, name="out")(h)


@net
def gru_reset_after():
    x = keras.Input((5, 3), name="x")
    h = layers.GRU(6, return_sequences=True, name="first")(x)
    return x, Dense(2, name="out")(layers.GRU(4, name="second")(h))


@net
def gru_reset_before():
    x = keras.Input((5, 3), name="x")
    h = layers.GRU(6, reset_after=False, return_sequences=True, name="first")(x)
    return x, Dense(2, name="out")(layers.GRU(4, reset_after=False, use_bias=False, name="second")(h))


@net
def lstm_stacked():
    x = keras.Input((5, 3), name="x")
    h = layers.LSTM(6, return_sequences=True, name="first")(x)
    h = layers.LSTM(4, return_sequences=True, go_backwards=True, unroll=True, name="second")(h)
    h = layers.LSTM(5, activation="sigmoid", name="third")(h)
    return x, Dense(2, name="out")(h)


@net
def lstm_states():
    """The cell state is read by a dense layer of its own."""
    x = keras.Input((5, 3), name="x")
    h, last, cell = layers.LSTM(6, return_sequences=True, return_state=True, name="lstm")(x)
    h = layers.GlobalAveragePooling1D(name="mean")(h)
    joined = layers.Concatenate(name="joined")([h, Dense(3, "relu", name="of_cell")(cell), last])
    return x, Dense(2, name="out")(joined)


@net
def encoder_decoder_lstm():
    source, target = keras.Input((5, 3), name="source"), keras.Input((4, 2), name="target")
    _, h, c = layers.LSTM(6, return_state=True, name="encoder")(source)
    decoded = layers.LSTM(6, return_sequences=True, name="decoder")(target, initial_state=[h, c])
    return [source, target], Dense(2, name="out")(decoded)


@net
def encoder_decoder_gru():
    source, target = keras.Input((5, 3), name="source"), keras.Input((4, 2), name="target")
    _, h = layers.GRU(5, return_state=True, name="encoder")(source)
    decoded = layers.GRU(5, return_sequences=True, name="decoder")(target, initial_state=h)
    return [source, target], Dense(2, name="out")(decoded)


def _bidirectional(mode):
    def build():
        x = keras.Input((5, 3), name="x")
        h = layers.Bidirectional(layers.LSTM(4, return_sequences=True), merge_mode=mode, name="first")(x)
        h = layers.Bidirectional(layers.GRU(3), merge_mode=mode, name="second")(h)
        return x, Dense(2, name="out")(h)

    build.__name__ = f"bidirectional_{mode}"
    return net(build)


for _mode in ("concat", "sum", "ave", "mul"):
    _bidirectional(_mode)


@net
def bidirectional_none():
    x = keras.Input((5, 3), name="x")
    forward, backward = layers.Bidirectional(layers.LSTM(4), merge_mode=None, name="both")(x)
    backward = Dense(4, "relu", name="of_backward")(backward)
    return x, Dense(2, name="out")(layers.Concatenate(name="joined")([forward, backward]))


@net
def bidirectional_unequal_activations():
    """The two directions differ; their states are given out, too."""
    x = keras.Input((5, 3), name="x")
    h, forward, backward = layers.Bidirectional(
        layers.SimpleRNN(5, activation="tanh", return_sequences=True, return_state=True),
        backward_layer=layers.SimpleRNN(
            5, activation="sigmoid", return_sequences=True, return_state=True, go_backwards=True
        ),
        name="both",
    )(x)
    h = layers.GlobalAveragePooling1D(name="mean")(h)
    return x, Dense(2, name="out")(layers.Concatenate(name="joined")([h, forward, backward]))


@net
def on_lstm():
    """Units are chunks, and the last chunk of the paper's form is dead; both forms, and two directions."""
    x = keras.Input((5, 3), name="x")
    h = ONLSTM(8, 2, return_sequences=True, name="first")(x)
    h = layers.Bidirectional(ONLSTM(6, 2, master_input="reverse", return_sequences=True), name="both")(h)
    h = ONLSTM(6, 3, go_backwards=True, unroll=True, master_input="reverse", name="last")(h)
    return x, Dense(2, name="out")(h)


@net
def on_lstm_states():
    """An RNN around the cell, missing entries, states that go in and out, and a c that is read."""
    x = keras.Input((6,), dtype="int32", name="x")
    h = layers.Embedding(VOCABULARY, 4, mask_zero=True, name="embedding")(x)
    h, last, cell = layers.RNN(ONLSTMCell(6, 2), return_sequences=True, return_state=True, name="encoder")(h)
    h = ONLSTM(6, 2, name="decoder")(Dense(3, "tanh", name="dense")(h), initial_state=[last, cell])
    return x, Dense(2, name="out")(layers.Concatenate(name="joined")([h, Dense(3, "relu", name="of_cell")(cell)]))


@net
def time_distributed():
    x = keras.Input((3, 6, 6, 2), name="x")
    h = layers.TimeDistributed(layers.Conv2D(4, 3, activation="sigmoid"), name="conv")(x)
    h = layers.TimeDistributed(layers.BatchNormalization(), name="norm")(h)
    h = layers.TimeDistributed(layers.Flatten(), name="flatten")(h)
    h = layers.TimeDistributed(layers.Dense(5, activation="softplus"), name="dense")(h)
    return x, Dense(2, name="out")(layers.SimpleRNN(3, name="rnn")(h))


# Attention ------------------------------------------------------------------------------------------------------------


@net
def attention_self():
    x = keras.Input((4, 3), name="x")
    h = Dense(6, "sigmoid", name="first")(x)
    h = layers.MultiHeadAttention(3, 2, name="heads")(h, h)
    return x, Dense(2, name="out")(Dense(5, "relu", name="last")(h))


@net
def attention_cross():
    """Query, value and key of their own; value_dim and output_shape given; causal mask."""
    x, y = keras.Input((4, 3), name="x"), keras.Input((5, 2), name="y")
    query = Dense(6, "sigmoid", name="query")(x)
    value, key = Dense(4, "tanh", name="value")(y), Dense(5, "softplus", name="key")(y)
    h = layers.MultiHeadAttention(3, 2, value_dim=4, output_shape=7, name="heads")(
        query=query, value=value, key=key, use_causal_mask=True
    )
    return [x, y], Dense(2, name="out")(h)


@net
def attention_masked():
    """The mask of missing entries must reach the attention; heads are gated."""
    x = keras.Input((5,), dtype="int32", name="x")
    h = layers.Embedding(VOCABULARY, 6, mask_zero=True, name="embedding")(x)
    h = layers.MultiHeadAttention(3, 2, **GATED, name="heads")(h, h)
    return x, Dense(2, name="out")(layers.GlobalAveragePooling1D(name="mean")(h))


@net
def attention_grouped():
    x = keras.Input((4, 3), name="x")
    h = Dense(6, "sigmoid", name="first")(x)
    h = layers.GroupQueryAttention(2, 4, 2, name="heads")(h, h)
    return x, Dense(2, name="out")(h)


@net
def transformer_block():
    x = keras.Input((5,), dtype="int32", name="x")
    h = layers.Embedding(VOCABULARY, 6, name="embedding")(x)
    h = layers.Add(name="add_1")([h, layers.MultiHeadAttention(2, 3, name="heads")(h, h)])
    h = layers.LayerNormalization(name="norm_1")(h)
    inner = Dense(6, name="narrow")(Dense(8, "gelu", name="wide")(h))
    h = layers.LayerNormalization(name="norm_2")(layers.Add(name="add_2")([h, inner]))
    return x, Dense(2, name="out")(layers.GlobalAveragePooling1D(name="mean")(h))


@net
def attention_plain():
    """Attention and AdditiveAttention: layers without heads, lists of inputs."""
    x, y = keras.Input((4, 3), name="x"), keras.Input((5, 2), name="y")
    query, value, key = Dense(4, name="query")(x), Dense(5, "sigmoid", name="value")(y), Dense(4, name="key")(y)
    h = layers.Attention(use_scale=True, name="attention")([query, value, key])
    other = layers.AdditiveAttention(name="additive")([query, value, key])
    joined = layers.Concatenate(name="joined")([h, other])
    return [x, y], Dense(2, name="out")(joined)


@net
def linear_attention():
    """One channel of queries, softmaxed over positions, weighs those of the keys; their sums weigh the values."""
    x = keras.Input((4, 4, 2), name="x")
    h = layers.Conv2D(5, 1, activation="sigmoid", name="first")(x)
    h = layers.Reshape((16, 13), name="rows")(layers.Conv2D(1 + 6 + 6, 1, name="projections")(h))
    query, key, value = ops.split(h, [1, 7], axis=-1)
    context = ops.sum(layers.Multiply(name="weighed")([ops.softmax(query, axis=1), key]), axis=1, keepdims=True)
    h = layers.Multiply(name="attended")([ops.relu(value), context])
    return x, Dense(2, name="out")(layers.GlobalAveragePooling1D(name="mean")(Dense(4, "elu", name="last")(h)))


@net
def dot():
    x, y = keras.Input((3,), name="x"), keras.Input((4,), name="y")
    left, right = Dense(5, "sigmoid", name="left")(x), Dense(5, "tanh", name="right")(y)
    joined = layers.Concatenate(name="joined")([layers.Dot(1, name="dot")([left, right]), left])
    return [x, y], Dense(2, name="out")(joined)


# Norms ----------------------------------------------------------------------------------------------------------------


@net
def batch_norm():
    """Before an addition, before an activation, after a concatenation."""
    x = keras.Input((6, 6, 2), name="x")
    h = layers.Conv2D(4, 3, padding="same", name="first")(x)
    h = layers.ReLU(name="relu_1")(layers.BatchNormalization(name="norm_1")(h))
    branch = layers.Conv2D(4, 3, padding="same", use_bias=False, name="branch")(h)
    h = layers.Add(name="add")([layers.BatchNormalization(name="norm_2")(branch), h])
    more = layers.Conv2D(3, 3, padding="same", name="more")(layers.ReLU(name="relu_2")(h))
    h = layers.BatchNormalization(name="norm_3")(layers.Concatenate(name="joined")([h, more]))
    h = layers.Conv2D(3, 3, activation="relu", name="last")(layers.ReLU(6.0, name="relu_3")(h))
    return x, Dense(2, name="out")(layers.Flatten(name="flatten")(h))


@net
def layer_norm():
    x = keras.Input((3, 4), name="x")
    h = layers.LayerNormalization(name="norm_1")(Dense(6, "sigmoid", name="first")(x))
    h = layers.LayerNormalization(center=False, scale=False, name="norm_2")(Dense(5, name="second")(h))
    return x, Dense(2, name="out")(h)


@net(needs="RMSNormalization")
def rms_norm():
    x = keras.Input((4,), name="x")
    h = layers.RMSNormalization(epsilon=1e-2, name="norm")(Dense(6, "sigmoid", name="first")(x))
    return x, Dense(2, name="out")(Dense(4, "relu", name="second")(h))


@net
def group_norm():
    x = keras.Input((4, 4, 2), name="x")
    h = layers.GroupNormalization(3, name="norm_1")(layers.Conv2D(6, 3, padding="same", name="first")(x))
    h = layers.Conv2D(5, 3, padding="same", activation="relu", name="second")(layers.ReLU(name="relu")(h))
    h = layers.GroupNormalization(-1, name="norm_2")(h)
    return x, Dense(2, name="out")(layers.Flatten(name="flatten")(h))


@net
def unit_norm():
    x = keras.Input((4,), name="x")
    h = layers.UnitNormalization(name="norm")(Dense(6, "sigmoid", name="first")(x))
    return x, Dense(2, name="out")(h)


@net
def normalized_inputs():
    """Rescaling and Normalization stand on the inputs, and a Rescaling per unit inside."""
    x = keras.Input((4,), name="x")
    h = layers.Rescaling(0.5, 1.0, name="rescaling")(x)
    h = layers.Normalization(mean=[0.1, 0.2, 0.3, 0.4], variance=[1.0, 2.0, 0.5, 1.5], name="normalization")(h)
    h = Dense(5, "sigmoid", name="first")(h)
    h = layers.Rescaling([1.0, 2.0, 3.0, 4.0, 5.0], offset=-1.0, name="per_unit")(h)
    return x, Dense(2, name="out")(h)


@net
def prelu():
    x = keras.Input((6, 6, 2), name="x")
    h = layers.PReLU(shared_axes=[1, 2], name="shared")(layers.Conv2D(4, 3, name="first")(x))
    h = layers.PReLU(name="full")(layers.Conv2D(3, 2, name="second")(h))
    h = layers.PReLU(name="flat")(Dense(5, name="dense")(layers.Flatten(name="flatten")(h)))
    return x, Dense(2, name="out")(h)


# Moving positions about -----------------------------------------------------------------------------------------------


@net
def pooling():
    x = keras.Input((8, 8, 2), name="x")
    h = layers.ZeroPadding2D(1, name="pad")(layers.Conv2D(4, 3, activation="sigmoid", name="first")(x))
    h = layers.AveragePooling2D(2, padding="same", name="average")(h)
    h = layers.Conv2D(3, 3, activation="softplus", name="second")(h)
    h = layers.UpSampling2D(2, interpolation="bilinear", name="up")(layers.MaxPooling2D(2, strides=1, name="max")(h))
    h = layers.Cropping2D(((0, 1), (1, 0)), name="crop")(h)
    one, other = layers.GlobalMaxPooling2D(name="most")(h), layers.GlobalAveragePooling2D(name="mean")(h)
    return x, Dense(2, name="out")(layers.Concatenate(name="joined")([one, other]))


@net
def pooling_1d():
    x = keras.Input((9, 2), name="x")
    h = layers.ZeroPadding1D(1, name="pad")(layers.Conv1D(4, 2, activation="sigmoid", name="first")(x))
    h = layers.MaxPooling1D(2, name="max")(h)
    h = layers.Conv1D(3, 2, activation="softplus", name="second")(layers.UpSampling1D(2, name="up")(h))
    h = layers.AveragePooling1D(2, name="average")(layers.Cropping1D(1, name="crop")(h))
    return x, Dense(2, name="out")(layers.Flatten(name="flatten")(h))


@net
def reshape_tied():
    """The GAN's head: sixteen positions of each channel are one unit."""
    x = keras.Input((5,), name="x")
    h = layers.BatchNormalization(name="norm")(Dense(4 * 4 * 6, name="project")(x))
    h = layers.Reshape((4, 4, 6), name="reshape")(layers.LeakyReLU(name="relu")(h))
    h = layers.Conv2DTranspose(4, 3, activation="sigmoid", name="up")(h)
    return x, layers.Conv2D(1, 2, name="out")(h)


@net
def reshape_flat():
    """A reshape that flattens, with an open size."""
    x = keras.Input((4, 3), name="x")
    h = layers.Reshape((-1,), name="flat")(Dense(5, "sigmoid", name="first")(x))
    h = Dense(6, "sigmoid", name="second")(h)
    h = layers.Reshape((6, 1), name="column")(h)
    return x, Dense(2, name="out")(layers.Reshape((6,), name="row")(h))


@net
def shuffle():
    """Reshape, permute, reshape between grouped convolutions."""
    x = keras.Input((4, 4, 2), name="x")
    h = layers.Conv2D(8, 1, activation="sigmoid", name="first")(x)
    h = layers.Conv2D(8, 1, groups=2, activation="softplus", name="grouped")(h)
    h = layers.Reshape((4, 4, 2, 4), name="apart")(h)
    h = layers.Permute((1, 2, 4, 3), name="turn")(h)
    h = layers.Reshape((4, 4, 8), name="together")(h)
    h = layers.Conv2D(6, 3, groups=2, activation="sigmoid", name="again")(h)
    return x, Dense(2, name="out")(layers.GlobalAveragePooling2D(name="mean")(h))


@net
def mixer():
    """Dense layers over channels and, permuted, over positions: one tensor with two axes of units."""
    x = keras.Input((4, 3), name="x")
    stream = Dense(6, "sigmoid", name="channels")(x)
    h = layers.LayerNormalization(name="norm")(stream)
    h = layers.Permute((2, 1), name="turn")(h)
    h = Dense(5, "gelu", name="positions")(h)
    h = Dense(4, name="back_to_positions")(layers.Dropout(0.1, name="dropout")(h))
    h = layers.Add(name="add")([stream, layers.Permute((2, 1), name="back")(h)])
    return x, Dense(2, name="out")(Dense(4, "elu", name="last")(h))


@net
def repeat_vector():
    x = keras.Input((3,), name="x")
    h = layers.RepeatVector(4, name="repeat")(Dense(5, "sigmoid", name="first")(x))
    h = layers.LSTM(4, return_sequences=True, name="lstm")(h)
    return x, layers.TimeDistributed(layers.Dense(2), name="out")(h)


# Merging --------------------------------------------------------------------------------------------------------------


@net
def concatenate():
    """On the units' axis, with a raw input too; and on another axis, where units meet."""
    x, y = keras.Input((3,), name="x"), keras.Input((2,), name="y")
    joined = layers.Concatenate(name="joined")(
        [Dense(4, "sigmoid", name="left")(x), y, Dense(5, "tanh", name="mid")(y)]
    )
    one = layers.Reshape((1, 6), name="one")(Dense(6, "softplus", name="first")(joined))
    other = layers.Reshape((1, 6), name="other")(Dense(6, "sigmoid", name="second")(joined))
    rows = layers.Concatenate(axis=1, name="rows")([one, other])
    return [x, y], Dense(2, name="out")(rows)


@net
def merges():
    """Add, Subtract, Multiply, Average, Maximum and Minimum, each of two branches."""
    x = keras.Input((4,), name="x")
    parts = []
    for number, merge in enumerate(
        (layers.Add, layers.Subtract, layers.Multiply, layers.Average, layers.Maximum, layers.Minimum)
    ):
        left = Dense(3, "sigmoid", name=f"left_{number}")(x)
        right = Dense(3, "tanh", name=f"right_{number}")(x)
        parts.append(merge(name=f"merge_{number}")([left, right]))
    return x, Dense(2, name="out")(layers.Concatenate(name="joined")(parts))


@net
def add_raw_input():
    """Added to the input, the units of `first` cannot go; those behind can."""
    x = keras.Input((4,), name="x")
    h = layers.Add(name="add")([x, Dense(4, "relu", name="first")(x)])
    return x, Dense(2, name="out")(Dense(5, "sigmoid", name="second")(h))


@net
def squeeze_excitation():
    x = keras.Input((5, 5, 2), name="x")
    h = layers.Conv2D(6, 3, padding="same", activation="sigmoid", name="expand")(x)
    gate = layers.GlobalAveragePooling2D(keepdims=True, name="mean")(h)
    gate = layers.Conv2D(3, 1, activation="relu", name="reduce")(gate)
    gate = layers.Conv2D(6, 1, activation="sigmoid", name="gate")(gate)
    h = layers.Multiply(name="scale")([h, gate])
    h = layers.Conv2D(4, 1, activation="softplus", name="project")(h)
    return x, Dense(2, name="out")(layers.Flatten(name="flatten")(h))


@net
def resized_by_op():
    """A picture that is made larger by an operation, not by a layer."""
    x = keras.Input((4, 4, 2), name="x")
    h = layers.Conv2D(5, 3, activation="relu", name="small")(x)
    h = keras.ops.image.resize(h, (4, 4), interpolation="nearest")
    h = layers.Conv2D(4, 3, activation="tanh", name="large")(h)
    return x, Dense(2, name="out")(layers.Flatten(name="flatten")(h))


@net
def spatial_gate():
    """A gate of one channel that is stretched over all units."""
    x = keras.Input((5, 5, 2), name="x")
    h = layers.Conv2D(5, 3, activation="sigmoid", name="first")(x)
    gate = layers.Conv2D(1, 3, padding="same", activation="sigmoid", name="gate")(h)
    h = layers.Multiply(name="scale")([h, gate])
    return x, Dense(2, name="out")(layers.GlobalAveragePooling2D(name="mean")(h))


# Operations -----------------------------------------------------------------------------------------------------------


@net
def ops_arithmetic():
    x = keras.Input((4,), name="x")
    left, right = Dense(5, "sigmoid", name="left")(x), Dense(5, "tanh", name="right")(x)
    h = left * 2.0 + right - 0.5
    h = ops.square(ops.relu(h)) / (1.0 + ops.sigmoid(right))
    return x, Dense(2, name="out")(ops.concatenate([h, ops.maximum(left, 0.3)], axis=-1))


@net
def constant_arrays():
    """Arrays meet units: along the units alone, along positions too, as one of several, and joined to them."""
    generator = np.random.default_rng(3)
    per_unit = generator.uniform(0.5, 1.5, 5).astype("float32")
    x = keras.Input((3, 4), name="x")
    h = Dense(5, "sigmoid", name="first")(x) * per_unit - per_unit[::-1]
    h = ops.where(h > 0.1 * per_unit, h, ops.convert_to_tensor(per_unit[None]))
    h = layers.Add(name="positions")([h, generator.normal(size=(1, 3, 5)).astype("float32")])
    h = layers.Concatenate(axis=1, name="longer")([h, h * generator.normal(size=(3, 1)).astype("float32")])
    h = ops.maximum(ops.divide(per_unit, 1.0 + ops.abs(h)), 0.2)
    return x, Dense(2, name="out")(Dense(4, "tanh", name="last")(h))


@net
def split_convolutions():
    """The channels of one convolution go to two others, by slices that must not be emptied."""
    x = keras.Input((5, 5, 2), name="x")
    h = layers.Conv2D(7, 2, activation="sigmoid", name="first")(x)
    left = layers.Conv2D(3, 2, activation="softplus", name="left")(h[..., :3])
    right = layers.Conv2D(4, 2, activation="tanh", name="right")(h[..., 3:])
    return x, Dense(2, name="out")(
        layers.GlobalAveragePooling2D(name="mean")(layers.Concatenate(name="joined")([left, right]))
    )


@net
def ops_slices():
    """Slicing and splitting on the units' axis."""
    x = keras.Input((4,), name="x")
    h = Dense(8, "sigmoid", name="first")(x)
    front, back = h[:, :3], h[..., 3:]
    one, other = ops.split(Dense(6, "softplus", name="second")(back), 2, axis=-1)
    parts = ops.split(Dense(7, "tanh", name="third")(front), [3], axis=-1)
    return x, Dense(2, name="out")(ops.concatenate([one * other, *parts], axis=-1))


@net
def ops_shapes():
    x = keras.Input((4, 3), name="x")
    h = Dense(5, "sigmoid", name="first")(x)
    turned = ops.transpose(h, (0, 2, 1))
    scores = ops.matmul(h, turned)
    h = ops.matmul(scores, Dense(6, "tanh", name="second")(x))
    h = ops.expand_dims(ops.mean(h, axis=1), axis=1)
    h = Dense(4, "relu", name="third")(ops.squeeze(h, axis=1))
    return x, Dense(2, name="out")(ops.reshape(ops.expand_dims(h, -1), (-1, 4)))


@net
def ops_reductions():
    """A sum over units ends them; a mean is over those that are left."""
    x = keras.Input((4,), name="x")
    summed = ops.sum(Dense(5, "sigmoid", name="summed")(x), axis=-1, keepdims=True)
    averaged = ops.mean(Dense(5, "sigmoid", name="averaged")(x), axis=-1, keepdims=True)
    return x, Dense(2, name="out")(ops.concatenate([summed, averaged], axis=-1))


@net
def time_distributed_reshape():
    x = keras.Input((3, 4), name="x")
    h = layers.TimeDistributed(layers.Reshape((2, 3)), name="apart")(Dense(6, "sigmoid", name="first")(x))
    h = layers.TimeDistributed(layers.PReLU(shared_axes=[1]), name="prelu")(h)
    h = layers.TimeDistributed(layers.Flatten(), name="together")(h)
    return x, Dense(2, name="out")(h)


# Several inputs and outputs, sharing, nesting -------------------------------------------------------------------------


@net
def several_outputs():
    x, y = keras.Input((3,), name="x"), keras.Input((2,), name="y")
    left, right = Dense(5, "sigmoid", name="left")(x), Dense(4, "relu", name="right")(y)
    joined = layers.Concatenate(name="joined")([left, right])
    trunk = Dense(6, "tanh", name="trunk")(joined)
    return [x, y], {"one": Dense(2, name="one")(trunk), "two": Dense(1, name="two")(trunk), "raw": right}


@net
def siamese():
    x, y = keras.Input((3,), name="x"), keras.Input((3,), name="y")
    first, second = Dense(6, "sigmoid", name="first"), Dense(4, "tanh", name="second")
    difference = layers.Subtract(name="difference")([second(first(x)), second(first(y))])
    return [x, y], Dense(2, name="out")(difference)


@net
def called_twice():
    """One dense layer behind two different ones, and behind itself."""
    x = keras.Input((3,), name="x")
    shared = Dense(5, "sigmoid", name="shared")
    relu = layers.ReLU(name="relu")
    one, other = relu(Dense(5, name="one")(x)), relu(Dense(5, name="other")(x))
    h = layers.Concatenate(name="joined")([shared(one), shared(other), shared(shared(one))])
    return x, Dense(2, name="out")(h)


@net
def shared_tower():
    """Two images through the same convolution, norm and activation."""
    x, y = keras.Input((5, 5, 2), name="x"), keras.Input((5, 5, 2), name="y")
    conv, norm, relu = (
        layers.Conv2D(4, 2, name="conv"),
        layers.BatchNormalization(name="norm"),
        layers.ReLU(name="relu"),
    )
    h = [layers.GlobalAveragePooling2D(name=f"mean_{k}")(relu(norm(conv(image)))) for k, image in enumerate([x, y])]
    return [x, y], Dense(2, name="out")(layers.Concatenate(name="joined")(h))


@net
def shared_recurrent():
    """Two sequences through the same recurrent layers, one of them in two directions."""
    x, y = keras.Input((4, 2), name="x"), keras.Input((4, 2), name="y")
    both = layers.Bidirectional(layers.GRU(3, return_sequences=True), name="both")
    rows = layers.TimeDistributed(Dense(4, "tanh"), name="rows")
    lstm = layers.LSTM(3, name="lstm")
    return [x, y], Dense(2, name="out")(layers.Concatenate(name="joined")([lstm(rows(both(z))) for z in (x, y)]))


@net
def crossed_layers():
    """Units of two kinds, by attention between convolutions, and without cross connections between dense layers."""
    x = keras.Input((5, 5, 2), name="image")
    survived = ([True, True, True, False, False], [True, False, True, False])
    h = layers.Conv2D(5, 2, activation="sigmoid", name="first")(x)
    h = CrossedConv(4, (2, 2), *survived, strides=2, padding="same", activation="tanh", name="crossed_conv")(h)
    h = CrossedConv(4, (1, 1), survived[1], survived[1], crossing="full", name="crossed_fully")(h)
    h = layers.GlobalAveragePooling2D(name="mean")(h)
    h = CrossedDense(3, survived[1], [True, False, False], crossing="none", activation="tanh", name="crossed_dense")(h)
    return x, Dense(2, name="out")(h)


@net
def shared_weightless():
    """One ReLU and one Flatten everywhere: they must not tie what passes through them."""
    x = keras.Input((2, 3), name="x")
    relu, flatten = layers.ReLU(name="relu"), layers.Flatten(name="flatten")
    left, right = flatten(relu(Dense(4, name="left")(x))), flatten(relu(Dense(5, name="right")(x)))
    return x, Dense(2, name="out")(layers.Concatenate(name="joined")([left, right]))


@net
def tied_variables():
    """Two layers hold the same kernel: cutting would tear them apart, so their units stay."""
    x = keras.Input((4,), name="x")
    first, second = Dense(4, "sigmoid", name="first"), Dense(4, "tanh", name="second")
    h = first(x)
    own_weight = second.add_weight
    second.add_weight = lambda name, **kwargs: first.kernel if name == "kernel" else own_weight(name=name, **kwargs)
    h = Dense(5, "relu", name="last")(second(h))
    del second.add_weight
    return x, Dense(2, name="out")(h)


def _inner(name, width=4):
    return keras.Sequential(
        [
            keras.Input((3,), name="inner_x"),
            layers.Dense(5, activation="sigmoid", name="a"),
            layers.Dense(width, activation="tanh", name="b"),
        ],
        name=name,
    )


@net
def nested_sequential():
    x = keras.Input((3,), name="x")
    return x, Dense(2, name="out")(Dense(5, "relu", name="last")(_inner("inner")(x)))


@net
def nested_functional():
    """The units of a layer before the nested model enter it; it has two inputs and two outputs."""
    u, v = keras.Input((5,), name="u"), keras.Input((3,), name="v")
    inside = layers.Add(name="sum")([Dense(4, name="of_u")(u), Dense(4, name="of_v")(v)])
    inner = keras.Model([u, v], [layers.ReLU(name="relu")(inside), Dense(3, "sigmoid", name="side")(u)], name="inner")
    x = keras.Input((3,), name="x")
    one, other = inner([Dense(5, "sigmoid", name="first")(x), x])
    return x, Dense(2, name="out")(layers.Concatenate(name="joined")([one, other]))


@net
def nested_twice():
    """A nested model on two inputs: Siamese backbones."""
    x, y = keras.Input((3,), name="x"), keras.Input((3,), name="y")
    inner = _inner("inner")
    return [x, y], Dense(2, name="out")(layers.Concatenate(name="joined")([inner(x), inner(y)]))


@net
def nested_equal_names():
    """Two backbones whose inner layers have equal names."""
    x, y = keras.Input((3,), name="x"), keras.Input((3,), name="y")
    joined = layers.Concatenate(name="joined")([_inner("left")(x), _inner("right", 5)(y)])
    return [x, y], Dense(2, name="out")(joined)


@net
def nested_in_nested():
    u = keras.Input((3,), name="u")
    middle = keras.Model(u, Dense(4, "softplus", name="c")(_inner("inner")(u)), name="middle")
    outer = keras.Sequential([keras.Input((3,), name="x"), middle, Dense(2, name="out")], name="nested_in_nested")
    return outer


# Precision and private layers -----------------------------------------------------------------------------------------


def _conv_with_policy(policy):
    x = keras.Input((6, 6, 2), name="x", dtype="float64" if policy == "float64" else "float32")
    h = layers.Conv2D(4, 3, activation="sigmoid", dtype=policy, name="first")(x)
    h = layers.BatchNormalization(dtype=policy, name="norm")(h)
    h = layers.Conv2D(3, 3, activation="softplus", dtype=policy, name="second")(h)
    h = layers.GlobalAveragePooling2D(dtype=policy, name="mean")(h)
    return x, Dense(2, name="out", dtype="float64" if policy == "float64" else "float32")(h)


@net
def mixed_precision():
    return _conv_with_policy("mixed_float16")


@net
def double_precision():
    return _conv_with_policy("float64")


@net
def private_layers():
    """A block as in ConvNeXt: LayerScale and StochasticDepth."""
    x = keras.Input((5, 5, 2), name="x")
    stream = layers.Conv2D(4, 2, activation="sigmoid", name="stem")(x)
    h = layers.LayerNormalization(epsilon=1e-6, name="norm")(
        layers.DepthwiseConv2D(3, padding="same", name="depthwise")(stream)
    )
    h = Dense(4, name="narrow")(Dense(6, "gelu", name="wide")(h))
    h = convnext.LayerScale(1.0, 4, name="scale")(h)
    h = layers.Add(name="add")([stream, convnext.StochasticDepth(0.2, name="depth")(h)])
    return x, Dense(2, name="out")(layers.GlobalAveragePooling2D(name="mean")(h))


# Not in the table -----------------------------------------------------------------------------------------------------


class Paired(layers.Layer):
    """A layer of a user's own that joins two tensors and wants them equally wide."""

    def call(self, inputs):
        return ops.concatenate(inputs, axis=-1)

    def compute_output_shape(self, shapes):
        return (*shapes[0][:-1], shapes[0][-1] + shapes[1][-1])


@register(Paired)
def _paired(step, inputs):
    one, other = (signal.axes[-1] for signal in inputs)
    step.equal(one, other, "both sides must be equally wide")
    return inputs[0].replaced(-1, np.concatenate([one, other]))


def paired_net():
    """`a` and `b` of 4 units each must stay equally wide, and so must `c` and `d` of 3."""
    x = keras.Input((3,), name="x")
    h = Paired(name="first")([Dense(4, "sigmoid", name="a")(x), Dense(4, "tanh", name="b")(x)])
    h = Paired(name="second")([Dense(3, "sigmoid", name="c")(h), Dense(3, "tanh", name="d")(h)])
    return randomise(keras.Model(x, Dense(2, name="out")(h), name="paired_net"))
