"""Functions of TensorFlow on symbolic tensors: each computes what TensorFlow computes."""

import threading

import keras
import numpy as np
import pytest
import tensorflow as tf

from tfprune.graph.of_tensorflow import followed
from tfprune.graph.of_tensorflow_table import FUNCTIONS

A, B, C, PICTURES, TRUTHS, PLACES = "abcpti"


def arrays():
    generator = np.random.default_rng(3)
    normal = generator.normal(size=(2, 3, 4)).astype("float32")
    return {
        A: np.where(np.abs(normal) < 0.05, 0.2, normal).astype("float32"),
        B: generator.uniform(0.2, 2, (2, 3, 4)).astype("float32"),
        C: generator.normal(size=(2, 4, 3)).astype("float32"),
        PICTURES: generator.normal(size=(2, 4, 4, 8)).astype("float32"),
        TRUTHS: generator.random((2, 3, 4)) > 0.4,
        PLACES: generator.integers(0, 3, (2, 3)).astype("int32"),
    }


def words(text):
    return text.split()


def pool(name, *args):
    return lambda p: getattr(tf.nn, name)(p, *args)


def _one(function):
    """Functions of one array that is above zero."""
    return [(function, B)]


def _two(function):
    return [(function, A, B), (lambda a: function(a, 0.5), A), (lambda b: function(tf.constant(0.5), b), B)]


def _three(function):
    """Sums and their like: all, along one axis, along two with the axes kept."""
    return [
        (function, A),
        (lambda a: function(a, axis=-1), A),
        (lambda a: function(a, [0, 2], True), A),
        (lambda a: function(a, axis=tf.constant(1), keepdims=True), A),
    ]


def _logical(function):
    return [(lambda t: function(t, axis=1), TRUTHS), (function, TRUTHS)]


CALLS = {
    **{
        f"math.{name}": _one(getattr(tf.math, name))
        for name in words("exp expm1 log log1p sqrt rsqrt reciprocal sigmoid softplus erf log_sigmoid")
    },
    **{
        f"math.{name}": [(getattr(tf.math, name), A)]
        for name in words("abs square negative sign tanh sin cos floor ceil round is_nan")
    },
    **{
        f"nn.{name}": [(getattr(tf.nn, name), A)]
        for name in words("sigmoid tanh softplus softsign relu relu6 elu selu")
    },
    **{
        f"math.{name}": _two(getattr(tf.math, name))
        for name in words(
            "add subtract multiply divide truediv floordiv floormod maximum minimum equal not_equal greater "
            "greater_equal less less_equal squared_difference divide_no_nan"
        )
    },
    **{
        f"math.{name}": _three(getattr(tf.math, name))
        for name in words(
            "reduce_mean reduce_sum reduce_max reduce_min reduce_prod reduce_std reduce_variance reduce_logsumexp "
            "reduce_euclidean_norm"
        )
    },
    "math.reduce_any": _logical(tf.reduce_any),
    "math.reduce_all": _logical(tf.reduce_all),
    "math.pow": [(lambda b: tf.pow(b, 1.5), B), (tf.pow, B, A)],
    "math.logical_not": [(tf.logical_not, TRUTHS)],
    "math.logical_and": [(lambda t, a: tf.logical_and(t, a > 0), TRUTHS, A)],
    "math.logical_or": [(lambda t, a: tf.logical_or(t, tf.greater(a, 0)), TRUTHS, A)],
    "math.add_n": [(lambda a, b: tf.add_n([a, b, a]), A, B)],
    "clip_by_value": [(lambda a: tf.clip_by_value(a, -0.3, 0.4), A)],
    "norm": [(lambda a: tf.norm(a, axis=-1, keepdims=True), A), (lambda a: tf.linalg.norm(a, ord=2, axis=1), A)],
    "math.l2_normalize": [
        (lambda a: tf.nn.l2_normalize(a, axis=-1), A),
        (lambda a: tf.math.l2_normalize(a, [1, 2]), A),
    ],
    "math.argmax": [(lambda a: tf.argmax(a, axis=-1), A), (lambda a: tf.math.argmax(a, 1, output_type=tf.int32), A)],
    "math.argmin": [(lambda a: tf.argmin(a, axis=2), A)],
    "math.top_k": [
        (lambda a: tf.math.top_k(a, k=2).values if isinstance(a, tf.Tensor) else tf.math.top_k(a, k=2)[0], A)
    ],
    "math.cumsum": [(lambda a: tf.cumsum(a, axis=1), A)],
    "stop_gradient": [(tf.stop_gradient, A)],
    "shape": [(lambda a: tf.reshape(a, [tf.shape(a)[0], -1]), A), (lambda a: tf.reshape(a, tf.shape(a)[::-1]), A)],
    "rank": [(lambda a: tf.expand_dims(a, tf.rank(a) - 1), A)],
    "size": [(lambda a: a / tf.cast(tf.size(a), tf.float32), A)],
    "identity": [(lambda a: 2.0 * tf.identity(a), A)],
    "convert_to_tensor": [(lambda a: 2.0 * tf.convert_to_tensor(a), A)],
    "ensure_shape": [(lambda a: 2.0 * tf.ensure_shape(a, (2, 3, 4)), A)],
    "cast": [(lambda a: tf.cast(a > 0, tf.float32), A), (lambda a: tf.cast(a, "int32"), A)],
    "reshape": [(lambda a: tf.reshape(a, tf.concat([tf.shape(a)[:1], [4, 3]], axis=0)), A)],
    "transpose": [(lambda a: tf.transpose(a, [0, 2, 1]), A), (tf.transpose, A)],
    "expand_dims": [(lambda a: tf.expand_dims(a, axis=1), A)],
    "squeeze": [(lambda a: tf.squeeze(tf.expand_dims(a, -1), axis=[-1]), A), (lambda a: tf.squeeze(a[:, :1]), A)],
    "concat": [
        (lambda a, b: tf.concat([a, b], axis=-1), A, B),
        (lambda a: tf.concat([a, np.ones((2, 3, 1), "f")], 2), A),
    ],
    "stack": [(lambda a, b: tf.stack([a, b], axis=1), A, B)],
    "unstack": [(lambda a: tf.unstack(a, axis=1), A), (lambda a: tf.unstack(a, 2), A)],
    "split": [(lambda a: tf.split(a, 2, axis=-1), A), (lambda a: tf.split(a, [1, -1], axis=1), A)],
    "slice": [(lambda a: tf.slice(a, [0, 1, 0], [-1, 2, 3]), A)],
    "tile": [(lambda a: tf.tile(a, [1, 2, 1]), A)],
    "repeat": [(lambda a: tf.repeat(a, 2, axis=1), A)],
    "broadcast_to": [(lambda a: tf.broadcast_to(a[:, :1], [2, 3, 4]), A)],
    "pad": [
        (lambda a: tf.pad(a, [[0, 0], [1, 2], [0, 0]]), A),
        (lambda a: tf.pad(a, [[0, 0], [1, 1], [1, 1]], "REFLECT"), A),
        (lambda a: tf.pad(a, tf.constant([[0, 0], [1, 1], [0, 0]]), constant_values=2.0), A),
    ],
    "reverse": [(lambda a: tf.reverse(a, axis=[1]), A)],
    "roll": [(lambda a: tf.roll(a, shift=1, axis=1), A), (lambda a: tf.roll(a, [1, -1], [1, 2]), A)],
    "gather": [
        (lambda a: tf.gather(a, [2, 0], axis=1), A),
        (lambda i: tf.gather(tf.reshape(tf.range(9.0), (3, 3)), i), PLACES),
    ],
    "nn.embedding_lookup": [(lambda i: tf.nn.embedding_lookup(tf.reshape(tf.range(9.0), (3, 3)), i), PLACES)],
    "where": [(lambda t, a: tf.where(t, a, 0.0), TRUTHS, A), (lambda t, a, b: tf.where(t, a, b), TRUTHS, A, B)],
    "one_hot": [(lambda i: tf.one_hot(i, 4), PLACES), (lambda i: tf.one_hot(i, depth=3, dtype=tf.int32), PLACES)],
    "ones_like": [(tf.ones_like, A)],
    "zeros_like": [(lambda a: tf.zeros_like(a, dtype=tf.int32), A)],
    "linalg.band_part": [(lambda a: tf.linalg.band_part(a, -1, 0), A), (lambda a: tf.linalg.band_part(a, 1, 1), A)],
    "linalg.matmul": [
        (tf.matmul, A, C),
        (lambda a, b: tf.matmul(a, b, transpose_b=True), A, B),
        (lambda a, b: tf.linalg.matmul(a, b, transpose_a=True), A, B),
        (lambda a, c: a @ c, A, C),
    ],
    "linalg.matrix_transpose": [(tf.linalg.matrix_transpose, A)],
    "tensordot": [
        (lambda a: tf.tensordot(a, tf.ones((4, 2)), axes=[[2], [0]]), A),
        (lambda a: tf.tensordot(a, tf.ones((4, 2)), 1), A),
    ],
    "einsum": [(lambda a, c: tf.einsum("abc,acd->abd", a, c), A, C)],
    "nn.bias_add": [(lambda a: tf.nn.bias_add(a, tf.range(4.0)), A)],
    "nn.leaky_relu": [(tf.nn.leaky_relu, A), (lambda a: tf.nn.leaky_relu(a, alpha=0.1), A)],
    "nn.gelu": [(tf.nn.gelu, A), (lambda a: tf.nn.gelu(a, approximate=True), A)],
    "nn.silu": [(tf.nn.silu, A), (lambda a: tf.nn.swish(a, beta=1.5), A)],
    "nn.softmax": [(tf.nn.softmax, A), (lambda a: tf.nn.softmax(a, axis=1), A)],
    "nn.log_softmax": [(tf.nn.log_softmax, A)],
    "nn.depth_to_space": [(lambda p: tf.nn.depth_to_space(p, 2), PICTURES)],
    "nn.space_to_depth": [(lambda p: tf.nn.space_to_depth(p, block_size=2), PICTURES)],
    "nn.convolution": [(lambda a: tf.nn.convolution(a, tf.ones((2, 4, 3)), padding="SAME"), A)],
    "nn.conv2d": [
        (lambda p: tf.nn.conv2d(p, tf.ones((3, 3, 8, 2)), strides=[1, 2, 2, 1], padding="SAME"), PICTURES),
        (lambda p: tf.nn.conv2d(p, tf.ones((2, 2, 8, 2)), 1, "VALID", dilations=2), PICTURES),
    ],
    "nn.conv3d": [(lambda p: tf.nn.conv3d(p[:, None], tf.ones((1, 2, 2, 8, 2)), [1, 1, 1, 1, 1], "SAME"), PICTURES)],
    "nn.max_pool1d": [(pool("max_pool1d", 2, 2, "VALID"), A)],
    "nn.avg_pool1d": [(pool("avg_pool1d", 2, 1, "SAME"), A)],
    "nn.max_pool2d": [(pool("max_pool2d", 2, 2, "VALID"), PICTURES)],
    "nn.avg_pool2d": [(pool("avg_pool2d", [3, 2], [1, 2], "SAME"), PICTURES)],
    "nn.max_pool3d": [(lambda p: tf.nn.max_pool3d(p[:, None], [1, 1, 2, 2, 1], [1, 1, 2, 2, 1], "SAME"), PICTURES)],
    "nn.avg_pool3d": [(lambda p: tf.nn.avg_pool3d(p[:, None], [1, 1, 2, 2, 1], [1, 1, 2, 2, 1], "SAME"), PICTURES)],
    "nn.max_pool": [(pool("max_pool", [1, 2, 2, 1], [1, 2, 2, 1], "SAME"), PICTURES)],
    "nn.avg_pool": [(pool("avg_pool", [1, 2, 2, 1], [1, 2, 2, 1], "VALID"), PICTURES)],
    "image.extract_patches": [
        (
            lambda p: tf.image.extract_patches(
                p, sizes=[1, 2, 2, 1], strides=[1, 2, 2, 1], rates=[1, 1, 1, 1], padding="VALID"
            ),
            PICTURES,
        )
    ],
    "image.resize": [
        (lambda p: tf.image.resize(p, (8, 6)), PICTURES),
        (lambda p: tf.image.resize(p, [8, 8], method="nearest"), PICTURES),
    ],
}
OPERATORS = words("add sub mul truediv floordiv mod pow eq ne gt ge lt le realdiv neg")
OTHER_NAMES = {
    "linalg.norm": "norm",
    "matmul": "linalg.matmul",
    "nn.swish": "nn.silu",
    "argmax": "math.argmax",
    "argmin": "math.argmin",
}
CASES = [
    pytest.param(*call, id=f"{name} {number}")
    for name, calls in CALLS.items()
    for number, call in enumerate((own[0], own[1:]) for own in calls)
]


def leaves(structure):
    return [np.asarray(own) for own in keras.tree.flatten(structure)]


@pytest.mark.parametrize(("function", "names"), CASES)
def test_it_computes_what_tensorflow_computes(function, names):
    own = arrays()
    given = [own[name] for name in names]
    symbols = [keras.KerasTensor(array.shape, array.dtype.name) for array in given]
    with followed():
        outputs = function(*symbols)
    assert all(isinstance(leaf, keras.KerasTensor) for leaf in keras.tree.flatten(outputs))
    received = leaves(keras.Function(symbols, outputs)(given))
    expected = leaves(function(*map(tf.constant, given)))
    for one, other, symbol in zip(expected, received, keras.tree.flatten(outputs), strict=True):
        assert one.shape == other.shape == symbol.shape
        assert one.dtype == other.dtype
        np.testing.assert_allclose(other, one, rtol=2e-5, atol=2e-5)


def test_every_function_of_the_table_has_a_case():
    assert FUNCTIONS.keys() - set(OPERATORS) - OTHER_NAMES.keys() == CALLS.keys()


def test_operators_of_tensorflow_with_a_symbol_at_the_right():
    a, c = keras.KerasTensor((2, 3, 4)), tf.constant(2.0)
    with followed():
        outputs = [c + a, c - a, c * a, c / a, c // a, c % a, c**a, c > a, c >= a, c < a, c <= a]
    own = arrays()[B]
    received = keras.Function([a], outputs)([own])
    expected = [c + own, c - own, c * own, c / own, c // own, c % own, c**own, c > own, c >= own, c < own, c <= own]
    for one, other in zip(expected, received, strict=True):
        np.testing.assert_allclose(other, one, rtol=2e-5, atol=2e-5)


REFUSED = [
    lambda a: tf.map_fn(lambda own: own, a),
    lambda a: tf.numpy_function(lambda own: own, [a], tf.float32),
    lambda a: tf.boolean_mask(a, tf.greater(a, 0)),
    lambda a: tf.cumsum(a, exclusive=True),
    lambda a: tf.norm(a, ord=1, axis=-1),
    lambda a: tf.norm(a),
    lambda a: tf.where(a),
    lambda a: tf.gather(a, [[0], [1]], axis=1, batch_dims=1),
    lambda a: tf.one_hot(tf.cast(a, tf.int32), 3, on_value=2.0),
    lambda a: tf.nn.bias_add(a, tf.ones(3), data_format="NCHW"),
    lambda a: tf.nn.depth_to_space(a[..., None], 2, data_format="NCHW"),
    lambda a: tf.nn.dropout(a, 0.5),
    lambda a: tf.nn.conv1d(a, tf.ones((2, 4, 3)), 1, "VALID"),
]


@pytest.mark.parametrize("number", range(len(REFUSED)))
def test_what_is_not_in_the_table_is_refused(number):
    with followed(), pytest.raises((NotImplementedError, ValueError, TypeError, AttributeError)):
        REFUSED[number](keras.KerasTensor((2, 3, 4)))


def test_outside_of_a_trace_nothing_changes():
    symbol = keras.KerasTensor((2, 3))
    with followed():
        assert isinstance(tf.square(symbol), keras.KerasTensor)
    with pytest.raises(ValueError, match="KerasTensor"):
        tf.square(symbol)


def test_another_thread_is_left_alone():
    symbol, found = keras.KerasTensor((2, 3)), []

    def elsewhere():
        try:
            found.append(tf.square(symbol))
        except ValueError as error:
            found.append(error)

    with followed():
        thread = threading.Thread(target=elsewhere)
        thread.start()
        thread.join()
        assert isinstance(tf.square(symbol), keras.KerasTensor)
    assert isinstance(found[0], ValueError)


@pytest.mark.parametrize(
    ("function", "words"),
    [
        (lambda p: tf.image.resize(p, (8, 8), preserve_aspect_ratio=True), "preserve_aspect_ratio=True"),
        (lambda p: tf.math.cumsum(p, 1, reverse=True), "forwards"),
    ],
)
def test_a_setting_that_is_not_followed_is_named(function, words):
    with followed(), pytest.raises(NotImplementedError, match=words):
        function(keras.KerasTensor((2, 4, 4, 3)))


def test_operands_by_name_and_a_dtype_by_place():
    own = arrays()[B]
    symbol = keras.KerasTensor(own.shape)
    with followed():
        outputs = [
            tf.pow(y=2.0, x=symbol),
            tf.subtract(x=1.0, y=symbol),
            tf.convert_to_tensor(2.0 * symbol, tf.float32),
        ]
    for one, other in zip([own**2, 1 - own, 2 * own], keras.Function([symbol], outputs)([own]), strict=True):
        np.testing.assert_allclose(other, one, rtol=1e-3)
