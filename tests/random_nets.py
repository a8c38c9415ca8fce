"""Random small networks for the laws: blocks of every kind, drawn one after the other.

`random_net(pick)` asks `pick` for every choice, so that hypothesis can draw, and shrink, what it answers.
"""

import keras
from conftest import randomise
from keras import layers, ops
from nets import VOCABULARY

ACTIVATIONS = ["sigmoid", "relu", "softplus", "tanh", "elu", "exponential_linear"]
WIDTHS = [2, 3, 4, 5, 6]


class _Maker:
    """Draws the choices of one net."""

    def __init__(self, pick):
        self.pick = pick
        self.width = lambda: pick(WIDTHS)
        self.flag = lambda: pick([False, True])
        self.kept = {}

    def activation(self):
        name = self.pick(ACTIVATIONS)
        return "elu" if name == "exponential_linear" else name

    def conv(self, width=None, **options):
        options.setdefault("padding", self.pick(["same", "valid"]))
        return layers.Conv2D(
            width or self.width(),
            options.pop("kernel", 2),
            activation=self.activation(),
            use_bias=self.flag(),
            **options,
        )

    def dense(self, width=None):
        return layers.Dense(width or self.width(), activation=self.activation(), use_bias=self.flag())


# Images ---------------------------------------------------------------------------------------------------------------


def _conv(make, x):
    return make.conv()(x) if min(x.shape[1:3]) > 1 else make.conv(padding="same")(x)


def _grouped_conv(make, x):
    groups = make.pick([2, 4])
    x = layers.Conv2D(4, 1, activation=make.activation())(x)
    return make.conv(4 * make.pick([1, 2]), padding="same", groups=groups)(x)


def _depthwise(make, x):
    return layers.DepthwiseConv2D(2, padding="same", depth_multiplier=make.pick([1, 2]), activation=make.activation())(
        x
    )


def _separable(make, x):
    return layers.SeparableConv2D(
        make.width(), 2, padding="same", depth_multiplier=make.pick([1, 2]), activation=make.activation()
    )(x)


def _transposed(make, x):
    return layers.Conv2DTranspose(make.width(), 2, padding="same", activation=make.activation())(x)


def _batch_norm(make, x):
    return layers.BatchNormalization()(x)


def _activation(make, x):
    return layers.Activation(make.activation())(x)


def _prelu(make, x):
    return layers.PReLU(shared_axes=make.pick([None, [1]]) if len(x.shape) > 2 else None)(x)


def _dropout(make, x):
    return layers.Dropout(0.4)(x)


def _pool(make, x):
    pool = make.pick([layers.MaxPooling2D, layers.AveragePooling2D])
    return pool(2, strides=1, padding="same")(x)


def _pad(make, x):
    return layers.ZeroPadding2D(1)(x) if x.shape[1] < 6 else layers.Cropping2D(1)(x)


def _residual(make, x):
    branch = make.conv(padding="same")(x)
    branch = layers.Conv2D(x.shape[-1], 1, use_bias=make.flag())(branch)
    if make.flag():
        branch = layers.BatchNormalization()(branch)
    return make.pick([layers.Add, layers.Subtract, layers.Maximum, layers.Average])()([x, branch])


def _squeeze_excitation(make, x):
    gate = make.dense(x.shape[-1])(make.dense()(layers.GlobalAveragePooling2D()(x)))
    return layers.Multiply()([x, layers.Reshape((1, 1, x.shape[-1]))(gate)])


def _group_norm(make, x):
    x = layers.Conv2D(4, 1, activation=make.activation())(x)
    return layers.GroupNormalization(make.pick([2, -1]))(x)


def _layer_norm(make, x):
    return layers.LayerNormalization(center=make.flag(), scale=make.flag())(x)


def _rms_norm(make, x):
    return layers.RMSNormalization(epsilon=1e-2)(x)


def _grow(make, x):
    return layers.Concatenate()([x, make.conv(padding="same")(x)])


def _nested_conv(make, x):
    u = keras.Input(x.shape[1:])
    inner = keras.Model(u, make.conv(padding="same")(make.conv(padding="same")(u)))
    return inner(x)


def _twice(make, x):
    shared = make.conv(x.shape[-1], padding="same")
    return layers.Add()([shared(shared(x)), x])


# Sequences ------------------------------------------------------------------------------------------------------------


def _dense(make, x):
    return make.dense()(x)


def _conv_1d(make, x):
    padding = make.pick(["same", "causal", "valid"]) if x.shape[1] > 1 else "same"
    return layers.Conv1D(make.width(), 2, padding=padding, activation=make.activation())(x)


def _recurrent(make, x):
    kind = make.pick([layers.SimpleRNN, layers.GRU, layers.LSTM])
    options = {"reset_after": make.flag()} if kind is layers.GRU else {}
    return kind(make.width(), return_sequences=True, use_bias=make.flag(), go_backwards=make.flag(), **options)(x)


def _bidirectional(make, x):
    kind = make.pick([layers.SimpleRNN, layers.GRU, layers.LSTM])
    merge = make.pick(["concat", "sum", "mul", "ave"])
    return layers.Bidirectional(kind(make.width(), return_sequences=True), merge_mode=merge)(x)


def _attention(make, x):
    other = make.dense()(x)
    width = make.pick([None, 5])
    return layers.MultiHeadAttention(make.pick([2, 3]), 2, output_shape=width, use_bias=make.flag())(x, other)


def _grouped_attention(make, x):
    return layers.GroupQueryAttention(2, 4, 2)(x, x)


def _mixer(make, x):
    turned = layers.Permute((2, 1))(x)
    turned = layers.Dense(x.shape[1])(make.dense()(turned))
    return layers.Add()([x, layers.Permute((2, 1))(turned)])


def _transformer(make, x):
    x = layers.LayerNormalization()(layers.Add()([x, layers.MultiHeadAttention(2, 3)(x, x)]))
    return layers.LayerNormalization()(layers.Add()([x, layers.Dense(x.shape[-1])(make.dense()(x))]))


def _time_distributed(make, x):
    return layers.TimeDistributed(make.dense())(x)


def _grow_sequence(make, x):
    return layers.Concatenate(axis=make.pick([-1, 1]))([x, make.dense(x.shape[-1])(x)])


def _residual_any(make, x):
    return make.pick([layers.Add, layers.Multiply])()([x, make.dense(x.shape[-1])(x)])


# Vectors --------------------------------------------------------------------------------------------------------------


def _grow_vector(make, x):
    return layers.Concatenate()([make.dense()(x), x])


def _arithmetic(make, x):
    other = make.dense(x.shape[-1])(x)
    return make.pick([lambda: x * other - 0.5, lambda: ops.relu(x + other), lambda: ops.maximum(x, other) * 2.0])()


def _slices(make, x):
    cut = make.pick([1, 2]) if x.shape[-1] > 2 else 1
    return ops.concatenate([make.dense()(x[:, :cut]), x[:, cut:]], axis=-1)


def _split(make, x):
    one, other = ops.split(make.dense(6)(x), 2, axis=-1)
    return one * other


def _nested_dense(make, x):
    name = make.pick(["inner", None])
    inner = keras.Sequential(
        [keras.Input(x.shape[1:]), make.dense(), layers.BatchNormalization(), make.dense()], name=name
    )
    return inner(x)


def _nested_twice(make, x):
    inner = keras.Sequential([keras.Input(x.shape[1:]), make.dense(), make.dense(x.shape[-1])])
    return layers.Concatenate()([inner(inner(x)), inner(x)])


def _shared_dense(make, x):
    shared = make.dense()
    return layers.Concatenate()([shared(make.dense(4)(x)), shared(make.dense(4)(x))])


def _gate(make, x):
    return layers.Multiply()([x, layers.Dense(1, activation="sigmoid")(x)])


def _dot(make, x):
    one, other = make.dense(3)(x), make.dense(3)(x)
    return layers.Concatenate()([layers.Dot(1)([one, other]), x])


# From one rank to another ---------------------------------------------------------------------------------------------


def _flatten(make, x):
    return layers.Flatten()(x)


def _mean_over_space(make, x):
    return make.pick([layers.GlobalAveragePooling2D, layers.GlobalMaxPooling2D])()(x)


def _mean_over_time(make, x):
    return make.pick([layers.GlobalAveragePooling1D, layers.GlobalMaxPooling1D])()(x)


def _rows(make, x):
    return layers.Reshape((x.shape[1] * x.shape[2], x.shape[3]))(x)


def _last_state(make, x):
    return layers.LSTM(make.width())(x)


def _encoder_decoder(make, x):
    width = make.width()
    _, h, c = layers.LSTM(width, return_state=True)(x)
    return layers.LSTM(width)(make.dense()(x), initial_state=[h, c])


def _repeat(make, x):
    return layers.RepeatVector(2)(x)


def _project(make, x):
    return layers.Reshape((2, 2, 3))(layers.Dense(12, activation=make.activation())(x))


def _project_rows(make, x):
    return layers.Reshape((3, 2))(layers.Dense(6)(x))


_ANY = [_batch_norm, _activation, _prelu, _dropout, _layer_norm]
# Keras 3.8 has none.
if hasattr(layers, "RMSNormalization"):
    _ANY.append(_rms_norm)

BLOCKS = {
    4: [
        *_ANY,
        *[_conv, _conv, _grouped_conv, _depthwise, _separable, _transposed, _pool, _pad, _residual],
        *[_squeeze_excitation, _group_norm, _grow, _nested_conv, _twice, _dense, _gate],
        *[_flatten, _mean_over_space, _rows],
    ],
    3: [
        *_ANY,
        *[_dense, _dense, _conv_1d, _recurrent, _recurrent, _bidirectional, _attention, _grouped_attention],
        *[_mixer, _transformer, _time_distributed, _grow_sequence, _residual_any, _gate],
        *[_flatten, _mean_over_time, _last_state, _encoder_decoder],
    ],
    2: [
        *_ANY,
        *[_dense, _dense, _grow_vector, _arithmetic, _slices, _split, _residual_any, _gate, _dot],
        *[_nested_dense, _nested_twice, _shared_dense, _repeat, _project, _project_rows],
    ],
}
"""Blocks that a tensor of each rank may go through next."""


def _start(make):
    kind = make.pick(["vector", "sequence", "image", "image", "tokens"])
    if kind == "vector":
        x = keras.Input((3,), name="x")
        return x, make.dense(5)(x)
    if kind == "sequence":
        x = keras.Input((4, 3), name="x")
        return x, make.dense(5)(x)
    if kind == "image":
        x = keras.Input((5, 5, 2), name="x")
        return x, make.conv(5)(x)
    x = keras.Input((4,), dtype="int32", name="x")
    return x, layers.Embedding(VOCABULARY, 5, mask_zero=make.flag())(x)


def random_net(pick, most_blocks=5):
    """Returns a net of random blocks with random weights, and the names of the blocks.

    Args:
        pick: called with a list of options, returns one of them.
        most_blocks: how many blocks at most lie between the first layer and the head.
    """
    make = _Maker(pick)
    x, h = _start(make)
    names = []
    for _ in range(pick(list(range(1, most_blocks + 1)))):
        block = pick(BLOCKS[len(h.shape)])
        names.append(block.__name__.strip("_"))
        h = block(make, h)
        if h.shape[-1] > 40:
            h = make.dense(4)(h)
    if len(h.shape) == 4 and pick([False, True]):
        h = layers.Flatten()(h)
    return randomise(keras.Model(x, layers.Dense(2, name="out")(h), name="random")), names
