"""Scores of units: against slow replicas, laws, and the table of functions by nets."""

import keras
import numpy as np
import pytest
import replicas_saliency as replicas
import tensorflow as tf
from conftest import SEED, randomise
from nets import NETS, inputs_for

import tfprune as tfp
from tfprune import saliency
from tfprune.objectives import sample_loss
from tfprune.statistics import exit_means

# Formulas are compared, whatever they are worth.
pytestmark = pytest.mark.filterwarnings("ignore:data. saliency.least_squares has .* samples; below 300")
CONTRACT = [
    *["dense_chain", "conv_2d", "grouped_conv_position", "separable_conv", "einsum_two_new_axes", "embedding_mask"],
    *["lstm_stacked", "bidirectional_concat", "transformer_block", "batch_norm", "group_norm", "reshape_tied"],
    *["concatenate", "dot", "several_outputs", "nested_twice", "ops_slices"],
]

WITHOUT_DATA = [saliency.weight_norm, saliency.random]
ON_INPUTS = [saliency.activation_std, saliency.zero_fraction, saliency.least_squares]
ON_LOSS = [
    saliency.on_nodes_gradient,
    saliency.mean_replacement,
    saliency.mean_replacement_penalty,
    saliency.loss_change,
]


def x_of(arrays):
    return arrays if len(arrays) > 1 else arrays[0]


def data_for(model, batch=12, seed=SEED):
    """Inputs and targets of the shape of the outputs."""
    generator = np.random.default_rng(seed)
    x = x_of(inputs_for(model, batch, seed))
    targets = keras.tree.map_structure(lambda out: generator.normal(size=out.shape).astype("float32"), model(x))
    return x, targets


def numpy_of(tensor):
    return keras.ops.convert_to_numpy(tensor).astype("float64")


def dense_net(widths=(5, 4), activation="tanh", units_out=3):
    x = keras.Input((4,), name="x")
    h = x
    for number, width in enumerate(widths):
        h = keras.layers.Dense(width, activation=activation, name=f"h{number}")(h)
    return randomise(keras.Model(x, keras.layers.Dense(units_out, name="out")(h)))


# Contracts ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("score", [*WITHOUT_DATA, *ON_INPUTS], ids=lambda score: score.__name__)
@pytest.mark.parametrize("name", CONTRACT)
def test_contract(name, score):
    """One finite score of at least zero for every unit of every group."""
    model = NETS[name]()
    weights = model.get_weights()
    scores = score(model, data_for(model)[0])
    assert {group: len(values) for group, values in scores.items()} == tfp.unit_groups(model).sizes
    assert np.isfinite(scores.flat).all() and (scores.flat >= 0).all() and scores.flat.any()
    assert all(np.array_equal(one, other) for one, other in zip(weights, model.get_weights(), strict=True))


@pytest.mark.parametrize("score", ON_LOSS, ids=lambda score: score.__name__)
@pytest.mark.parametrize("name", ["conv_2d", "lstm_stacked", "transformer_block", "several_outputs", "nested_twice"])
def test_contract_of_scores_that_look_at_the_loss(name, score):
    model = NETS[name]()
    scores = score(model, data_for(model), loss="mse")
    assert {group: len(values) for group, values in scores.items()} == tfp.unit_groups(model).sizes
    assert np.isfinite(scores.flat).all() and scores.flat.any()


@pytest.mark.parametrize("score", [*WITHOUT_DATA, *ON_INPUTS, *ON_LOSS], ids=lambda score: score.__name__)
def test_layers_choose_groups(score):
    model = dense_net()
    options = {"loss": "mse"} if score in ON_LOSS else {"seed": 3} if score is saliency.random else {}
    data = data_for(model, 30) if score in ON_LOSS else data_for(model, 30)[0]
    alone = score(model, data, layers="h1", **options)
    assert alone.names == ("h1",)
    np.testing.assert_allclose(alone["h1"], score(model, data, **options)["h1"], rtol=1e-5, atol=1e-7)


# Laws -----------------------------------------------------------------------------------------------------------------


def permuted(model, order):
    """The same network with the units of `h0` in another order."""
    other = keras.models.clone_model(model)
    weights = {layer.name: layer.get_weights() for layer in model.layers}
    weights["h0"] = [weights["h0"][0][:, order], weights["h0"][1][order]]
    weights["h1"] = [weights["h1"][0][order], weights["h1"][1]]
    for layer in other.layers:
        layer.set_weights(weights[layer.name])
    return other


@pytest.mark.parametrize("score", [saliency.weight_norm, *ON_INPUTS, *ON_LOSS], ids=lambda score: score.__name__)
def test_permuting_units_permutes_scores(score, generator):
    model = dense_net((6, 4))
    order = generator.permutation(6)
    options = {"loss": "mse"} if score in ON_LOSS else {}
    data = data_for(model, 40) if score in ON_LOSS else data_for(model, 40)[0]
    scores, others = (score(net, data, **options) for net in (model, permuted(model, order)))
    np.testing.assert_allclose(others["h0"], scores["h0"][order], rtol=1e-4, atol=1e-6)
    np.testing.assert_allclose(others["h1"], scores["h1"], rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("score", [saliency.least_squares, *ON_LOSS], ids=lambda score: score.__name__)
def test_a_unit_that_nothing_reads_scores_lowest(score):
    model = dense_net((6, 4))
    kernel, bias = model.get_layer("h1").get_weights()
    kernel[2] = 0.0
    model.get_layer("h1").set_weights([kernel, bias])
    options = {"loss": "mse"} if score in ON_LOSS else {}
    options |= {"absolute": True} if score is saliency.loss_change else {}
    data = data_for(model, 40) if score in ON_LOSS else data_for(model, 40)[0]
    scores = score(model, data, **options)["h0"]
    # The change of a loss of about one is told to the rounding of float32.
    assert np.argmin(scores) == 2 and scores[2] < 1e-7


@pytest.mark.parametrize("score", [*ON_INPUTS, *ON_LOSS], ids=lambda score: score.__name__)
def test_batches_do_not_matter(score, generator):
    model = NETS["conv_2d"]()
    x, y = data_for(model, 22)
    order = generator.permutation(22)
    options = {"loss": "mse"} if score in ON_LOSS else {}
    stream = tf.data.Dataset.from_tensor_slices((x[order], y[order])).batch(5)
    np.testing.assert_allclose(
        score(model, (x, y), **options).flat, score(model, stream, **options).flat, rtol=1e-4, atol=1e-5
    )


# Replicas -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("order", [1, 2])
def test_weight_norm(order):
    model = NETS["conv_2d"]()
    kernels = {layer.name: numpy_of(layer.kernel) for layer in model.layers if hasattr(layer, "kernel")}
    incoming = saliency.weight_norm(model, order=order)
    np.testing.assert_allclose(incoming["same"], replicas.norms([kernels["same"]], order), rtol=1e-6)
    outgoing = saliency.weight_norm(model, order=order, which="outgoing")
    swapped = np.swapaxes(kernels["strided"], 2, 3)
    np.testing.assert_allclose(outgoing["same"], replicas.norms([swapped], order), rtol=1e-6)
    # Behind the flatten every channel is read at four pixels.
    flat = kernels["out"].reshape(4, 3, 2).transpose(0, 2, 1)
    np.testing.assert_allclose(outgoing["dilated"], replicas.norms([flat], order), rtol=1e-6)
    both = saliency.weight_norm(model, order=order, which="both")
    np.testing.assert_allclose(both["same"], replicas.norms([kernels["same"], swapped], order), rtol=1e-6)


def test_weight_norm_squared():
    model = dense_net()
    squared, plain = saliency.weight_norm(model, order=2, squared=True), saliency.weight_norm(model, order=2)
    np.testing.assert_allclose(squared.flat, plain.flat**2, rtol=1e-9)


def test_weight_norm_of_recurrent_units_takes_all_gates_and_the_recurrent_kernel():
    model = NETS["lstm_stacked"]()
    cell = model.get_layer("first").cell
    kernels = [numpy_of(kernel).reshape(-1, 4, 6) for kernel in (cell.kernel, cell.recurrent_kernel)]
    np.testing.assert_allclose(saliency.weight_norm(model)["first"], replicas.norms(kernels, 1), rtol=1e-6)
    read = [numpy_of(cell.recurrent_kernel).T, numpy_of(model.get_layer("second").cell.kernel).T]
    outgoing = saliency.weight_norm(model, which="outgoing")
    np.testing.assert_allclose(outgoing["first"], replicas.norms(read, 1), rtol=1e-6)


def test_weight_norm_of_a_group_with_two_makers():
    model = NETS["merges"]()
    name = next(iter(tfp.unit_groups(model)))
    kernels = [numpy_of(model.get_layer(member.name).kernel) for member in tfp.unit_groups(model)[name].members]
    assert len(kernels) == 2
    np.testing.assert_allclose(saliency.weight_norm(model)[name], replicas.norms(kernels, 1), rtol=1e-6)


@pytest.mark.parametrize("name", ["attention_self", "attention_grouped"])
def test_weight_norm_of_heads_takes_what_makes_them(name):
    model = NETS[name]()
    layer = model.get_layer("heads")
    kernels = [getattr(layer, f"_{part}_dense").kernel for part in ("query", "key", "value")]
    size = len(saliency.weight_norm(model)["heads/heads"])
    # Grouped attention has several query heads for one unit.
    kernels = [numpy_of(kernel).reshape(kernel.shape[0], size, -1).transpose(0, 2, 1) for kernel in kernels]
    np.testing.assert_allclose(saliency.weight_norm(model)["heads/heads"], replicas.norms(kernels, 1), rtol=1e-6)


def test_activation_std_and_zero_fraction():
    model = NETS["conv_2d"]()
    x = data_for(model, 20)[0]
    values = numpy_of(keras.Model(model.inputs, model.get_layer("valid").output)([x]))
    expected = replicas.standard_deviation(values)
    np.testing.assert_allclose(saliency.activation_std(model, x)["valid"], expected, rtol=1e-5)
    norms = saliency.weight_norm(model, order=2, which="outgoing")["valid"]
    np.testing.assert_allclose(saliency.activation_std(model, x, outgoing=True)["valid"], expected * norms, rtol=1e-5)
    shares = (values > 0).mean((0, 1, 2))
    np.testing.assert_allclose(saliency.zero_fraction(model, x)["valid"], shares, rtol=1e-9)


def test_batch_norm_scale():
    model = NETS["batch_norm"]()
    scores = saliency.batch_norm_scale(model)
    gamma = {name: np.abs(numpy_of(model.get_layer(name).gamma)) for name in ("norm_1", "norm_2", "norm_3")}
    # The stream passes three norms, `more` the last three channels of the third.
    np.testing.assert_allclose(
        scores["first"], (gamma["norm_1"] + gamma["norm_2"] + gamma["norm_3"][:4]) / 3, rtol=1e-6
    )
    np.testing.assert_allclose(scores["more"], gamma["norm_3"][4:], rtol=1e-6)
    assert "last" not in scores


def test_random():
    model = dense_net((6, 6))
    one = saliency.random(model, seed=5)
    assert one == saliency.random(model, seed=5) and one != saliency.random(model, seed=6)
    assert saliency.random(model) != saliency.random(model)
    assert not np.array_equal(one["h0"], one["h1"])
    assert ((one.flat >= 0) & (one.flat < 1)).all()


def per_sample_gradients(model, x, y, step=1e-3, replacement=None):
    """Central differences of each sample's loss by each entry of `on_nodes`, `(samples, num_units)`."""
    masked = tfp.with_on_nodes(model, replacement=replacement)
    num_units = masked.inputs[-1].shape[1]
    loss = sample_loss(model, "mse")
    columns = []
    for unit in range(num_units):
        rows = np.ones((2, 1, num_units), "float32")
        rows[:, 0, unit] += [step, -step]
        up, down = (numpy_of(loss(y, masked(list(map(keras.ops.convert_to_tensor, (x, row)))))) for row in rows)
        columns.append((up - down) / (2 * step))
    return np.stack(columns, axis=1)


def test_on_nodes_gradient():
    model = dense_net()
    x, y = data_for(model, 15)
    gradients = per_sample_gradients(model, x, y)
    absolute = saliency.on_nodes_gradient(model, (x, y), loss="mse")
    np.testing.assert_allclose(absolute.flat, np.abs(gradients).mean(0), rtol=2e-2, atol=2e-3)
    signed = saliency.on_nodes_gradient(model, (x, y), loss="mse", signed=True)
    np.testing.assert_allclose(signed.flat, -gradients.mean(0), rtol=2e-2, atol=2e-3)


def test_mean_replacement_is_the_gradient_of_the_mean_replaced_model():
    model = dense_net()
    x, y = data_for(model, 15)
    means = exit_means(model, x)
    values = numpy_of(keras.Model(model.inputs, model.get_layer("h0").output)([x]))
    np.testing.assert_allclose(means["h0"], values.mean(0), rtol=1e-5)
    scores = saliency.mean_replacement(model, (x, y), loss="mse")
    gradients = per_sample_gradients(model, x, y, replacement=means)
    np.testing.assert_allclose(scores.flat, np.abs(gradients).mean(0), rtol=2e-2, atol=2e-3)


@pytest.mark.parametrize("name", ["conv_2d", "dense_rank_3"])
def test_mean_replacement_of_each_sample(name):
    """One sample at a time gives what all together give; and it is |(mean - x) dL/dx| at the exit."""
    model = NETS[name]()
    x, y = data_for(model, 3)
    means = exit_means(model, x)
    together = saliency.mean_replacement(model, (x, y), loss="mse")
    apart = [
        saliency.mean_replacement(model, (x[k : k + 1], y[k : k + 1]), loss="mse", means=means).flat for k in range(3)
    ]
    np.testing.assert_allclose(together.flat, np.mean(apart, axis=0), rtol=1e-4, atol=1e-7)
    # By hand, at the exit into the layer behind the first group.
    first = next(iter(tfp.unit_groups(model)))
    read = model.get_layer(first).output
    tail = keras.Model(read, model.output)
    h = tf.convert_to_tensor(keras.Model(model.input, read)(x))
    with tf.GradientTape() as tape:
        tape.watch(h)
        losses = sample_loss(model, "mse")(y, tail(h))
    product = numpy_of((means[first].astype("float32") - h) * tape.gradient(losses, h))
    by_hand = np.abs(product.reshape(3, -1, product.shape[-1]).sum(1)).mean(0)
    np.testing.assert_allclose(together[first], by_hand, rtol=1e-3, atol=1e-7)


def test_loss_change():
    model = dense_net()
    x, y = data_for(model, 15)
    masked, loss = tfp.with_on_nodes(model), sample_loss(model, "mse")
    num_units = masked.inputs[-1].shape[1]

    def mean_loss(off):
        row = np.ones((1, num_units), "float32")
        row[0, off] = 0.0
        return numpy_of(loss(y, masked(list(map(keras.ops.convert_to_tensor, (x, row)))))).mean()

    expected = np.array([mean_loss([unit]) - mean_loss([]) for unit in range(num_units)])
    np.testing.assert_allclose(saliency.loss_change(model, (x, y), loss="mse").flat, expected, rtol=1e-4, atol=1e-6)
    absolute = saliency.loss_change(model, (x, y), loss="mse", absolute=True)
    np.testing.assert_allclose(absolute.flat, np.abs(expected), rtol=1e-4, atol=1e-6)


# Least squares --------------------------------------------------------------------------------------------------------


def reader_of(model, x, before, reader):
    read = numpy_of(keras.Model(model.inputs, model.get_layer(before).output)([x]))
    kernel = numpy_of(model.get_layer(reader).kernel)
    return read.reshape(-1, read.shape[-1]), np.moveaxis(kernel, -2, 0).reshape(kernel.shape[-2], -1)


def check_elimination(scores, readers, rtol=1e-3):
    order, residuals = replicas.eliminate(readers)
    np.testing.assert_array_equal(np.argsort(scores), order)
    costs = np.diff([0.0, *residuals])
    np.testing.assert_allclose(np.sort(scores), np.maximum.accumulate(costs), rtol=rtol, atol=1e-9)


def test_least_squares_eliminates_by_refitting():
    model = dense_net((7, 4))
    x = data_for(model, 60)[0]
    scores = saliency.least_squares(model, x, ridge=1e-12)
    check_elimination(scores["h0"], [reader_of(model, x, "h0", "h1")])
    check_elimination(scores["h1"], [reader_of(model, x, "h1", "out")])


def test_least_squares_sums_over_taps_and_pixels():
    model = NETS["conv_2d"]()
    x = data_for(model, 40)[0]
    scores = saliency.least_squares(model, x, ridge=1e-12)
    check_elimination(scores["valid"], [reader_of(model, x, "valid", "same")])
    read, _ = reader_of(model, x, "dilated", "out")
    weights = numpy_of(model.get_layer("out").kernel).reshape(4, 3, 2).transpose(1, 0, 2).reshape(3, -1)
    check_elimination(scores["dilated"], [(read, weights)])


def test_least_squares_sums_over_readers():
    x = keras.Input((4,))
    h = keras.layers.Dense(6, "tanh", name="h")(x)
    outputs = [keras.layers.Dense(3, name="one")(h), keras.layers.Dense(2, name="two")(keras.layers.ReLU(name="r")(h))]
    model = randomise(keras.Model(x, outputs))
    data = inputs_for(model, 60)[0]
    readers = [reader_of(model, data, "h", "one"), reader_of(model, data, "r", "two")]
    check_elimination(saliency.least_squares(model, data, ridge=1e-12)["h"], readers)


def test_least_squares_weighs_outputs_by_the_batch_norm_behind():
    x = keras.Input((4,))
    h = keras.layers.Dense(6, "tanh", name="h")(x)
    h = keras.layers.Dense(3, name="reader")(h)
    norm = keras.layers.BatchNormalization(name="norm")
    model = randomise(keras.Model(x, keras.layers.Dense(2, name="out")(keras.layers.ReLU()(norm(h)))))
    norm.gamma.assign([10.0, 0.1, 1.0])
    data = inputs_for(model, 60)[0]
    read, weights = reader_of(model, data, "h", "reader")
    scale = numpy_of(norm.gamma) / np.sqrt(numpy_of(norm.moving_variance) + norm.epsilon)
    check_elimination(saliency.least_squares(model, data, ridge=1e-12)["h"], [(read, weights * scale)])


def test_least_squares_of_a_recurrent_group():
    """Recurrent kernel and next kernel, each as a share of the variance that it reads."""
    x = keras.Input((5, 3))
    model = randomise(
        keras.Model(x, keras.layers.Dense(2, name="out")(keras.layers.LSTM(6, name="lstm")(x))), seed=SEED + 1
    )
    data = inputs_for(model, 40)[0]
    lstm = model.get_layer("lstm")
    states = replicas.entering_states(lambda steps: numpy_of(lstm(steps)), data, 6).reshape(-1, 6)
    readers = [(states, numpy_of(lstm.cell.recurrent_kernel)), reader_of(model, data, "lstm", "out")]
    readers = [
        (read, weights / np.sqrt(np.trace(weights.T @ np.cov(read.T, bias=True) @ weights)))
        for read, weights in readers
    ]
    check_elimination(saliency.least_squares(model, data, ridge=1e-12)["lstm"], readers)


def test_least_squares_removes_the_channels_of_a_unit_together():
    """Group normalization makes a unit of two channels."""
    model = NETS["group_norm"]()
    x = data_for(model, 30)[0]
    read, weights = reader_of(model, x, "relu", "second")
    left, gone_before, order, costs = [0, 1, 2], 0.0, [], []
    while left:
        after = [
            replicas.residual(read, weights, [c for unit in left if unit != gone for c in (2 * unit, 2 * unit + 1)])
            for gone in left
        ]
        costs.append(min(after) - gone_before)
        gone_before = min(after)
        order.append(left.pop(int(np.argmin(after))))
    scores = saliency.least_squares(model, x, ridge=1e-12)["first"]
    np.testing.assert_array_equal(np.argsort(scores), order)
    np.testing.assert_allclose(np.sort(scores), np.maximum.accumulate(costs), rtol=1e-3)


@pytest.mark.parametrize("seed", range(4))
def test_least_squares_finds_the_best_half_or_nearly(seed):
    """Against all subsets of half of eight units."""
    model = randomise(dense_net((8, 4)), seed=seed)
    x = np.random.default_rng(seed).normal(size=(80, 4)).astype("float32")
    readers = [reader_of(model, x, "h0", "h1")]
    scores = saliency.least_squares(model, x, layers="h0")["h0"]
    found = replicas.total_residual(readers, np.argsort(scores)[4:])
    best = replicas.best_subset(readers, 4)
    random = replicas.total_residual(readers, range(4))
    assert best - 1e-9 <= found <= 1.3 * best and found < random


def test_clones_and_dead_units_go_first():
    model = dense_net((6, 4))
    kernel, bias = model.get_layer("h0").get_weights()
    kernel[:, 3], bias[3] = 0.0, 0.0
    kernel[:, 5], bias[5] = kernel[:, 1], bias[1]
    model.get_layer("h0").set_weights([kernel, bias])
    scores = saliency.least_squares(model, data_for(model, 60)[0])["h0"]
    first = set(np.argsort(scores)[:2].tolist())
    assert 3 in first and first & {1, 5} and np.sort(scores)[1] < 1e-5 < np.sort(scores)[2]


def test_units_that_no_kernel_reads_score_their_variance():
    model = NETS["ops_reductions"]()
    x = data_for(model, 20)[0]
    std = saliency.activation_std(model, x)["summed"]
    np.testing.assert_allclose(saliency.least_squares(model, x)["summed"], std**2, rtol=1e-9)


# Borders --------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("score", [*ON_INPUTS, *ON_LOSS], ids=lambda score: score.__name__)
def test_scores_that_need_data_say_so(score):
    with pytest.raises(TypeError, match=f"saliency.{score.__name__} needs data"):
        score(dense_net())


@pytest.mark.parametrize("score", ON_LOSS, ids=lambda score: score.__name__)
def test_scores_that_need_targets_say_so(score):
    model = dense_net()
    with pytest.raises(ValueError, match="targets are needed"):
        score(model, data_for(model)[0], loss="mse")


@pytest.mark.parametrize("score", ON_LOSS, ids=lambda score: score.__name__)
def test_no_loss(score):
    model = dense_net()
    with pytest.raises(ValueError, match="not compiled with a loss"):
        score(model, data_for(model))


@pytest.mark.parametrize("score", ON_LOSS, ids=lambda score: score.__name__)
def test_a_class_that_does_not_exist(score):
    """The loss would be NaN, or that of another class."""
    model = dense_net()
    x, _ = data_for(model)
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    with pytest.raises(ValueError, match="3 classes.*received 3 at index"):
        score(model, (x, np.arange(len(x)) % 4), loss=loss)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda model: saliency.weight_norm(model, order=3), "order=3"),
        (lambda model: saliency.weight_norm(model, order=1, squared=True), "squared=True"),
        (lambda model: saliency.weight_norm(model, which="inside"), "'incoming', 'outgoing', 'both'"),
        (lambda model: saliency.weight_norm(model, layers="h9"), "is not a layer"),
        (lambda model: saliency.random(model, seed=-1), "at least 0"),
        (lambda model: saliency.mean_replacement(model, data_for(model), place="inside"), "'after', 'before'"),
        (lambda model: saliency.mean_replacement_penalty(model, data_for(model), place=1), "'after', 'before'"),
        (lambda model: saliency.least_squares(model, np.ones((3, 4)), ridge=0.0), "above 0"),
        (lambda model: saliency.batch_norm_scale(model), "no batch normalization"),
        (lambda model: saliency.batch_norm_scale(NETS["batch_norm"](), layers="last"), "units of last"),
        (lambda model: saliency.weight_norm(keras.Sequential([keras.Input((2,)), keras.layers.Dense(1)])), "no units"),
    ],
)
def test_bad_options(call, message):
    with pytest.raises(ValueError, match=message):
        call(dense_net())
