"""Sweeps: losses and gradients of many masks at once, against one mask after the other."""

import keras
import numpy as np
import pytest
import tensorflow as tf
from conftest import randomise
from keras import layers
from nets import NETS, inputs_for, random_masks

from tfprune.graph import unit_groups
from tfprune.masking import steps as masking_steps
from tfprune.masking import sweep, sweeping, with_on_nodes
from tfprune.masking.split import SplitModel
from tfprune.units import LayerValues

TOLERANCE = 1e-5


def one_mask_after_the_other(masked, inputs, masks, loss):
    """Losses and gradients by an eager GradientTape per mask; `loss(outputs)` has one value per sample."""
    losses, gradients = [], []
    for mask in masks.astype("float32"):
        on = tf.constant(mask[None])
        with tf.GradientTape() as tape:
            tape.watch(on)
            value = tf.reduce_mean(loss(masked([*map(tf.constant, inputs), on])))
        losses.append(float(value))
        gradients.append(tape.gradient(value, on)[0].numpy())
    return np.array(losses), np.array(gradients)


def check(result, losses, gradients):
    assert result.losses.shape == losses.shape and result.gradients.shape == gradients.shape
    np.testing.assert_allclose(result.losses, losses, rtol=TOLERANCE)
    np.testing.assert_allclose(result.gradients, gradients, rtol=TOLERANCE, atol=TOLERANCE * np.abs(gradients).max())


def mse_with(targets):
    return lambda outputs: tf.reduce_mean(tf.reshape((outputs - targets) ** 2, (len(targets), -1)), axis=1)


@pytest.fixture
def problem(dense_net, generator):
    """The net of 3 -> 5 -> 4 -> 2, data, and 7 masks."""
    x = generator.normal(size=(11, 3)).astype("float32")
    y = generator.normal(size=(11, 2)).astype("float32")
    return dense_net, x, y, random_masks(9, 7)


# Against the slow way -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "name",
    [
        *["dense_chain", "conv_2d", "conv_channels_first", "embedding_mask", "lstm_states", "bidirectional_concat"],
        *["attention_masked", "layer_norm", "squeeze_excitation", "mixer", "siamese", "nested_twice"],
    ],
)
def test_equals_one_mask_after_the_other(name):
    model = NETS[name]()
    graph, inputs = unit_groups(model), inputs_for(model, 5)
    masks = random_masks(graph.num_units, 3, groups=graph.values())
    y = np.random.default_rng(1).normal(size=(5, *model.outputs[0].shape[1:])).astype("float32")
    expected = one_mask_after_the_other(with_on_nodes(model), inputs, masks, mse_with(y))
    data = (inputs if len(inputs) > 1 else inputs[0], y)
    check(sweep(model, data, masks, loss="mse", progress=False), *expected)


def test_masks_may_be_fractions(problem):
    model, x, y, _ = problem
    masks = np.random.default_rng(0).uniform(-0.5, 1.5, (4, 9)).astype("float32")
    check(
        sweep(model, (x, y), masks, progress=False),
        *one_mask_after_the_other(with_on_nodes(model), [x], masks, mse_with(y)),
    )


def test_masks_may_be_layer_values(problem):
    model, x, y, masks = problem
    named = [LayerValues.from_flat(row, {"first": 5, "second": 4}) for row in masks]
    whole = sweep(model, (x, y), masks, progress=False)
    np.testing.assert_array_equal(sweep(model, (x, y), named, progress=False).losses, whole.losses)
    one = sweep(model, (x, y), named[2], progress=False)
    np.testing.assert_allclose(one.losses, whole.losses[2:3], rtol=1e-6)


def test_all_on_is_what_evaluate_says(problem):
    model, x, y, _ = problem
    result = sweep(model, (x, y), np.ones((1, 9), bool), gradients=False, progress=False)
    assert result.gradients is None and result.num_points == 11
    assert result.losses[0] == pytest.approx(model.evaluate(x, y, verbose=0), rel=TOLERANCE)


def test_sample_weights_are_those_of_evaluate(problem, generator):
    model, x, y, masks = problem
    weights = generator.uniform(0.0, 2.0, 11).astype("float32")
    masked = with_on_nodes(model)
    masked.compile(loss="mse")
    result = sweep(model, (x, y, weights), masks, gradients=False, progress=False)
    rows = [np.tile(mask.astype("float32"), (11, 1)) for mask in masks]
    expected = [masked.evaluate([x, row], y, sample_weight=weights, verbose=0) for row in rows[:2]]
    np.testing.assert_allclose(result.losses[:2], expected, rtol=TOLERANCE)


def test_layers_and_replacement(problem):
    model, x, y, _ = problem
    masks, means = random_masks(5, 4), LayerValues({"first": [0.5, -1.0, 2.0, 0.1, 1.0]})
    masked = with_on_nodes(model, "first", means)
    expected = one_mask_after_the_other(masked, [x], masks, mse_with(y))
    check(sweep(model, (x, y), masks, layers="first", replacement=means, progress=False), *expected)
    check(sweep(masked, (x, y), masks, loss="mse", progress=False), *expected)


def test_several_outputs_and_loss_weights(generator):
    """Outputs of one model in a dictionary: a loss for two of three, each with a weight."""
    model = NETS["several_outputs"]()
    inputs, masks = inputs_for(model, 6), random_masks(11, 3)
    y = {"one": generator.normal(size=(6, 2)).astype("float32"), "two": generator.normal(size=(6, 1)).astype("float32")}

    def loss(outputs):
        return 2.0 * mse_with(y["one"])(outputs["one"]) + 0.5 * tf.abs(outputs["two"] - y["two"])[:, 0]

    expected = one_mask_after_the_other(with_on_nodes(model), inputs, masks, loss)
    model.compile(loss={"one": "mse", "two": "mae"}, loss_weights={"one": 2.0, "two": 0.5})
    check(sweep(model, (inputs, y), masks, progress=False), *expected)


def test_a_unit_that_the_loss_does_not_see_has_gradient_zero():
    x = keras.Input((3,), name="x")
    seen = layers.Dense(2, name="seen")(layers.Dense(4, "tanh", name="of_seen")(x))
    unseen = layers.Dense(2, name="unseen")(layers.Dense(3, "tanh", name="of_unseen")(x))
    model = randomise(keras.Model(x, [seen, unseen]))
    data = (inputs_for(model, 6)[0], {"seen": np.zeros((6, 2), "float32")})
    result = sweep(model, data, np.ones((2, 7)), loss={"seen": "mse"}, progress=False)
    assert np.abs(result.gradients[:, :4]).min() > 1e-6
    np.testing.assert_array_equal(result.gradients[:, 4:], 0.0)
    only = sweep(model, data, np.ones((2, 3)), loss={"seen": "mse"}, layers="of_unseen", progress=False)
    np.testing.assert_array_equal(only.gradients, 0.0)


def test_sparse_targets(problem, generator):
    model, x, _, masks = problem
    y = generator.integers(0, 2, 11)
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)

    def per_sample(outputs):
        return tf.nn.sparse_softmax_cross_entropy_with_logits(y, outputs)

    expected = one_mask_after_the_other(with_on_nodes(model), [x], masks, per_sample)
    check(sweep(model, (x, y), masks, loss=loss, progress=False), *expected)


def test_half_precision_outputs_are_summed_in_float32(generator):
    """300 losses of about 400 would overflow a sum in float16 (65504)."""
    keras.config.set_dtype_policy("mixed_float16")
    try:
        model = randomise(keras.Sequential([keras.Input((3,)), layers.Dense(4, name="first"), layers.Dense(1)]))
    finally:
        keras.config.set_dtype_policy("float32")
    x = generator.normal(size=(300, 3)).astype("float32")
    result = sweep(model, (x, np.full(300, 20.0)), np.ones((1, 4)), loss="mse", progress=False)
    assert result.losses[0] == pytest.approx(
        np.mean((model.predict(x, verbose=0) - 20.0) ** 2.0, dtype=float), rel=1e-2
    )


# Chunks ---------------------------------------------------------------------------------------------------------------


def test_chunks_do_not_change_the_result(problem, monkeypatch):
    model, x, y, masks = problem
    whole = sweep(model, (x, y), masks, progress=False)
    for points, floats in ((4, 2**22), (1024, 400), (3, 100), (1, 1)):
        monkeypatch.setattr(masking_steps, "_MOST_POINTS_AT_ONCE", points)
        monkeypatch.setattr(masking_steps, "_FLOATS_AFTER", floats)
        check(sweep(model, (x, y), masks, progress=False), whole.losses, whole.gradients)


def test_batch_size_of_a_dataset_does_not_change_the_result(problem):
    model, x, y, masks = problem
    whole = sweep(model, (x, y), masks, progress=False)
    for size in (1, 4, 11):
        data = tf.data.Dataset.from_tensor_slices((x, y)).batch(size)
        result = sweep(model, data, masks, progress=False)
        assert result.num_points == 11
        check(result, whole.losses, whole.gradients)


def test_large_batches_of_a_dataset_are_cut(problem, monkeypatch):
    """No step sees more points than fit, whatever batches come in."""
    model, x, y, masks = problem
    whole = sweep(model, (x, y), masks, progress=False)
    monkeypatch.setattr(masking_steps, "_MOST_POINTS_AT_ONCE", 4)
    seen = []
    before = sweeping._one_batch
    monkeypatch.setattr(
        sweeping,
        "_one_batch",
        lambda runner, batch, *rest: seen.append(len(batch.targets)) or before(runner, batch, *rest),
    )
    result = sweep(model, tf.data.Dataset.from_tensor_slices((x, y)).batch(11), masks, progress=False)
    assert seen == [4, 4, 3]
    check(result, whole.losses, whole.gradients)


def test_what_lies_before_the_first_mask_runs_once_per_point(conv_norm_net, generator, monkeypatch):
    """Convolution, norm and activation before the first exit: one run for each batch of points, whatever the masks."""
    x = generator.normal(size=(6, 8, 8, 2)).astype("float32")
    masked = with_on_nodes(conv_norm_net)
    split = SplitModel(masked, 1)
    assert [tensor.shape for tensor in split.boundary] == [(None, 6, 6, 4)]
    runner = sweeping._Runner(masked, lambda targets, outputs: tf.reduce_sum(outputs, axis=1), True)
    calls, before = [], runner.before
    runner.before = lambda inputs: calls.append(len(inputs[0])) or before(inputs)
    monkeypatch.setattr(sweeping, "_runner", lambda *args: runner)
    monkeypatch.setattr(masking_steps, "_FLOATS_AFTER", 500)
    sweep(conv_norm_net, (x, np.zeros((6, 2))), random_masks(7, 9), progress=False)
    assert sum(calls) == 6


def test_later_sweeps_see_new_weights_and_a_new_compilation(problem):
    """Compiled steps are kept between sweeps; what they read is not."""
    model, x, y, masks = problem
    first = sweep(model, (x, y), masks, progress=False).losses
    model.get_layer("out").kernel.assign(2.0 * model.get_layer("out").kernel)
    second = sweep(model, (x, y), masks, progress=False)
    assert np.abs(second.losses - first).max() > 1e-3
    check(second, *one_mask_after_the_other(with_on_nodes(model), [x], masks, mse_with(y)))
    model.compile(loss="mse", loss_weights=[3.0])
    np.testing.assert_allclose(sweep(model, (x, y), masks, progress=False).losses, 3.0 * second.losses, rtol=1e-6)
    model.compile(loss="mae")
    assert np.abs(sweep(model, (x, y), masks, progress=False).losses - second.losses).max() > 1e-3


# Interrupted and resumed ----------------------------------------------------------------------------------------------


class Interrupted(Exception):
    pass


def stop_after(monkeypatch, steps):
    """Lets a sweep stop with an error after so many steps, as Ctrl-C would."""
    add, done = sweeping._State.add, []

    def failing(self, *args):
        if len(done) == steps:
            raise Interrupted
        done.append(1)
        add(self, *args)

    monkeypatch.setattr(sweeping._State, "add", failing)


@pytest.mark.parametrize("steps", [0, 2, 3, 5])
def test_a_sweep_goes_on_where_it_stopped(problem, tmp_path, monkeypatch, steps):
    """Three batches of points times three parts of masks; the result is the same bit for bit."""
    model, x, y, masks = problem
    monkeypatch.setattr(masking_steps, "_MOST_POINTS_AT_ONCE", 4)
    monkeypatch.setattr(masking_steps, "_FLOATS_AFTER", 300)
    whole = sweep(model, (x, y), masks, progress=False)
    with monkeypatch.context() as patched:
        stop_after(patched, steps)
        with pytest.raises(Interrupted):
            sweep(model, (x, y), masks, save_to=tmp_path / "state.npz", progress=False)
    counted, add = [], sweeping._State.add
    monkeypatch.setattr(sweeping._State, "add", lambda self, *args: counted.append(1) or add(self, *args))
    resumed = sweep(model, (x, y), masks, save_to=tmp_path / "state.npz", progress=False)
    left = len(counted)
    sweep(model, (x, y), masks, progress=False)
    assert steps + left == len(counted) - left
    np.testing.assert_array_equal(resumed.losses, whole.losses)
    np.testing.assert_array_equal(resumed.gradients, whole.gradients)
    assert resumed.num_points == 11
    assert [path.name for path in tmp_path.iterdir()] == ["state.npz"]


def test_a_finished_sweep_is_read_back(problem, tmp_path, monkeypatch):
    model, x, y, masks = problem
    whole = sweep(model, (x, y), masks, save_to=tmp_path / "state.npz", progress=False)
    monkeypatch.setattr(sweeping, "_one_batch", None)
    again = sweep(model, (x, y), masks, save_to=tmp_path / "state.npz", progress=False)
    np.testing.assert_array_equal(again.losses, whole.losses)
    np.testing.assert_array_equal(again.gradients, whole.gradients)


@pytest.mark.parametrize("other", ["masks", "weights", "loss", "layers", "replacement", "gradients"])
def test_the_state_of_another_sweep_is_refused(problem, tmp_path, other):
    model, x, y, _ = problem
    masks, path = random_masks(4, 3), tmp_path / "state.npz"
    model = keras.Sequential([keras.Input((3,)), *(layers.Dense(4, "tanh", name=n) for n in "ab"), layers.Dense(2)])
    randomise(model)
    options = {"layers": "a", "loss": "mse", "save_to": path, "progress": False}
    sweep(model, (x, y), masks, **options)
    if other == "masks":
        masks = ~masks
    if other == "weights":
        model.weights[0].assign(model.weights[0] + 1.0)
    options |= {"loss": {"loss": "mae"}, "layers": {"layers": "b"}, "gradients": {"gradients": False}}.get(other, {})
    if other == "replacement":
        options["replacement"] = LayerValues({"a": np.ones(4)})
    with pytest.raises(ValueError, match="holds another sweep"):
        sweep(model, (x, y), masks, **options)


@pytest.mark.parametrize("change", ["inputs", "targets", "fewer"])
def test_the_state_of_a_sweep_over_other_data_is_refused(problem, tmp_path, change):
    model, x, y, masks = problem
    sweep(model, (x, y), masks, save_to=tmp_path / "state.npz", progress=False)
    data = {"inputs": (x + 1, y), "targets": (x, y + 1), "fewer": (x[:5], y[:5])}[change]
    with pytest.raises(ValueError, match="holds a sweep over other data"):
        sweep(model, data, masks, save_to=tmp_path / "state.npz", progress=False)


def test_a_file_that_is_no_state_is_refused(problem, tmp_path):
    model, x, y, masks = problem
    (tmp_path / "text.npz").write_text("no state")
    with pytest.raises(ValueError, match="is not the state of a sweep"):
        sweep(model, (x, y), masks, save_to=tmp_path / "text.npz", progress=False)
    assert (tmp_path / "text.npz").read_text() == "no state"


# Bad input ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        ({"masks": np.ones((2, 8))}, ValueError, r"expected shape \(num_masks, 9\).* received \(2, 8\)"),
        ({"masks": np.ones(9)}, ValueError, r"received \(9,\). A single mask is masks\[None\]"),
        ({"masks": np.ones((0, 9))}, ValueError, "at least one mask"),
        ({"masks": np.full((2, 9), np.nan)}, ValueError, "mask 0 holds NaN or infinity"),
        ({"masks": np.full((1, 9), "on")}, TypeError, "expected bool or numbers, received dtype <U2"),
        ({"masks": LayerValues({"first": np.ones(5)})}, ValueError, r"masks\[0\] lacks the groups 'second'"),
        ({"layers": ["frist"]}, ValueError, "'frist' is not a layer"),
        ({"loss": "mse", "layers": ["out"]}, ValueError, "cannot be removed"),
        ({"loss": "unheard_of"}, ValueError, "unheard_of"),
        ({"replacement": LayerValues({"first": np.ones(3)})}, ValueError, r"expects the shape \(5,\)"),
        ({"data": (np.ones((0, 3)), np.ones((0, 2)))}, ValueError, "(?i)empty"),
        ({"data": (np.ones((4, 3)), np.ones((3, 2)))}, ValueError, "numbers of samples differ"),
        ({"data": (np.full((4, 3), np.nan), np.ones((4, 2)))}, ValueError, "NaN"),
        ({"data": (np.full((4, 3), np.inf), np.ones((4, 2)))}, ValueError, "inf .not finite"),
        ({"data": np.ones((4, 3))}, ValueError, "targets"),
        ({"data": (np.ones((4, 2)), np.ones((4, 2)))}, ValueError, "input 'x'"),
        ({"save_to": "missing/folder/state.npz"}, (ValueError, OSError), "folder"),
    ],
)
def test_bad_input(problem, change, error, message, tmp_path):
    model, x, y, masks = problem
    arguments = {"data": (x, y), "masks": masks, "progress": False} | change
    if "save_to" in change:
        blocker = tmp_path / "missing"
        blocker.write_text("a file where the folder should be")
        arguments["save_to"] = tmp_path / change["save_to"]
    with pytest.raises(error, match=message):
        sweep(model, arguments.pop("data"), arguments.pop("masks"), **arguments)


def test_a_loss_is_needed():
    model = NETS["dense_chain"]()
    with pytest.raises(ValueError, match="not compiled with a loss and none was given"):
        sweep(model, (np.ones((2, 4)), np.ones((2, 3))), np.ones((1, 15)))


def test_a_masked_model_has_its_layers_already(problem):
    model, x, y, masks = problem
    with pytest.raises(ValueError, match="the model is masked already"):
        sweep(with_on_nodes(model), (x, y), masks, loss="mse", layers="first")
    graph = unit_groups(model)
    named = LayerValues.from_flat(masks[0].astype("float32"), graph.sizes)
    with pytest.raises(ValueError, match=r"units have no names here.*on_nodes\(mask\)"):
        sweep(with_on_nodes(model), (x, y), named, loss="mse")
    rows = np.concatenate([graph.on_nodes(named)] * 2)
    losses = sweep(with_on_nodes(model), (x, y), rows, loss="mse", progress=False).losses
    np.testing.assert_allclose(losses, sweep(model, (x, y), [named] * 2, loss="mse", progress=False).losses, rtol=1e-6)


def test_subclassed_and_unbuilt_models():
    unbuilt = keras.Sequential([layers.Dense(3)])
    with pytest.raises(ValueError, match="not built"):
        sweep(unbuilt, (np.ones((2, 3)), np.ones((2, 3))), np.ones((1, 3)), loss="mse")


def test_another_replacement_serves_the_same_compiled_steps(problem):
    """The second sweep finds what the first one compiled, and must not find its replacement."""
    model, x, y, masks = problem
    sizes = unit_groups(model).sizes
    for value in (0.0, 0.3, -1.0):
        replacement = LayerValues({name: np.full(size, value) for name, size in sizes.items()})
        found = sweep(model, (x, y), masks, replacement=replacement, progress=False)
        fresh = sweep(with_on_nodes(model, replacement=replacement), (x, y), masks, loss=model.loss, progress=False)
        check(found, fresh.losses, fresh.gradients)
