"""Scores of weights: against slow replicas, laws, and the table of functions by nets; and setting weights to zero."""

import doctest

import keras
import numpy as np
import pytest
import replicas_weights as replicas
import tensorflow as tf
from conftest import SEED, randomise
from nets import NETS, inputs_for
from test_saliency import data_for, dense_net

import tfprune as tfp
from tfprune.graph import weights as weight_names
from tfprune.graph.weights import kernel_weights
from tfprune.saliency import weights
from tfprune.surgery import zeroing

WITHOUT_DATA = [weights.magnitude, weights.random]
ON_LOSS = [weights.taylor1, weights.taylor2, weights.hessian, weights.loss_change]
SCORES = [*WITHOUT_DATA, *ON_LOSS]
CONTRACT = [
    *["dense_chain", "conv_2d", "separable_conv", "transformer_block", "batch_norm", "several_outputs"],
    *["nested_equal_names", "tied_variables", "mixed_precision"],
]


def named(score):
    return score.__name__


def shapes_of(model):
    return {name: tuple(kernel.variable.shape) for name, kernel in kernel_weights(model).items()}


# Names ----------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("conv_2d", ["valid", "same", "strided", "dilated", "out"]),
        ("repeat_vector", ["first", "lstm/kernel", "lstm/recurrent_kernel", "out"]),
        ("tied_variables", ["first", "last", "out"]),
        ("nested_equal_names", ["left/a", "left/b", "right/a", "right/b", "out"]),
        ("nested_in_nested", ["middle/inner/a", "middle/inner/b", "middle/c", "out"]),
        ("nested_twice", ["inner/a", "inner/b", "out"]),
    ],
)
def test_names_of_kernels(name, expected):
    assert list(kernel_weights(NETS[name]())) == expected


def test_names_of_kernels_inside_layers():
    names = list(kernel_weights(NETS["attention_self"]()))
    assert {"heads/query", "heads/key", "heads/value", "heads/attention_output"} <= set(names)
    names = list(kernel_weights(NETS["bidirectional_concat"]()))
    assert names[:4] == [
        f"first/{direction}/{kernel}"
        for direction in ("forward", "backward")
        for kernel in ("kernel", "recurrent_kernel")
    ]
    names = list(kernel_weights(NETS["separable_conv"]()))
    assert any(name.endswith("/depthwise_kernel") for name in names)


@pytest.mark.parametrize("name", NETS)
def test_kernels_are_all_float_weights_of_rank_two_but_biases_and_norms(name):
    """Each once, whatever shares it."""
    model = NETS[name]()
    variables = [kernel.variable for kernel in kernel_weights(model).values()]
    assert len({id(variable) for variable in variables}) == len(variables)
    left_out = ("bias", "gamma", "beta", "alpha", "scale", "moving_mean", "moving_variance", "mean", "variance")
    expected = [v for v in model.weights if len(v.shape) > 1 and not v.name.endswith(left_out)]
    assert {id(variable) for variable in variables} == {id(variable) for variable in expected}


def test_a_frozen_layer_keeps_its_names():
    model = NETS["lstm_stacked"]()
    before = list(kernel_weights(model))
    model.get_layer("first").trainable = False
    assert list(kernel_weights(model)) == before


def test_layers_choose_kernels_layers_nested_models_and_other_names_of_tied_kernels():
    lstm, nested, tied = (NETS[name]() for name in ("lstm_stacked", "nested_in_nested", "tied_variables"))
    assert weights.magnitude(lstm, layers="first").names == ("first/kernel", "first/recurrent_kernel")
    assert weights.magnitude(lstm, layers=["out", "first/kernel"]).names == ("first/kernel", "out")
    assert weights.magnitude(nested, layers="middle/inner").names == ("middle/inner/a", "middle/inner/b")
    assert weights.magnitude(tied, layers="second").names == ("first",)


@pytest.mark.parametrize("module", [weights, weight_names, zeroing], ids=lambda module: module.__name__)
def test_examples(module):
    names = {"keras": keras, "np": np, "tfprune": tfp}
    results = doctest.testmod(module, extraglobs=names)
    assert results.failed == 0 and results.attempted > 1


# Contracts ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", CONTRACT)
def test_contract(name):
    """One finite number for every weight of every kernel; nothing in the model changes."""
    model = NETS[name]()
    before = model.get_weights()
    data = data_for(model, 6)
    shapes = shapes_of(model)
    some = list(shapes)[-2:]
    for score in SCORES:
        options = {"layers": some} if score is weights.loss_change else {}
        scores = score(model, data, loss="mse", **options)
        assert scores.shapes == {key: shape for key, shape in shapes.items() if not options or key in some}
        assert np.isfinite(scores.flat).all() and scores.flat.any()
        if score is not weights.random:
            absolute = score(model, data, loss="mse", absolute=True, **options)
            np.testing.assert_allclose(absolute.flat, np.abs(scores.flat), rtol=1e-5, atol=1e-12)
    assert all(np.array_equal(one, other) for one, other in zip(before, model.get_weights(), strict=True))


def test_magnitude_and_random():
    model = dense_net((6, 6))
    for name, scores in weights.magnitude(model).items():
        np.testing.assert_array_equal(scores, np.abs(model.get_layer(name).kernel.numpy()))
    one = weights.random(model, seed=5)
    assert one == weights.random(model, seed=5) and one != weights.random(model, seed=6)
    assert weights.random(model) != weights.random(model)
    assert not np.array_equal(one["h0"][:4], one["h1"][:4])
    assert np.array_equal(weights.random(model, seed=5, layers="h1")["h1"], one["h1"])


# Replicas -------------------------------------------------------------------------------------------------------------


@pytest.fixture
def classifier():
    """3 -> 4 tanh -> 3 logits with sparse targets and sample weights; all derivatives from loops in float64."""
    x = keras.Input((3,), name="x")
    h = keras.layers.Dense(4, activation="tanh", name="hidden")(x)
    model = randomise(keras.Model(x, keras.layers.Dense(3, name="out")(h)))
    model.compile("sgd", keras.losses.SparseCategoricalCrossentropy(from_logits=True))
    generator = np.random.default_rng(SEED)
    data = (
        generator.normal(size=(5, 3)).astype("float32"),
        generator.integers(0, 3, 5),
        generator.uniform(0.5, 2, 5).astype("float32"),
    )
    arrays = [model.get_layer(name).kernel.numpy().astype("float64") for name in ("hidden", "out")]
    biases = [model.get_layer(name).bias.numpy().astype("float64") for name in ("hidden", "out")]

    def loss(kernels):
        return replicas.two_layers(kernels, biases, *data)

    return model, data, loss, arrays


def test_scores_against_loops(classifier):
    model, data, loss, arrays = classifier
    flat = np.concatenate([array.ravel() for array in arrays])
    slope, second = replicas.gradient(loss, arrays), replicas.hessian(loss, arrays)
    for score in (weights.taylor1, weights.taylor2, weights.hessian):
        for step in ({"step": "prune"}, {"step": "sensitivity", "eps": 0.05}):
            for curvature in ({"curvature": "row_sum"}, {"curvature": "diagonal"}):
                options = step | (curvature if score is not weights.taylor1 else {})
                expected = replicas.scores(score.__name__, flat, slope, second, **options)
                np.testing.assert_allclose(score(model, data, **options).flat, expected, rtol=1e-4, atol=2e-6)
    change = weights.loss_change(model, data)
    np.testing.assert_allclose(change.flat, replicas.loss_changes(loss, arrays), rtol=1e-4, atol=1e-6)


def _pooled():
    x = keras.Input((6, 6, 1), name="x")
    h = keras.layers.Conv2D(2, 3, activation="relu", name="first")(x)
    h = keras.layers.BatchNormalization(name="norm")(keras.layers.MaxPooling2D(2, name="pool")(h))
    h = keras.layers.Conv2D(2, 2, activation="tanh", name="second")(h)
    return keras.Model(x, keras.layers.Dense(2, name="out")(keras.layers.Flatten(name="flatten")(h)))


def _recurrent(layer, **options):
    x = keras.Input((3, 2), name="x")
    return keras.Model(x, keras.layers.Dense(2, name="out")(layer(2, name="recurrent", **options)(x)))


def _attention():
    x = keras.Input((3,), dtype="int32", name="x")
    h = keras.layers.Embedding(5, 4, name="table")(x)
    h = keras.layers.MultiHeadAttention(2, 2, name="heads")(h, h)
    h = keras.layers.LayerNormalization(name="norm")(h)
    return keras.Model(x, keras.layers.Dense(2, name="out")(keras.layers.GlobalAveragePooling1D(name="mean")(h)))


@pytest.mark.slow
def test_the_diagonal_passes_the_loop_of_a_recurrent_layer():
    """The loop and the layer without one give the same."""
    looped = randomise(_recurrent(keras.layers.LSTM))
    unrolled = _recurrent(keras.layers.LSTM, unroll=True)
    unrolled.set_weights(looped.get_weights())
    options = {"loss": "mse", "layers": "recurrent/recurrent_kernel", "curvature": "diagonal"}
    one, other = (weights.hessian(model, data_for(looped, 4), **options).flat for model in (looped, unrolled))
    np.testing.assert_allclose(one, other, rtol=1e-4, atol=1e-8)
    assert one.all()


def _group_norm():
    x = keras.Input((3, 2), name="x")
    h = keras.layers.Dense(4, activation="tanh", name="first")(x)
    h = keras.layers.GroupNormalization(2, name="norm")(h)
    return keras.Model(x, keras.layers.Dense(2, name="out")(keras.layers.Flatten(name="flatten")(h)))


def _nested():
    u = keras.Input((2,), name="u")
    inner = keras.Model(u, keras.layers.Dense(3, activation="sigmoid", name="out")(u), name="inner")
    x, y = keras.Input((2,), name="x"), keras.Input((2,), name="y")
    joined = keras.layers.Multiply(name="joined")([inner(x), inner(y)])
    return keras.Model([x, y], keras.layers.Dense(2, name="out")(joined))


@pytest.mark.parametrize(
    ("build", "layers"),
    [
        (_pooled, ["first", "out"]),
        (lambda: _recurrent(keras.layers.LSTM), ["recurrent"]),
        (lambda: _recurrent(keras.layers.GRU, unroll=True), ["recurrent"]),
        (_attention, ["table", "heads/query", "heads/value"]),
        (_nested, ["inner", "out"]),
        (_group_norm, ["first", "out"]),
    ],
    ids=["conv and pool and norm", "lstm", "gru", "embedding and attention", "nested and called twice", "group norm"],
)
def test_scores_against_differences(build, layers):
    model = randomise(build())
    arrays = [array % 5 if array.dtype.kind == "i" else array for array in inputs_for(model, 6)]
    x = arrays if len(arrays) > 1 else arrays[0]
    y = np.random.default_rng(SEED).normal(size=(6, 2)).astype("float32")
    other = replicas.in_float64(model)
    variables = [kernel_weights(other)[name].variable for name in weights.magnitude(model, layers=layers)]
    twin = replicas.Mse(other, variables, keras.tree.map_structure(keras.ops.convert_to_tensor, x), y)
    kernels = twin.arrays
    flat = np.concatenate([kernel.ravel() for kernel in kernels])
    slope, second = replicas.gradient(twin, kernels), replicas.hessian_of_gradients(twin.gradient, kernels)
    options = {"layers": layers, "loss": "mse"}
    for score in (weights.taylor1, weights.taylor2, weights.hessian):
        expected = replicas.scores(score.__name__, flat, slope, second)
        np.testing.assert_allclose(score(model, (x, y), **options).flat, expected, rtol=1e-4, atol=1e-5)
    if layers != ["recurrent"]:  # The loops of a recurrent layer take long to compile; they have their own test.
        expected = replicas.scores("hessian", flat, slope, second, curvature="diagonal")
        found = weights.hessian(model, (x, y), curvature="diagonal", **options)
        np.testing.assert_allclose(found.flat, expected, rtol=1e-4, atol=1e-5)
    expected = replicas.loss_changes(twin, kernels)
    np.testing.assert_allclose(weights.loss_change(model, (x, y), **options).flat, expected, rtol=1e-4, atol=1e-5)


# Laws -----------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("score", ON_LOSS, ids=named)
def test_batches_do_not_matter(score, generator):
    model = dense_net((5, 4))
    x, y = data_for(model, 22)
    order = generator.permutation(22)
    stream = tf.data.Dataset.from_tensor_slices((x[order], y[order])).batch(5)
    one, other = (score(model, data, loss="mse") for data in ((x, y), stream))
    np.testing.assert_allclose(other.flat, one.flat, rtol=1e-5, atol=1e-5 * np.abs(one.flat).max())


@pytest.mark.parametrize("curvature", ["diagonal", weights.Probes(4, seed=3)], ids=["diagonal", "probes"])
def test_batches_do_not_matter_to_the_diagonal(curvature):
    model = dense_net((3,))
    x, y = data_for(model, 13)
    stream = tf.data.Dataset.from_tensor_slices((x, y)).batch(4)
    one, other = (weights.hessian(model, data, loss="mse", curvature=curvature) for data in ((x, y), stream))
    np.testing.assert_allclose(other.flat, one.flat, rtol=1e-5, atol=1e-5 * np.abs(one.flat).max())


@pytest.mark.parametrize("score", ON_LOSS, ids=named)
def test_samples_that_weigh_nothing_only_thin_the_mean(score):
    model = dense_net((4,))
    x, y = data_for(model, 12)
    half = score(model, (x[:6], y[:6]), loss="mse").flat
    weighted = score(model, (x, y, np.repeat([1.0, 0.0], 6)), loss="mse").flat
    np.testing.assert_allclose(2 * weighted, half, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("score", ON_LOSS, ids=named)
def test_a_weight_that_is_zero_scores_zero(score):
    model = dense_net((4,))
    mask = tfp.keep_random(weights.magnitude(model), 0.5, seed=1)
    scores = score(tfp.zero_weights(model, mask), data_for(model, 8), loss="mse")
    assert (~mask.flat).any() and (scores.flat[~mask.flat] == 0).all()
    assert (scores.flat[mask.flat] != 0).mean() > 0.5


def test_second_order_is_exact_for_a_linear_net_and_taylor2_is_the_sum():
    """The loss is then quadratic in each kernel."""
    model = dense_net((), units_out=3)
    data = data_for(model, 9)
    second = weights.taylor2(model, data, loss="mse", curvature="diagonal")
    np.testing.assert_allclose(second.flat, weights.loss_change(model, data, loss="mse").flat, rtol=1e-4, atol=1e-6)
    total = weights.taylor1(model, data, loss="mse").flat + weights.hessian(model, data, loss="mse").flat
    np.testing.assert_allclose(weights.taylor2(model, data, loss="mse").flat, total, rtol=1e-4, atol=1e-6)


def test_the_sensitivity_of_first_order_is_proportional_to_the_step():
    model = dense_net()
    data = data_for(model, 9)
    one, other = (weights.taylor1(model, data, loss="mse", step="sensitivity", eps=eps) for eps in (0.1, 0.2))
    np.testing.assert_allclose(2 * one.flat, other.flat, rtol=1e-5)


def test_probes_come_near_the_diagonal_and_repeat_with_their_seed():
    model = dense_net((3,))
    data = data_for(model, 9)
    exact = weights.hessian(model, data, loss="mse", curvature="diagonal").flat
    few, many = (
        weights.hessian(model, data, loss="mse", curvature=weights.Probes(count, seed=1)).flat for count in (20, 2000)
    )
    errors = [np.linalg.norm(found - exact) / np.linalg.norm(exact) for found in (few, many)]
    assert errors[1] < 0.15 and errors[1] < errors[0] / 3
    again = weights.hessian(model, data, loss="mse", curvature=weights.Probes(20, seed=1)).flat
    assert np.array_equal(few, again)
    other = weights.hessian(model, data, loss="mse", curvature=weights.Probes(20, seed=2)).flat
    assert not np.array_equal(few, other)


def test_probes_are_exact_where_the_hessian_is_diagonal():
    x = np.eye(4, dtype="float32")
    model = dense_net((), units_out=1)
    options = {"loss": "mse", "curvature": weights.Probes(1)}
    data = (x, np.zeros((4, 1), "float32"))
    found, exact = (weights.taylor2(model, data, **option) for option in (options, options | {"curvature": "diagonal"}))
    np.testing.assert_allclose(found.flat, exact.flat, rtol=1e-5)


def test_a_second_call_sees_new_weights_and_another_loss():
    """Compiled functions are kept, values are not."""
    model = dense_net()
    data = data_for(model, 9)
    first = weights.taylor2(model, data, loss="mse")
    other = weights.taylor2(model, data, loss="mae")
    randomise(model, 99)
    moved = weights.taylor2(model, data, loss="mse")
    randomise(model)
    assert weights.taylor2(model, data, loss="mse") == first
    assert not np.allclose(first.flat, other.flat) and not np.allclose(first.flat, moved.flat)


def test_regularisation_is_no_part_of_the_loss_and_dropout_is_off():
    def build(**options):
        x = keras.Input((4,), name="x")
        h = keras.layers.Dense(5, "tanh", name="h", **options)(x)
        h = keras.layers.Dropout(0.9)(h) if options else h
        return randomise(keras.Model(x, keras.layers.Dense(2, name="out")(h)))

    plain, other = build(), build(kernel_regularizer=keras.regularizers.L2(3.0))
    data = data_for(plain, 9)
    for score in ON_LOSS:
        np.testing.assert_allclose(
            score(other, data, loss="mse").flat, score(plain, data, loss="mse").flat, rtol=1e-5, atol=1e-7
        )


# Borders --------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("score", ON_LOSS, ids=named)
def test_scores_refuse_missing_data_targets_loss_and_names(score):
    model = dense_net()
    x, y = data_for(model, 4)
    with pytest.raises(TypeError, match=f"saliency.weights.{score.__name__} needs data with targets"):
        score(model, loss="mse")
    with pytest.raises(ValueError, match="targets are needed here"):
        score(model, x, loss="mse")
    with pytest.raises(ValueError, match="is not compiled with a loss"):
        score(model, (x, y))
    with pytest.raises(ValueError, match=r"Unknown: 'hidden0'. Known names: h0, h1, out"):
        score(model, (x, y), loss="mse", layers="hidden0")
    with pytest.raises(TypeError, match="expected a keras.Model"):
        score("net", (x, y), loss="mse")
    with pytest.raises(ValueError, match="NaN in input"):
        score(model, (np.full_like(x, np.nan), y), loss="mse")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"step": "half"}, "step: expected one of 'prune', 'sensitivity', received 'half'"),
        ({"eps": 0.0}, "eps: expected a positive number"),
        ({"eps": -1}, "eps: expected a positive number"),
        ({"eps": True}, "eps: expected a positive number"),
        ({"eps": float("nan")}, "eps: expected a positive number"),
    ],
)
@pytest.mark.parametrize("score", [weights.taylor1, weights.taylor2, weights.hessian], ids=named)
def test_scores_refuse_steps(score, options, message):
    with pytest.raises(ValueError, match=message):
        score(dense_net(), None, **options)


def test_second_order_refuses_curvatures_and_probes():
    with pytest.raises(ValueError, match=r"curvature: expected one of 'row_sum', 'diagonal', or Probes\(count\)"):
        weights.hessian(dense_net(), None, curvature="trace")
    with pytest.raises(ValueError, match="`count` expects a whole number of at least 1, received 0"):
        weights.Probes(0)
    with pytest.raises(ValueError, match="`seed` expects a whole number of at least 0, received -1"):
        weights.Probes(3, seed=-1)
    with pytest.raises(ValueError, match="random: `seed` expects"):
        weights.random(dense_net(), seed=-1)


def test_scores_refuse_a_model_without_kernels():
    with pytest.raises(ValueError, match="has no kernels"):
        weights.magnitude(keras.Sequential([keras.Input((3,)), keras.layers.ReLU()]))


@pytest.mark.parametrize("score", ON_LOSS, ids=named)
@pytest.mark.filterwarnings("ignore:invalid value:RuntimeWarning")
def test_scores_refuse_derivatives_that_are_no_numbers(score):
    model = dense_net()
    # A number, but the squares of what it makes are none.
    kernel = model.layers[-1].kernel
    kernel.assign(np.full(kernel.shape, 1e38))
    with pytest.raises(ValueError, match="is NaN or infinite on these data"):
        score(model, data_for(model, 4), loss="mse")


def test_classes_out_of_range_are_told_before_any_work(classifier):
    model, (x, y, _), _, _ = classifier
    for score in ON_LOSS:
        with pytest.raises(ValueError, match=r"from 0 to 2; received 3 at index \(2,\) \(1 of 5 targets\)"):
            score(model, (x, np.where(np.arange(5) == 2, 3, y)))
    late = tf.data.Dataset.from_tensor_slices((x, np.where(np.arange(5) == 4, -1, y))).batch(3)
    with pytest.raises(ValueError, match=r"received -1 at index \(1,\)"):
        weights.taylor1(model, late)


def test_second_order_refuses_what_has_no_second_gradient():
    """Bilinear resizing says that it has no gradient of its gradient, and would leave a part out."""
    x = keras.Input((3, 3, 1), name="x")
    h = keras.layers.Conv2D(2, 2, activation="tanh", name="conv")(x)
    h = keras.layers.UpSampling2D(2, interpolation="bilinear", name="up")(h)
    model = randomise(keras.Model(x, keras.layers.Dense(1, name="out")(keras.layers.Flatten()(h))))
    data = data_for(model, 4)
    for options in ({}, {"curvature": "diagonal"}, {"curvature": weights.Probes(2)}):
        with pytest.raises(ValueError, match=r"no gradient for one of its operations.*ResizeBilinearGrad"):
            weights.hessian(model, data, loss="mse", **options)
    assert weights.taylor1(model, data, loss="mse").flat.all()
    behind = weights.hessian(model, data, loss="mse", layers="out")
    assert behind.flat.all()


def test_second_order_refuses_moments_of_tensorflow_and_activations_without_one():
    """Those of Keras's norms are made whole."""

    def build(function):
        x = keras.Input((3,), name="x")
        h = keras.layers.Dense(3, activation="tanh", name="h")(x)
        return randomise(keras.Model(x, keras.layers.Dense(1, name="out")(keras.layers.Lambda(function)(h))))

    for function, lost in (
        (lambda h: h * tf.nn.moments(h, [1], keepdims=True)[1], "moments"),
        (tf.nn.softsign, "Soft"),
    ):
        model = build(function)
        with pytest.raises(ValueError, match=f"no gradient for one of its operations.*{lost}"):
            weights.taylor2(model, data_for(model, 4), loss="mse")
    moments = keras.src.backend.nn.moments
    assert moments.__module__.startswith("keras")


# Setting weights to zero ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "name", ["conv_2d", "lstm_stacked", "transformer_block", "nested_equal_names", "tied_variables", "lambda_wall"]
)
def test_zero_weights(name):
    model = NETS[name]()
    before = model.get_weights()
    mask = tfp.keep_top(weights.magnitude(model), 0.5)
    pruned = tfp.zero_weights(model, mask)
    new = kernel_weights(pruned)
    assert tuple(new) == mask.names
    for key, kernel in kernel_weights(model).items():
        expected = np.where(mask[key], kernel.variable.numpy(), 0)
        np.testing.assert_array_equal(new[key].variable.numpy(), expected)
        assert (~mask[key]).sum() == mask[key].size // 2
    kept = {id(kernel.variable) for kernel in kernel_weights(model).values()}
    for old, own in zip(model.weights, pruned.weights, strict=True):
        assert id(old) in kept or np.array_equal(old.numpy(), own.numpy())
    assert all(np.array_equal(one, other) for one, other in zip(before, model.get_weights(), strict=True))


def test_zero_weights_compiles_like_the_original(dense_net):
    mask = tfp.keep_top(weights.magnitude(dense_net, layers="second"), 0.4, scope="global")
    assert mask.names == ("second",) and (~mask.flat).sum() == 8
    pruned = tfp.zero_weights(dense_net, mask)
    assert type(pruned) is keras.Sequential and pruned.loss == "mse" and pruned.optimizer is not dense_net.optimizer
    np.testing.assert_array_equal(pruned.get_layer("first").kernel.numpy(), dense_net.get_layer("first").kernel.numpy())
    x = np.ones((2, 3), "float32")
    assert not np.allclose(pruned(x), dense_net(x))
    whole = tfp.zero_weights(dense_net, tfp.LayerValues({}))
    np.testing.assert_array_equal(whole(x), dense_net(x))


def test_zero_weights_takes_masks_of_bool_in_the_shape_of_kernels(dense_net):
    with pytest.raises(ValueError, match="weight mask has unknown kernels. Unknown: 'frist' .did you mean 'first'"):
        tfp.zero_weights(dense_net, {"frist": np.ones((3, 5), bool)})
    with pytest.raises(ValueError, match=r"of kernel 'first' expects the shape \(3, 5\), one value for each weight"):
        tfp.zero_weights(dense_net, {"first": np.ones(5, bool)})
    with pytest.raises(TypeError, match="of kernel 'first' expects the dtype bool"):
        tfp.zero_weights(dense_net, {"first": np.ones((3, 5))})
    with pytest.raises(TypeError, match="expected a keras.Model"):
        tfp.zero_weights("net", {})


def test_zeroing_weights_one_by_one_is_what_loss_change_says(dense_net):
    data = data_for(dense_net, 8)
    change = weights.loss_change(dense_net, data, layers="second")["second"]
    losses = []
    for place in ((0, 1), (4, 3)):
        on = np.ones((5, 4), bool)
        on[place] = False
        losses.append(tfp.zero_weights(dense_net, {"second": on}).evaluate(*data, verbose=0))
    whole = dense_net.evaluate(*data, verbose=0)
    np.testing.assert_allclose(np.array(losses) - whole, [change[0, 1], change[4, 3]], rtol=1e-3, atol=1e-6)
