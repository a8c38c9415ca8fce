"""FLOPs and parameters counted from the graph, against TensorFlow's profiler and against models really cut."""

import keras
import numpy as np
import pytest
import tensorflow as tf
from keras import layers, ops
from nets import NETS
from tensorflow.python.framework.convert_to_constants import convert_variables_to_constants_v2

from tfprune import unit_groups
from tfprune.graph import closed, count_flops, count_parameters, flops_by_layer, register_flops
from tfprune.graph.flops import Costs, guessed_flops
from tfprune.layers import ONLSTM
from tfprune.surgery import remove


def profiled(model):
    """Returns the float operations that TensorFlow's profiler finds in the frozen graph for one sample."""
    specs = [tf.TensorSpec((1, *tensor.shape[1:]), tensor.dtype) for tensor in model.inputs]
    call = tf.function(lambda *x: model(list(x) if len(x) > 1 else x[0], training=False))
    frozen = convert_variables_to_constants_v2(call.get_concrete_function(*specs))
    builder = tf.compat.v1.profiler.ProfileOptionBuilder
    options = builder(builder.float_operation()).with_empty_output().build()
    return tf.compat.v1.profiler.profile(frozen.graph, cmd="op", options=options).total_float_ops


def model_of(shape, *own):
    return keras.Sequential([keras.Input(shape), *own])


# Where the profiler knows every operation, the counts agree to the last one.
EXACT = [
    *["dense_chain", "dense_rank_3", "hidden_softmax", "einsum_dense", "conv_1d", "conv_2d", "depthwise_conv"],
    *["separable_conv", "separable_conv_1d", "conv_channels_first", "attention_plain", "dot", "merges", "siamese"],
    *["squeeze_excitation", "spatial_gate", "concatenate", "ops_arithmetic", "called_twice", "nested_twice"],
    *["several_outputs", "reshape_flat"],
]


@pytest.mark.parametrize("name", EXACT)
def test_counts_what_the_profiler_counts(name):
    model = NETS[name]()
    assert count_flops(unit_groups(model)) == profiled(model)


# Small terms differ: how many operations an activation, a padding or a norm needs depends on how it is written.
NEAR = {"batch_norm": 0.01, "pooling": 0.01, "pooling_1d": 0.01, "prelu": 0.01, "ops_slices": 0.01, "layer_norm": 0.03}


@pytest.mark.parametrize(("name", "tolerance"), NEAR.items())
def test_counts_nearly_what_the_profiler_counts(name, tolerance):
    model = NETS[name]()
    assert count_flops(unit_groups(model)) == pytest.approx(profiled(model), rel=tolerance)


@pytest.mark.parametrize("cell", [layers.LSTM, layers.GRU, layers.SimpleRNN])
def test_counts_an_unrolled_recurrent_layer_as_the_profiler_does(cell):
    """The profiler does not see into loops, so the loop is unrolled for it; the count is that of the loop."""
    unrolled, looped = (model_of((5, 3), cell(4, unroll=unroll)) for unroll in (True, False))
    assert count_flops(unit_groups(unrolled)) == count_flops(unit_groups(looped)) == profiled(unrolled)


@pytest.mark.parametrize(("units", "chunk_size", "num_levels"), [(6, 2, 3), (4, 1, 4), (6, 3, 5)])
def test_counts_an_unrolled_on_lstm_as_the_profiler_does(units, chunk_size, num_levels):
    """But for four sizes of parts that Keras computes at each of the five steps."""
    unrolled, looped = (
        model_of((5, 3), ONLSTM(units, chunk_size, num_levels=num_levels, unroll=unroll)) for unroll in (True, False)
    )
    assert count_flops(unit_groups(unrolled)) == count_flops(unit_groups(looped)) == profiled(unrolled) - 4 * 5


def test_counts_a_gru_that_resets_before_the_product():
    model = model_of((5, 3), layers.GRU(4, unroll=True, reset_after=False))
    assert count_flops(unit_groups(model)) == profiled(model)


def test_counts_a_transposed_convolution_by_the_positions_that_enter():
    """The profiler counts positions of the output over the stride: the same for padding "same", more for "valid"."""
    same = model_of((6, 6, 3), layers.Conv2DTranspose(4, 3, strides=2, padding="same"))
    assert count_flops(unit_groups(same)) == profiled(same) == 2 * 36 * 9 * 3 * 4 + 12 * 12 * 4
    valid = model_of((6, 6, 3), layers.Conv2DTranspose(4, 3, strides=2))
    assert count_flops(unit_groups(valid)) == 2 * 36 * 9 * 3 * 4 + 13 * 13 * 4 < profiled(valid)


@pytest.mark.parametrize(
    ("shape", "layer", "expected"),
    [
        # The profiler has no count for these: multiply-adds by hand, then biases.
        ((5, 5, 5, 2), lambda: layers.Conv3D(4, 2), 2 * 64 * 8 * 2 * 4 + 64 * 4),
        ((4, 4, 4, 2), lambda: layers.Conv3DTranspose(3, 2), 2 * 64 * 8 * 2 * 3 + 125 * 3),
        ((7, 3), lambda: layers.Conv1DTranspose(4, 3), 2 * 7 * 3 * 3 * 4 + 9 * 4),
        ((6, 6, 4), lambda: layers.Conv2D(8, 3, groups=2), 2 * 16 * 9 * 2 * 8 + 16 * 8),
        ((6, 6, 4), lambda: layers.DepthwiseConv2D(3, depth_multiplier=2), 2 * 16 * 9 * 8 + 16 * 8),
        ((3, 4), lambda: layers.EinsumDense("abc,cde->abde", (3, 3, 5)), 2 * 3 * 4 * 15),
        ((3, 4), lambda: layers.EinsumDense("abc,c->abc", (3, 4)), 2 * 3 * 4),
        ((6,), lambda: layers.Embedding(9, 4), 0),
        ((5, 3), lambda: layers.Bidirectional(layers.SimpleRNN(2), merge_mode="sum"), 2 * 5 * (2 * 10 + 2 + 2) + 2),
        ((5, 3), lambda: layers.TimeDistributed(layers.Dense(4)), 5 * (2 * 3 * 4 + 4)),
        ((4, 4, 3), lambda: layers.AveragePooling2D(2), 4 * 2 * 2 * 3),
        ((4, 4, 3), lambda: layers.GlobalMaxPooling2D(), 48),
        ((4,), lambda: layers.Rescaling(2.0), 8),
        ((4,), lambda: layers.Softmax(), 20),
        ((4,), lambda: layers.Dense(3, "softmax"), 2 * 12 + 3 + 15),
        ((4,), lambda: layers.Dropout(0.5), 0),
    ],
)
def test_counts_by_hand(shape, layer, expected):
    assert count_flops(unit_groups(model_of(shape, layer()))) == expected


def test_counts_attention_by_hand():
    """Two heads of width 3 with values of width 4; 5 queries on 6 keys of width 7, queries of width 8."""
    query, value = keras.Input((5, 8)), keras.Input((6, 7))
    model = keras.Model(
        [query, value], layers.MultiHeadAttention(2, 3, value_dim=4, name="heads")(value=value, query=query)
    )
    projections = 5 * (2 * 8 * 6 + 6) + 6 * (2 * 7 * 6 + 6) + 6 * (2 * 7 * 8 + 8) + 5 * (2 * 8 * 8 + 8)
    scores = 2 * 5 * 6
    assert count_flops(unit_groups(model)) == projections + scores * (2 * 3 + 5 + 2 * 4) + 5 * 2 * 3


@pytest.mark.parametrize("name", NETS)
def test_after_a_cut_counts_what_the_cut_model_has(name):
    """The counts from the ids are those of the model that is really built."""
    model = NETS[name]()
    graph = unit_groups(model)
    assert count_parameters(graph) == model.count_params()
    mask = {group.name: np.arange(group.size) % 2 == 0 for group in graph.values()}
    small = remove(model, mask)
    assert count_parameters(graph, mask) == small.count_params() < model.count_params()
    assert count_flops(graph, mask) == count_flops(unit_groups(small)) < count_flops(graph)


def test_random_masks_give_the_counts_of_the_cut_model():
    model = NETS["batch_norm"]()
    graph = unit_groups(model)
    costs = Costs(graph)
    generator = np.random.default_rng(0)
    for _ in range(5):
        mask = {
            name: generator.permutation(np.arange(size) < generator.integers(1, size + 1))
            for name, size in graph.sizes.items()
        }
        row = np.concatenate(list(mask.values()))
        small = remove(model, mask)
        assert costs.parameters(row) == count_parameters(graph, mask) == small.count_params()
        assert sum(costs.flops(row).values()) == count_flops(unit_groups(small))


def test_flops_by_layer_names_nested_layers_and_adds_up_calls():
    by_layer = flops_by_layer(unit_groups(NETS["nested_twice"]()))
    one_call = 2 * 3 * 5 + 5
    assert by_layer["inner/a"] == 2 * one_call
    assert sum(by_layer.values()) == count_flops(unit_groups(NETS["nested_twice"]()))


def test_open_lengths_need_shapes():
    text = keras.Input((None,), dtype="int32", name="text")
    h = layers.LSTM(4, return_sequences=True)(layers.Embedding(9, 3)(text))
    h = layers.EinsumDense("abc,cd->abd", (None, 5))(h)
    graph = unit_groups(keras.Model(text, layers.Dense(2)(layers.GlobalAveragePooling1D()(h)), name="reader"))
    fixed = model_of((7, 3), layers.LSTM(4, return_sequences=True), layers.Dense(5, use_bias=False))
    tail = 7 * 5 + 2 * 5 * 2 + 2
    assert count_flops(graph, shapes=[(7,)]) == count_flops(unit_groups(fixed)) + tail
    with pytest.raises(ValueError, match=r"input 'text' of model 'reader' has the shape \(None, None\).*shapes="):
        count_flops(graph)
    with pytest.raises(ValueError, match=r"input 'text' expects \(None,\) .* received \(7, 1\)"):
        count_flops(graph, shapes=[(7, 1)])
    with pytest.raises(ValueError, match="the model has 1 inputs, received 2 shapes"):
        count_flops(graph, shapes=[(7,), (7,)])


def test_a_backbone_for_any_size_is_counted_at_the_size_that_enters():
    def conv():
        return layers.Conv2D(4, 3, name="conv")

    backbone = model_of((None, None, 3), conv())
    image = keras.Input((8, 8, 3))
    assert count_flops(unit_groups(keras.Model(image, backbone(image)))) == 2 * 36 * 27 * 4 + 36 * 4


@closed
class Pick(layers.Layer):
    def call(self, x):
        return tf.boolean_mask(x, x[0] > 0, axis=1)

    def compute_output_shape(self, shape):
        return (shape[0], None)


def test_a_length_known_only_at_run_time_is_refused():
    x = keras.Input((4,), name="x")
    model = keras.Model(x, ops.relu(Pick(name="pick")(x)))
    with pytest.raises(ValueError, match="'pick' gives out a length that is not known before it runs"):
        count_flops(unit_groups(model))


class OwnDense(layers.Layer):
    def build(self, shape):
        self.table = self.add_weight(shape=(shape[-1], 3))

    def call(self, x):
        return x @ self.table


def test_a_class_without_a_row_counts_one_per_number_and_can_get_one():
    closed(OwnDense)
    graph = unit_groups(model_of((4,), OwnDense(name="own")))
    assert count_flops(graph) == 3
    assert guessed_flops(graph) == ("own",)

    @register_flops(OwnDense)
    def own(call):
        return 2 * call.outputs[0][-1] * call.weight(call.operation.table)[0]

    assert count_flops(graph) == 24
    assert guessed_flops(graph) == ()


def test_what_does_not_fit_is_refused(dense_net):
    graph = unit_groups(dense_net)
    with pytest.raises(ValueError, match=r"on: expected the shape \(9,\), one for each unit, received \(8,\)"):
        count_parameters(graph, np.ones(8, bool))
    with pytest.raises(TypeError, match="on: the array expects the dtype bool"):
        count_flops(graph, np.ones(9))
    with pytest.raises(ValueError, match="The mask has unknown groups"):
        count_flops(graph, {"third": np.ones(9, bool)})
    with pytest.raises(TypeError, match="register_flops: expected classes, received 'Dense'"):
        register_flops("Dense")


def test_resnet_50_has_the_known_costs():
    """7.75 billion: two for each of the 3.86 billion multiply-adds of its kernels, and biases, norms and additions."""
    graph = unit_groups(keras.applications.ResNet50(weights=None))
    assert count_parameters(graph) == 25_636_712
    assert count_flops(graph) == pytest.approx(7.75e9, rel=0.01)
