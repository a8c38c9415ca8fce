"""Repairs: the least squares behind them, what they must restore exactly, and what they refuse."""

from itertools import product

import keras
import numpy as np
import pytest
import tensorflow as tf
from conftest import randomise
from keras import layers
from nets import outputs_of
from sklearn.datasets import load_digits
from sklearn.linear_model import Ridge

import tfprune
from tfprune import LayerValues
from tfprune.repair import Merged, merge, moments
from tfprune.repair.moments import Moments, fit, row_sums
from tfprune.surgery import remove, repairing
from tfprune.surgery.sites import Followers

pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")
FEW = "ignore:data. repair .* samples; below 300"


def relative(one, other):
    return np.abs(one - other).max() / np.abs(one).max()


# Moments and fits -----------------------------------------------------------------------------------------------------


def halves_of(x, z):
    halves = Moments.zero(x.shape[1], z.shape[1]), Moments.zero(x.shape[1], z.shape[1])
    for k in (0, 1):
        halves[k].add(row_sums(tf.constant(x[k::2]), tf.constant(z[k::2])))
    return halves


@pytest.fixture
def rows(generator):
    """500 rows of correlated regressors, and targets with noise."""
    x = generator.normal(size=(500, 6)) @ generator.normal(size=(6, 6)) + generator.normal(size=6)
    return x, x @ generator.normal(size=(6, 3)) + generator.normal(size=(500, 3)) + 2.0


def test_moments_are_sums_however_the_rows_come(rows):
    x, z = rows
    total = Moments.zero(6, 3)
    for start, stop in ((0, 7), (7, 300), (300, 500)):
        total.add(row_sums(tf.constant(x[start:stop]), tf.constant(z[start:stop])))
    mean_x, mean_z, covariance, cross, variance = total.centred()
    np.testing.assert_allclose(mean_x, x.mean(0), rtol=1e-12)
    np.testing.assert_allclose(mean_z, z.mean(0), rtol=1e-12)
    np.testing.assert_allclose(covariance, np.cov(x.T, bias=True), atol=1e-10)
    np.testing.assert_allclose(cross, (x - x.mean(0)).T @ (z - z.mean(0)) / len(x), atol=1e-10)
    np.testing.assert_allclose(variance, z.var(0), atol=1e-10)
    assert total.padded(0.2).count == pytest.approx(500 / 0.8)


@pytest.mark.parametrize("intercept", [True, False])
def test_without_ridge_it_is_lstsq(rows, intercept, monkeypatch, generator):
    monkeypatch.setattr(moments, "RIDGES", (0.0,))
    x, z = rows
    weights, constant = fit(halves_of(x, z), generator.normal(size=(6, 3)), intercept=intercept)
    augmented = np.hstack([x, np.ones((500, 1))]) if intercept else x
    expected, *_ = np.linalg.lstsq(augmented, z, rcond=None)
    np.testing.assert_allclose(weights, expected[:6], atol=1e-7)
    np.testing.assert_allclose(constant, expected[6] if intercept else np.zeros(3), atol=1e-7)


@pytest.mark.parametrize("intercept", [True, False])
@pytest.mark.parametrize("ridge", [1e-3, 0.3, 10.0])
def test_ridge_is_that_of_scikit_learn(rows, ridge, intercept, monkeypatch, generator):
    """A ridge is a share of the mean variance of the regressors, pulls towards the start, and spares the intercept."""
    monkeypatch.setattr(moments, "RIDGES", (ridge,))
    x, z = rows
    start = generator.normal(size=(6, 3))
    weights, constant = fit(halves_of(x, z), start, intercept=intercept)
    scale = np.mean(np.var(x, axis=0) if intercept else np.mean(x**2, axis=0))
    peer = Ridge(alpha=ridge * scale * len(x), fit_intercept=intercept).fit(x, z - x @ start)
    np.testing.assert_allclose(weights, start + peer.coef_.T, atol=1e-8)
    np.testing.assert_allclose(constant, peer.intercept_ if intercept else np.zeros(3), atol=1e-8)


def test_the_ridge_is_the_one_that_predicts_the_other_half_best(generator):
    """Re-derived slowly, from the rows themselves."""
    x = generator.normal(size=(30, 12))
    z = x[:, :2] + generator.normal(size=(30, 2))
    start = np.zeros((12, 2))
    errors = {}
    for ridge in moments.RIDGES:
        errors[ridge] = 0.0
        for k in (0, 1):
            own, other = slice(k, None, 2), slice(1 - k, None, 2)
            alpha = ridge * np.mean(np.var(x[own], axis=0)) * len(x[own])
            peer = Ridge(alpha=alpha, solver="svd").fit(x[own], z[own])
            errors[ridge] += np.sum((peer.predict(x[other]) - z[other]) ** 2)
    best = min(errors, key=errors.get)
    assert best == 0.3
    weights, constant = fit(halves_of(x, z), start)
    peer = Ridge(alpha=best * np.mean(np.var(x, axis=0)) * len(x)).fit(x, z)
    np.testing.assert_allclose(weights, peer.coef_.T, atol=1e-8)
    np.testing.assert_allclose(constant, peer.intercept_, atol=1e-8)


def test_singular_moments_give_what_is_needed_and_nothing_wild(rows):
    """Twins, constants and zeros among the regressors."""
    x, z = rows
    x = np.hstack([x, x[:, :2], np.zeros((500, 1)), np.full((500, 1), 3.0)])
    exact = x[:, :6] @ np.ones((6, 3))
    weights, constant = fit(halves_of(x, exact), np.zeros((10, 3)))
    np.testing.assert_allclose(x @ weights + constant, exact, atol=1e-5)
    assert np.abs(weights).max() < 10
    weights, constant = fit(halves_of(np.zeros((20, 3)), np.full((20, 2), 5.0)), np.ones((3, 2)))
    np.testing.assert_allclose(weights, 1.0)
    np.testing.assert_allclose(constant, 5.0)


# What can be said exactly is exact ------------------------------------------------------------------------------------


def tie(layer, unit, source, factor=1.0, offset=0.0):
    """Makes a unit's pre-activation a multiple of another one's, plus a number."""
    kernel, bias = layer.kernel.numpy(), layer.bias.numpy()
    kernel[..., unit] = factor * kernel[..., source]
    bias[unit] = factor * bias[source] + offset
    layer.kernel.assign(kernel)
    layer.bias.assign(bias)


def tie_gates(cell, gates, unit, source):
    """Makes a recurrent unit the twin of another one."""
    for variable in (cell.kernel, cell.recurrent_kernel, cell.bias):
        value = variable.numpy()
        view = value.reshape(*value.shape[:-1], gates, -1)
        view[..., unit] = view[..., source]
        variable.assign(value)


def model_of(x, h, name="net"):
    h = layers.Flatten()(h) if len(h.shape) > 2 else h
    return randomise(keras.Model(x, layers.Dense(3, name="out")(h), name=name))


def dense_twins():
    x = keras.Input((5,))
    h = layers.Dense(7, activation="relu", name="first")(x)
    model = model_of(x, layers.Dense(6, activation="tanh", name="second")(h))
    first, second = model.get_layer("first"), model.get_layer("second")
    tie(first, 1, 0), tie(first, 3, 2, 2.5)
    tie(first, 4, 0, 0.0, -1.0), tie(first, 5, 0, 0.0, 0.8)
    tie(second, 5, 1, -1.0)
    return model, {"first": [1, 3, 4, 5], "second": [5]}


def complementary():
    x = keras.Input((5,))
    model = model_of(x, layers.Dense(6, activation="sigmoid", name="first")(x))
    tie(model.get_layer("first"), 1, 0, -1.0), tie(model.get_layer("first"), 4, 3, -1.0)
    return model, {"first": [1, 4]}


def affine_function():
    """A linear unit is the sum of all others."""
    x = keras.Input((5,))
    model = model_of(x, layers.Dense(5, activation="sigmoid", name="second")(layers.Dense(6, name="first")(x)))
    first = model.get_layer("first")
    kernel = first.kernel.numpy()
    kernel[:, 2] = kernel[:, [0, 1, 3]].sum(1)
    first.kernel.assign(kernel)
    return model, {"first": [2, 4]} if kernel.shape[0] < 5 else {"first": [2]}


def conv(padding):
    def build():
        x = keras.Input((7, 7, 2))
        h = layers.Conv2D(6, 3, padding=padding, activation="relu", name="first")(x)
        h = layers.Conv2D(5, 3, padding=padding, activation="relu", name="second")(h)
        model = model_of(x, layers.MaxPooling2D(2)(h))
        tie(model.get_layer("first"), 1, 0), tie(model.get_layer("first"), 3, 2, 2.5)
        tie(model.get_layer("second"), 4, 0)
        if padding == "valid":
            tie(model.get_layer("first"), 5, 0, 0.0, 0.8)
        return model, {"first": [1, 3, 5] if padding == "valid" else [1, 3], "second": [4]}

    build.__name__ = f"conv_{padding}"
    return build


def conv_1d_causal():
    x = keras.Input((9, 2))
    h = layers.Conv1D(6, 3, padding="causal", activation="relu", name="first")(x)
    model = model_of(x, layers.Conv1D(4, 2, dilation_rate=2, padding="causal", name="second")(h))
    tie(model.get_layer("first"), 1, 0, 3.0)
    return model, {"first": [1]}


def transposed():
    x = keras.Input((4, 4, 2))
    h = layers.Conv2D(6, 2, activation="relu", name="first")(x)
    model = model_of(x, layers.Conv2DTranspose(4, 3, strides=2, name="second")(h))
    tie(model.get_layer("first"), 1, 0, 3.0)
    return model, {"first": [1]}


def grouped():
    x = keras.Input((6, 6, 2))
    h = layers.Conv2D(8, 2, activation="relu", name="first")(x)
    model = model_of(x, layers.Conv2D(6, 2, groups=2, name="second")(h))
    tie(model.get_layer("first"), 1, 0, 3.0), tie(model.get_layer("first"), 5, 4, 3.0)
    return model, {"first": [1]}


def separable():
    """Twins whose depthwise kernels are equal, too: else the two together are more than one kernel can say."""
    x = keras.Input((6, 6, 2))
    h = layers.Conv2D(6, 2, activation="relu", name="first")(x)
    model = model_of(x, layers.SeparableConv2D(4, 3, padding="same", depth_multiplier=2, name="second")(h))
    tie(model.get_layer("first"), 1, 0)
    second = model.get_layer("second")
    kernel = second.depthwise_kernel.numpy()
    kernel[:, :, 1] = kernel[:, :, 0]
    second.depthwise_kernel.assign(kernel)
    return model, {"first": [1]}


def einsum():
    x = keras.Input((3, 4))
    h = layers.EinsumDense("abc,cd->abd", (3, 6), bias_axes="d", activation="relu", name="first")(x)
    model = model_of(x, layers.EinsumDense("abd,de->abe", (3, 5), name="second")(h))
    tie(model.get_layer("first"), 1, 0, 2.0), tie(model.get_layer("first"), 4, 0, 0.0, 0.8)
    return model, {"first": [1, 4]}


def heads():
    x = keras.Input((4, 5))
    model = model_of(x, layers.MultiHeadAttention(4, 3, name="heads")(x, x))
    layer = model.get_layer("heads")
    for dense in (layer._query_dense, layer._key_dense, layer._value_dense):
        for variable, axis in ((dense.kernel, 1), (dense.bias, 0)):
            value = np.moveaxis(variable.numpy().copy(), axis, 0)
            value[2] = value[0]
            variable.assign(np.moveaxis(value, 0, axis))
    return model, {"heads/heads": [2]}


def recurrent(kind, gates):
    def build():
        x = keras.Input((5, 3))
        h = kind(6, return_sequences=True, name="first")(x)
        model = model_of(x, kind(4, name="second")(h))
        tie_gates(model.get_layer("first").cell, gates, 1, 0)
        tie_gates(model.get_layer("first").cell, gates, 4, 3)
        tie_gates(model.get_layer("second").cell, gates, 3, 0)
        return model, {"first": [1, 4], "second": [3]}

    build.__name__ = kind.__name__
    return build


def bidirectional():
    x = keras.Input((5, 3))
    model = model_of(x, layers.Bidirectional(layers.LSTM(5), name="both")(x))
    both = model.get_layer("both")
    tie_gates(both.forward_layer.cell, 4, 1, 0)
    tie_gates(both.backward_layer.cell, 4, 1, 0)
    graph = tfprune.unit_groups(model)
    return model, {name: [1] for name in graph.names}


def batch_norm():
    """Twins behind a batch norm that treats them alike; the reader has no bias, but a batch norm of its own."""
    x = keras.Input((6, 6, 2))
    h = layers.Conv2D(5, 2, name="first")(x)
    h = layers.ReLU()(layers.BatchNormalization(name="norm")(h))
    h = layers.Conv2D(4, 2, use_bias=False, name="second")(h)
    model = model_of(x, layers.ReLU()(layers.BatchNormalization(name="norm_2")(h)))
    tie(model.get_layer("first"), 1, 0)
    norm = model.get_layer("norm")
    for variable in norm.weights:
        value = variable.numpy()
        value[1] = value[0]
        if variable is norm.gamma:
            value[3] = 0.0
        variable.assign(value)
    return model, {"first": [1, 3]}


def residual():
    """The stream's own units and those inside a branch."""
    x = keras.Input((6, 6, 2))
    h = layers.Conv2D(6, 3, padding="same", activation="relu", name="stem")(x)
    branch = layers.Conv2D(5, 3, padding="same", activation="relu", name="inside")(h)
    branch = layers.Conv2D(6, 3, padding="same", name="back")(branch)
    model = model_of(x, layers.ReLU()(layers.Add()([h, branch])))
    tie(model.get_layer("stem"), 1, 0), tie(model.get_layer("back"), 1, 0)
    tie(model.get_layer("inside"), 2, 0, 2.0)
    return model, {"stem": [1], "inside": [2]}


EXACT = [
    *[dense_twins, complementary, affine_function, conv("valid"), conv("same"), conv_1d_causal, transposed, grouped],
    *[separable, einsum, heads, bidirectional, batch_norm, residual],
    *[recurrent(layers.SimpleRNN, 1), recurrent(layers.GRU, 3), recurrent(layers.LSTM, 4)],
]
SLOW = [transposed, bidirectional, *EXACT[-2:]]


def mask_without(model, off):
    sizes = tfprune.unit_groups(model).sizes
    return LayerValues({name: ~np.isin(np.arange(sizes[name]), units) for name, units in off.items()})


@pytest.mark.parametrize(
    ("build", "repair"),
    [
        pytest.param(build, repair, marks=pytest.mark.slow if repair == "least_squares" and build in SLOW else ())
        for build, repair in product(EXACT, ["affine", "least_squares"])
    ],
    ids=lambda own: getattr(own, "__name__", own),
)
def test_what_can_be_said_exactly_is_exact(build, repair, generator):
    model, off = build()
    x = generator.normal(size=(400, *model.inputs[0].shape[1:])).astype("float32")
    mask = mask_without(model, off)
    expected = outputs_of(model, [x])
    assert relative(expected, outputs_of(remove(model, mask), [x])) > 5e-3
    assert relative(expected, outputs_of(remove(model, mask, repair=repair, data=x), [x])) < 1e-3


# Merge and mean -------------------------------------------------------------------------------------------------------


def test_merge_is_exact(generator):
    model, _ = dense_twins()
    x = generator.normal(size=(50, 5)).astype("float32")
    pairs = [Merged("first", 1, 0), Merged("first", 3, 2, 2.5), Merged("first", 5, 0, 0.0, 0.8)]
    mask = mask_without(model, {"first": [1, 3, 4, 5]})
    merged = outputs_of(remove(model, mask, repair=merge(pairs)), [x])
    assert relative(outputs_of(model, [x]), merged) < 1e-5


def test_merge_through_flatten_is_exact(generator):
    x = keras.Input((5, 5, 2))
    model = model_of(x, layers.Conv2D(4, 2, activation="relu", name="first")(x))
    tie(model.get_layer("first"), 3, 1, 0.5)
    mask = mask_without(model, {"first": [3]})
    data = generator.normal(size=(20, 5, 5, 2)).astype("float32")
    merged = remove(model, mask, repair=merge([Merged("first", 3, 1, 0.5)]))
    assert relative(outputs_of(model, [data]), outputs_of(merged, [data])) < 1e-5


def test_merge_refuses_what_makes_no_sense():
    model, _ = dense_twins()
    with pytest.raises(ValueError, match="unit 1 of 'first' is merged twice"):
        merge([Merged("first", 1, 0), Merged("first", 1, 2)])
    with pytest.raises(ValueError, match="or with itself"):
        merge([Merged("first", 1, 1)])
    with pytest.raises(ValueError, match="kept=3 of 'first' is off in the mask, but should be on"):
        remove(model, mask_without(model, {"first": [1, 3]}), repair=merge([Merged("first", 1, 3)]))


def constant_unit(h, **options):
    """A net whose unit 1 of `first` is always 0.7, read by what `h` builds."""
    x = keras.Input((6, 6, 2))
    model = model_of(x, h(layers.Conv2D(4, 2, activation="relu", name="first")(x)), **options)
    tie(model.get_layer("first"), 1, 0, 0.0, 0.7)
    return model, mask_without(model, {"first": [1]})


READERS = {
    "conv": (lambda h: layers.Conv2D(3, 2, name="reader")(h), "a bias"),
    "conv_without": (lambda h: layers.Conv2D(3, 2, use_bias=False, name="reader")(h), "a new bias"),
    "norm": (
        lambda h: layers.BatchNormalization(name="norm")(layers.Conv2D(3, 2, use_bias=False, name="reader")(h)),
        "the moving mean",
    ),
    "norm_behind_relu": (
        lambda h: layers.BatchNormalization()(layers.Dense(3, "relu", use_bias=False, name="reader")(h)),
        "a new bias",
    ),
    "einsum_without": (
        lambda h: layers.EinsumDense("abcd,de->abce", (5, 5, 3), name="reader")(h),
        "a new bias",
    ),
    "einsum_moved": (
        lambda h: layers.EinsumDense("abcd,de->aebc", (3, 5, 5), bias_axes="eb", name="reader")(h),
        "a bias",
    ),
    "time_distributed": (
        lambda h: layers.TimeDistributed(layers.Dense(3, use_bias=False), name="reader")(h),
        "a new bias",
    ),
    "bidirectional": (
        lambda h: layers.Bidirectional(layers.LSTM(3, use_bias=False), name="reader")(layers.Reshape((25, 4))(h)),
        "a new bias",
    ),
    "gru": (lambda h: layers.GRU(3, use_bias=False, name="reader")(layers.Reshape((25, 4))(h)), "a new bias"),
    "attention": (
        lambda h: layers.MultiHeadAttention(2, 3, use_bias=False, name="reader")(*[layers.Reshape((25, 4))(h)] * 2),
        "a new bias",
    ),
}


@pytest.mark.filterwarnings(FEW)
@pytest.mark.parametrize("name", READERS)
def test_the_mean_of_a_constant_unit_is_exact(name, generator):
    build, place = READERS[name]
    model, mask = constant_unit(build)
    x = generator.normal(size=(40, 6, 6, 2)).astype("float32")
    small = remove(model, mask, repair="mean", data=x)
    assert relative(outputs_of(model, [x]), outputs_of(remove(model, mask), [x])) > 1e-3
    assert relative(outputs_of(model, [x]), outputs_of(small, [x])) < 1e-5
    old, new = model.get_layer("reader"), small.get_layer("reader")
    assert (len(new.weights) > len(old.weights)) == (place == "a new bias")
    if place == "the moving mean":
        moved = small.get_layer("norm").moving_mean.numpy() - model.get_layer("norm").moving_mean.numpy()
        np.testing.assert_allclose(moved, -0.7 * old.kernel.numpy()[:, :, 1].sum((0, 1)), rtol=1e-5)


@pytest.mark.filterwarnings(FEW)
def test_what_a_removed_unit_adds_behind_a_transposed_convolution(generator):
    """With kernel = stride every place gets one tap of four: the mean is a quarter of their sum."""
    model, mask = constant_unit(lambda h: layers.Conv2DTranspose(3, 2, strides=2, name="reader")(h))
    small = remove(model, mask, repair="mean", data=generator.normal(size=(40, 6, 6, 2)).astype("float32"))
    old, new = model.get_layer("reader"), small.get_layer("reader")
    expected = 0.7 * old.kernel.numpy()[..., 1].mean((0, 1))
    np.testing.assert_allclose(new.bias.numpy() - old.bias.numpy(), expected, rtol=1e-5)


@pytest.mark.filterwarnings(FEW)
@pytest.mark.parametrize("repair", ["mean", "affine"])
def test_gru_that_resets_before_is_refused(repair, generator):
    x = keras.Input((5, 3))
    model = model_of(x, layers.GRU(5, reset_after=False, name="gru")(x))
    data = generator.normal(size=(40, 5, 3)).astype("float32")
    mask = mask_without(model, {"gru": [1]})
    with pytest.raises(ValueError, match=r"cannot be used on 'gru': .*reads r \* h and not h"):
        remove(model, mask, repair=repair, data=data)
    zero, fitted = (remove(model, mask, repair=repair, data=data) for repair in ("zero", "least_squares"))
    expected = outputs_of(model, [data])
    errors = [np.square(outputs_of(small, [data]) - expected).mean() for small in (zero, fitted)]
    assert errors[1] < errors[0]


def test_kernels_of_unknown_form_are_named(generator):
    x = keras.Input((5, 5, 3))
    h = layers.TimeDistributed(layers.Conv1D(4, 2, activation="relu"), name="first")(x)
    model = model_of(x, layers.TimeDistributed(layers.Conv1D(4, 2), name="second")(h))
    mask = mask_without(model, {"first": [1]})
    with pytest.warns(UserWarning, match="the kernels of 'second' have a form that no repair knows"):
        remove(model, mask, repair="mean", data=generator.normal(size=(300, 5, 5, 3)))


# Least squares on trained nets ----------------------------------------------------------------------------------------


def digits():
    x, y = load_digits(return_X_y=True)
    return (x / 16.0).astype("float32"), y


@pytest.fixture(scope="module")
def trained_dense():
    keras.utils.set_random_seed(3)
    x, y = digits()
    model = keras.Sequential(
        [
            keras.Input((64,)),
            layers.Dense(48, activation="relu", name="first"),
            layers.Dense(32, activation="relu", name="second"),
            layers.Dense(24, activation="relu", name="third"),
            layers.Dense(10, name="out"),
        ]
    )
    return trained(model, x, y)


def trained(model, x, y, epochs=12):
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile(keras.optimizers.Adam(3e-3), loss, metrics=["accuracy"])
    model.fit(x, y, batch_size=64, epochs=epochs, verbose=0)
    return model, x, y


@pytest.fixture(scope="module")
def trained_residual():
    keras.utils.set_random_seed(4)
    x, y = digits()
    image = keras.Input((64,))
    h = layers.Reshape((8, 8, 1))(image)
    h = layers.Conv2D(12, 3, padding="same", activation="relu", name="stem")(h)
    for number in (1, 2):
        branch = layers.Conv2D(12, 3, padding="same", use_bias=False, name=f"inside_{number}")(h)
        branch = layers.ReLU()(layers.BatchNormalization(momentum=0.9)(branch))
        branch = layers.Conv2D(12, 3, padding="same", use_bias=False, name=f"back_{number}")(branch)
        h = layers.ReLU()(layers.Add()([h, layers.BatchNormalization(momentum=0.9, name=f"norm_{number}")(branch)]))
        h = layers.MaxPooling2D(2)(h) if number == 1 else h
    h = layers.GlobalAveragePooling2D()(h)
    return trained(keras.Model(image, layers.Dense(10, name="out")(h)), x, y, epochs=8)


def half(model, seed=0):
    generator = np.random.default_rng(seed)
    sizes = tfprune.unit_groups(model).sizes
    return LayerValues({name: generator.permutation(size) < size // 2 for name, size in sizes.items()})


def accuracy(model, x, y):
    return float(np.mean(np.argmax(np.asarray(model(x, training=False)), 1) == y))


def error(model, small, x):
    expected = outputs_of(model, [x])
    return float(np.square(outputs_of(small, [x]) - expected).mean() / expected.var(0).mean())


def test_least_squares_beats_mean_and_zero(trained_dense):
    model, x, y = trained_dense
    mask = half(model)
    found = {repair: accuracy(remove(model, mask, repair=repair, data=x[:1000]), x, y) for repair in
             ("zero", "mean", "affine", "least_squares")}  # fmt: skip
    assert accuracy(model, x, y) > 0.96
    assert found["least_squares"] > max(found["zero"], found["mean"]) + 0.2
    assert found["least_squares"] > 0.85
    assert found["affine"] > max(found["zero"], found["mean"]) + 0.1


def test_sequential_beats_the_other_way(trained_dense):
    model, x, _ = trained_dense
    errors = [
        error(model, remove(model, half(model), repair="least_squares", data=x[:1000], sequential=sequential), x)
        for sequential in (True, False)
    ]
    assert errors[0] < 0.9 * errors[1]


def test_residual_compensation_is_used_and_helps(trained_residual, monkeypatch):
    model, x, y = trained_residual
    assert accuracy(model, x, y) > 0.9
    found = []
    addition = Followers.addition

    def watched(self, site, done):
        result = addition(self, site, done)
        found.extend([site.name] if result is not None else [])
        return result

    monkeypatch.setattr(Followers, "addition", watched)
    small = remove(model, half(model), repair="least_squares", data=x[:800])
    assert found == ["back_1", "back_2"]
    monkeypatch.setattr(Followers, "addition", lambda self, site, done: None)
    without = remove(model, half(model), repair="least_squares", data=x[:800])
    assert error(model, small, x) < error(model, without, x)
    assert accuracy(small, x, y) > accuracy(remove(model, half(model)), x, y) + 0.2


def test_no_compensation_through_an_activation(generator):
    """What an activation bends cannot make up for an error behind it."""
    x = keras.Input((6,))
    h = layers.Dense(8, activation="tanh", name="stem")(x)
    model = model_of(x, layers.Add()([h, layers.Dense(8, activation="tanh", name="branch")(h)]))
    cut = repairing.Cut(tfprune.unit_groups(model), np.arange(8) < 4)
    followers, sites = Followers(cut), repairing.find_sites(cut)
    followers.watch(sites)
    assert [followers.addition(site, set(sites)) for site in sites] == [None, None, None]


def test_kernels_with_many_columns_are_guessed(trained_dense, monkeypatch):
    model, x, _ = trained_dense
    mask = LayerValues({"third": np.arange(24) < 12})
    affine = remove(model, mask, repair="affine", data=x[:1000]).get_weights()
    monkeypatch.setattr(repairing, "MOST_COLUMNS", 0)
    guessed = remove(model, mask, repair="least_squares", data=x[:1000]).get_weights()
    for one, other in zip(affine, guessed, strict=True):
        np.testing.assert_allclose(one, other, atol=1e-6)


def test_shared_layers_pool_the_rows_of_their_calls(generator, monkeypatch):
    monkeypatch.setattr(moments, "RIDGES", (1e-12,))
    x, y = keras.Input((4,)), keras.Input((4,))
    first, reader = layers.Dense(6, activation="relu", name="first"), layers.Dense(3, name="reader")
    model = randomise(keras.Model([x, y], layers.Concatenate()([reader(first(x)), reader(first(y))])))
    data = [generator.normal(size=(300, 4)).astype("float32") * scale for scale in (1.0, 3.0)]
    small = remove(model, mask_without(model, {"first": [0, 3]}), repair="least_squares", data=data)
    hidden = np.concatenate([np.asarray(first(part), "float64") for part in data])
    left = np.hstack([hidden[:, [1, 2, 4, 5]], np.ones((600, 1))])
    expected, *_ = np.linalg.lstsq(left, hidden @ reader.kernel.numpy() + reader.bias.numpy(), rcond=None)
    np.testing.assert_allclose(small.get_layer("reader").kernel.numpy(), expected[:4], atol=1e-4)
    np.testing.assert_allclose(small.get_layer("reader").bias.numpy(), expected[4], atol=1e-4)


def test_two_axes_of_units(generator):
    """Dense layers over positions of a tensor whose channels are cut as well."""
    x = keras.Input((4, 3))
    h = layers.Permute((2, 1))(layers.Dense(6, "sigmoid", name="channels")(x))
    h = layers.Dense(7, "sigmoid", name="positions")(h)
    h = layers.Dense(5, name="back")(h)
    model = model_of(x, layers.GlobalAveragePooling1D()(layers.Permute((2, 1))(h)))
    data = generator.normal(size=(300, 4, 3)).astype("float32")
    mask = half(model)
    errors = {
        name: error(model, remove(model, mask, repair=name, data=data), data) for name in ("zero", "least_squares")
    }
    assert errors["least_squares"] < 0.5 * min(errors["zero"], 1.0)


# A repair of one's own, and bad input ---------------------------------------------------------------------------------


def test_a_function_of_ones_own(dense_net, generator):
    seen = []

    def doubled(channels):
        seen.append((channels.reader, channels.groups, channels.places.tolist(), channels.kept.tolist()))
        return 2.0 * channels.selection, np.where(channels.kept, 0.0, 1.0)

    mask = LayerValues({"first": np.array([True, False, True, True, True])})
    x = generator.normal(size=(300, 3))
    small = remove(dense_net, mask, repair=doubled, data=x)
    assert seen == [("second", ("first",) * 5, [0, 1, 2, 3, 4], [True, False, True, True, True])]
    old, new = dense_net.get_layer("second"), small.get_layer("second")
    np.testing.assert_allclose(new.kernel.numpy(), 2.0 * old.kernel.numpy()[[0, 2, 3, 4]], rtol=1e-6)
    np.testing.assert_allclose(new.bias.numpy(), old.bias.numpy() + old.kernel.numpy()[1], rtol=1e-6)


@pytest.mark.parametrize(
    ("guess", "message"),
    [
        (lambda channels: channels.selection, "expected a pair"),
        (lambda channels: None, "expected a pair"),
        (lambda channels: (np.eye(5), np.zeros(5)), r"expected A of shape \(3, 5\) and c of shape \(5,\)"),
        (lambda channels: (channels.selection, np.full(5, np.nan)), "A or c for 'second' is not finite"),
    ],
)
def test_a_function_that_returns_something_else(guess, message, dense_net, generator):
    mask = LayerValues({"first": np.arange(5) < 3})
    with pytest.raises(ValueError, match=message):
        remove(dense_net, mask, repair=guess, data=generator.normal(size=(300, 3)))


def test_unknown_repairs(dense_net):
    mask = LayerValues({"first": np.arange(5) < 3})
    with pytest.raises(ValueError, match="Known names: zero, mean, affine, least_squares"):
        remove(dense_net, mask, repair="magic")
    with pytest.raises(ValueError, match="did you mean 'least_squares'"):
        remove(dense_net, mask, repair="leastsquares")
    with pytest.raises(TypeError, match="expected one of 'zero'.* a Repair or a function, received 3"):
        remove(dense_net, mask, repair=3)


@pytest.mark.parametrize("repair", ["mean", "affine", "least_squares"])
def test_repairs_want_data(repair, dense_net, generator):
    mask = LayerValues({"first": np.arange(5) < 3})
    with pytest.raises(ValueError, match=f"repair '{repair}' learns from data. Pass inputs"):
        remove(dense_net, mask, repair=repair)
    with pytest.warns(UserWarning, match="has 299 samples; below 300"):
        remove(dense_net, mask, repair=repair, data=generator.normal(size=(299, 3)))
    bad = generator.normal(size=(300, 3))
    bad[17, 1] = np.nan
    with pytest.raises(ValueError, match="NaN"):
        remove(dense_net, mask, repair=repair, data=bad)
    with pytest.raises(ValueError, match="expects the shape"):
        remove(dense_net, mask, repair=repair, data=np.zeros((300, 4)))


@pytest.mark.filterwarnings(FEW)
@pytest.mark.parametrize("repair", ["mean", "affine", "least_squares"])
def test_constant_data_and_few_samples(repair, dense_net):
    mask = LayerValues({"first": np.arange(5) < 3})
    for count in (1, 2, 3, 320):
        small = remove(dense_net, mask, repair=repair, data=np.ones((count, 3), "float32"))
        x = np.ones((1, 3), "float32")
        np.testing.assert_allclose(outputs_of(small, [x]), outputs_of(dense_net, [x]), atol=1e-4)


@pytest.mark.parametrize("repair", ["mean", "affine", "least_squares"])
@pytest.mark.parametrize("kind", ["dense", "conv", "lstm"])
def test_the_size_of_batches_does_not_matter(kind, repair, generator, monkeypatch):
    x = keras.Input((5, 5, 2) if kind == "conv" else (4, 3))
    if kind == "conv":
        h = layers.Conv2D(5, 2, padding="same", activation="softplus", name="second")(
            layers.Conv2D(6, 2, activation="softplus", name="first")(x)
        )
    else:
        h = layers.LSTM(6, name="first")(x) if kind == "lstm" else layers.Dense(6, "sigmoid", name="first")(x)
    model = model_of(x, h)
    data = generator.normal(size=(310, *x.shape[1:])).astype("float32")
    mask = half(model)
    expected = outputs_of(remove(model, mask, repair=repair, data=data), [data])
    for size in (7, 32) if kind == "dense" else (101,):
        monkeypatch.setattr(repairing, "batch_size_for", lambda site, size=size: size)
        found = outputs_of(remove(model, mask, repair=repair, data=data), [data])
        assert relative(expected, found) < 1e-5


def test_shuffled_data_stay_side_by_side(generator):
    """A dataset that comes in another order each time must not be fitted to the outputs of other samples."""
    model, _ = dense_twins()
    x = generator.normal(size=(320, 5)).astype("float32")
    mask = half(model)
    shuffled = tf.data.Dataset.from_tensor_slices(x).shuffle(320, seed=1).batch(32)
    errors = [error(model, remove(model, mask, repair="least_squares", data=data), x) for data in (x, shuffled)]
    assert errors[1] < 1.2 * errors[0]


def test_doubles_and_halves(generator):
    for policy, tolerance in (("float64", 1e-3), ("mixed_float16", 2e-2)):
        x = keras.Input((5,))
        h = layers.Dense(6, activation="relu", dtype=policy, name="first")(x)
        model = randomise(keras.Model(x, layers.Dense(2, dtype=policy, name="out")(h)))
        tie(model.get_layer("first"), 1, 0)
        data = generator.normal(size=(300, 5)).astype("float32")
        small = remove(model, mask_without(model, {"first": [1]}), repair="least_squares", data=data)
        assert relative(outputs_of(model, [data]), outputs_of(small, [data])) < tolerance


@pytest.mark.parametrize(
    ("pair", "message"),
    [
        (Merged("frist", 1, 3), "did you mean 'first'"),
        (Merged("first", 99, 3), "removed=99 is no unit of 'first'"),
        (Merged("first", 2, 3), "removed=2 of 'first' is on in the mask, but should be off"),
    ],
)
def test_a_merge_that_does_not_fit_is_refused(pair, message):
    model = keras.Sequential([keras.Input((3,)), layers.Dense(4, name="first"), layers.Dense(1)])
    with pytest.raises(ValueError, match=message):
        tfprune.remove(model, {"first": [True, False, True, True]}, repair=merge([pair]))
    with pytest.raises(TypeError, match="merge: expected Merged"):
        merge([(1, 2)])
