"""NeuralRejuvenation and rejuvenate: what stays the same, what is new, how large it becomes, and the border."""

import keras
import numpy as np
import pytest
from conftest import randomise
from nets import outputs_of
from telling import telling
from test_training_pruning import data_of, dense_net
from test_training_sparsifying import EAGER, images_of, norm_net

import tfprune as tfp
from tfprune.graph import unit_groups
from tfprune.layers import CROSSINGS
from tfprune.surgery.crossing import Kinds
from tfprune.surgery.scaling import rescale_batch_norms
from tfprune.training import NeuralRejuvenation, RejuvenatedModel, rejuvenate

layers = keras.layers


def conv_net():
    """Three convolutions with batch norms, a dense layer behind a flatten, and scales of which some are small."""
    x = keras.Input((6, 6, 2), name="image")
    h = x
    for number, width in enumerate((6, 5, 4)):
        h = layers.Conv2D(width, 2, use_bias=False, name=f"conv_{number}")(h)
        h = layers.ReLU(name=f"relu_{number}")(layers.BatchNormalization(name=f"norm_{number}")(h))
    h = layers.Dense(7, use_bias=False, name="dense")(layers.Flatten(name="flatten")(h))
    h = layers.ReLU(name="relu")(layers.BatchNormalization(name="norm")(h))
    return with_small_scales(keras.Model(x, layers.Dense(2, name="out")(h), name="conv_net"))


def with_small_scales(model):
    """Random weights, and scales of which the odd ones are near zero."""
    randomise(model)
    for layer in model.layers:
        if isinstance(layer, layers.BatchNormalization):
            gamma = layer.gamma.numpy()
            layer.gamma.assign(np.where(np.arange(len(gamma)) % 2, 1e-4 * gamma, gamma))
    model.compile(keras.optimizers.SGD(1e-6, 0.9), "mse", **EAGER)
    return model


def trained(model, **options):
    """The callback after an epoch in which nothing moves."""
    rejuvenation = NeuralRejuvenation(**{"strength": 0.0, "utilisation": 0.9} | options)
    x, y = images_of(8)
    model.fit(x, y, epochs=3, verbose=0, callbacks=[rejuvenation])
    return rejuvenation, x


NETS = {"conv_net": conv_net, "residual": lambda: with_small_scales(norm_net())}


SLOW = {("conv_net", "full"), ("residual", "full"), ("conv_net", "none"), ("residual", "attention")}


@pytest.mark.parametrize(
    ("net", "crossing"),
    [
        pytest.param(net, crossing, marks=[pytest.mark.slow] * ((net, crossing) in SLOW))
        for net in NETS
        for crossing in CROSSINGS
    ],
)
def test_the_function_of_what_survives_stays(net, crossing, tmp_path):
    model = NETS[net]()
    before = model.get_weights()
    rejuvenation, x = trained(model, crossing=crossing)
    assert rejuvenation.epoch == 1 and len(rejuvenation.history) == 1
    new = rejuvenation.rejuvenated()
    squeezed = tfp.remove(model, rejuvenation.mask)
    np.testing.assert_allclose(outputs_of(new, [x]), outputs_of(squeezed, [x]), rtol=1e-4, atol=1e-5)
    assert rejuvenation.survived == {name: int(on.sum()) for name, on in rejuvenation.mask.items()}
    sizes = unit_groups(new).sizes
    factors = [sizes[name] / survived for name, survived in rejuvenation.survived.items()]
    assert max(factors) > 1.3
    assert 0.7 * model.count_params() < new.count_params() <= model.count_params()
    types = {type(layer).__name__ for layer in new.layers}
    assert ("CrossedConv" in types) == (crossing != "full")
    # It can be trained, saved and cut like any other; new units are alive.
    y = np.ones((len(x), 2))
    new.fit(x, y, epochs=1, verbose=0)
    new.save(tmp_path / "new.keras")
    loaded = keras.models.load_model(tmp_path / "new.keras")
    np.testing.assert_array_equal(outputs_of(loaded, [x]), outputs_of(new, [x]))
    name = next(iter(sizes))
    mask = tfp.LayerValues({name: np.arange(sizes[name]) < rejuvenation.survived[name]})
    assert tfp.remove(new, mask).count_params() < new.count_params()
    assert not np.allclose(before[0], 0)


def test_what_new_weights_begin_with():
    model = conv_net()
    rejuvenation, _ = trained(model, seed=3)
    new = rejuvenation.rejuvenated()
    squeezed = tfp.remove(model, rejuvenation.mask)
    old = rejuvenation.survived
    for name, before in (("conv_1", "conv_0"), ("conv_2", "conv_1")):
        kernel, was = new.get_layer(name).kernel.numpy(), squeezed.get_layer(name).kernel.numpy()
        rows, columns = old[before], old[name]
        np.testing.assert_array_equal(kernel[:, :, :rows, :columns], was)
        assert not kernel[:, :, rows:, :columns].any() and not kernel[:, :, :rows, columns:].any()
        drawn = kernel[:, :, rows:, columns:]
        assert drawn.all() and drawn.std() == pytest.approx(np.sqrt(2 / (4 * kernel.shape[-1])), rel=0.5)
    first = new.get_layer("conv_0").kernel.numpy()
    assert first[..., old["conv_0"] :].all()
    # The place of a unit in what a flatten gives out: four positions of each.
    dense = new.get_layer("dense").kernel.numpy().reshape(9, -1, unit_groups(new).sizes["dense"])
    rows, columns = old["conv_2"], old["dense"]
    assert dense.shape[1] > rows and not dense[:, rows:, :columns].any() and not dense[:, :rows, columns:].any()
    assert dense[:, rows:, columns:].all()
    assert not new.get_layer("out").kernel.numpy()[columns:].any()
    for number in range(3):
        norm, survived = new.get_layer(f"norm_{number}"), old[f"conv_{number}"]
        gamma, beta, mean, variance = (w.numpy()[survived:] for w in norm.weights)
        assert (gamma == 0.5).all() and not beta.any() and not mean.any() and (variance == 1).all()
        np.testing.assert_array_equal(norm.gamma.numpy()[:survived], squeezed.get_layer(f"norm_{number}").gamma.numpy())
    again = rejuvenation.rejuvenated(crossing="attention").get_layer("conv_1").kernels[1]
    rows, columns = old["conv_0"], old["conv_1"]
    np.testing.assert_array_equal(again, new.get_layer("conv_1").kernel.numpy()[:, :, rows:, columns:])


@pytest.mark.slow
def test_another_seed_draws_other_weights():
    kernels = [trained(conv_net(), seed=seed)[0].rejuvenated().get_layer("conv_1").kernel.numpy() for seed in (3, 3, 4)]
    np.testing.assert_array_equal(kernels[0], kernels[1])
    assert not np.array_equal(kernels[0], kernels[2])


@pytest.mark.parametrize(
    ("crossing", "resource"),
    [
        ("full", "flops"),
        ("none", "parameters"),
        pytest.param("attention", "parameters", marks=pytest.mark.slow),
        pytest.param("attention", "flops", marks=pytest.mark.slow),
        pytest.param("full", "parameters", marks=pytest.mark.slow),
        pytest.param("none", "flops", marks=pytest.mark.slow),
    ],
)
def test_the_model_is_as_large_as_fits(crossing, resource):
    model = conv_net()
    rejuvenation, _ = trained(model, crossing=crossing, resource=resource)
    new = rejuvenation.rejuvenated()

    def cost(own):
        graph = unit_groups(own)
        return tfp.graph.count_parameters(graph) if resource == "parameters" else tfp.graph.count_flops(graph)

    share = tfp.remove(model, rejuvenation.mask)
    assert rejuvenation.history[-1].utilisation == pytest.approx(cost(share) / cost(model))
    # What attention does after its products counts on top where operations are counted.
    most = 1.1 if (crossing, resource) == ("attention", "flops") else 1.0
    assert cost(new) <= most * cost(model)
    old, sizes = rejuvenation.survived, unit_groups(new).sizes
    # One step of the factor further, the first group that gets a unit more:
    factor = min((sizes[name] + 1) / old[name] for name in old) + 1e-9
    if crossing == "full":
        larger = tfp.widen(share, {name: int(old[name] * factor) for name in old})
        assert cost(larger) > cost(model)


def test_repair_and_sizes_by_group_norm():
    x, y = data_of()
    model = dense_net(optimizer=keras.optimizers.SGD(0.1))
    rejuvenation = NeuralRejuvenation(0.2, penalty="group_norm", utilisation=0.7, method="proximal", data=x)
    fitted = model.fit(x, y, epochs=30, batch_size=8, verbose=0, callbacks=[rejuvenation])
    assert fitted.history["utilisation"][-1] <= 0.7 < fitted.history["utilisation"][-2]
    assert rejuvenation.epoch == len(fitted.epoch) < 30
    with telling("below 300"):
        new = rejuvenation.rejuvenated()
    np.testing.assert_allclose(outputs_of(new, [x]), outputs_of(model, [x]), rtol=1e-3, atol=1e-4)
    assert new.count_params() <= model.count_params() and int(new.optimizer.iterations) == 0


def test_units_whose_readers_have_no_others_of_their_kind_keep_what_they_read():
    x = keras.Input((3,))
    first = layers.Dense(4, activation="sigmoid", name="first")(x)
    h = layers.BatchNormalization(name="norm")(layers.Dense(5, name="second")(first))
    model = keras.Model(x, layers.Dense(2, name="out")(layers.ReLU(name="relu")(h)))
    with_small_scales(model)
    rejuvenation = NeuralRejuvenation(0.0, crossing="none", utilisation=0.9)
    inputs, y = data_of()
    model.fit(inputs, y, verbose=0, callbacks=[rejuvenation])
    assert tuple(rejuvenation.left_out) == ("first",)
    new = rejuvenation.rejuvenated()
    assert type(new.get_layer("second")) is layers.Dense and unit_groups(new).sizes["first"] == 4
    assert new.get_layer("second").kernel.numpy().all()


def of_dense_layers():
    """Dense layers in a model within a model, one of them called twice, and a regularizer."""

    def block(h, width, name):
        return layers.ReLU()(layers.BatchNormalization(name=f"norm_{name}")(layers.Dense(width, name=name)(h)))

    start = keras.Input((6,))
    inner = keras.Model(start, block(start, 5, "c"), name="inner")
    x, y = keras.Input((3,)), keras.Input((3,))
    shared = layers.Dense(6, kernel_regularizer="l2", name="b")
    first = keras.Sequential([keras.Input((3,)), layers.Dense(5, name="a"), layers.BatchNormalization()], name="first")
    norm, relu = layers.BatchNormalization(name="norm_b"), layers.ReLU()
    sides = [inner(norm(shared(relu(first(own))))) for own in (x, y)]
    model = keras.Model([x, y], layers.Dense(2, name="out")(layers.Subtract()(sides)))
    randomise(model)
    for layer in model._flatten_layers():
        if isinstance(layer, layers.BatchNormalization):
            layer.gamma.assign(np.where(np.arange(layer.gamma.shape[0]) % 2, 1e-4, layer.gamma.numpy()))
    model.compile(keras.optimizers.SGD(1e-6), "mse", **EAGER)
    return model


@pytest.mark.parametrize("crossing", ["attention", pytest.param("none", marks=pytest.mark.slow)])
def test_nested_models_and_layers_called_twice(crossing):
    model = of_dense_layers()
    inputs = [np.random.default_rng(n).normal(size=(20, 3)).astype("float32") for n in range(2)]
    rejuvenation = NeuralRejuvenation(0.0, utilisation=0.99, crossing=crossing)
    model.fit(inputs, np.ones((20, 2)), epochs=1, verbose=0, callbacks=[rejuvenation])
    new = rejuvenation.rejuvenated()
    expected = outputs_of(tfp.remove(model, rejuvenation.mask), inputs)
    np.testing.assert_allclose(outputs_of(new, inputs), expected, rtol=1e-4, atol=1e-5)
    crossed = [layer for layer in new._flatten_layers() if type(layer).__name__ == "CrossedDense"]
    assert {layer.name for layer in crossed} == {"b", "c"}
    assert new.get_layer("b").kernel_regularizer.l2 == pytest.approx(0.01)
    new.fit(inputs, np.ones((20, 2)), verbose=0)
    assert new.count_params() <= model.count_params()


# Equal epochs ---------------------------------------------------------------------------------------------------------


def test_rejuvenate_trains_as_many_epochs_in_all(tmp_path):
    x, y = images_of(40)
    model = conv_net()
    rate = keras.optimizers.schedules.ExponentialDecay(1e-6, 5, 0.5)
    model.compile(keras.optimizers.SGD(rate), "mse", metrics=["mae"], **EAGER)
    before = model.get_weights()
    epochs = []
    spy = keras.callbacks.LambdaCallback(on_epoch_begin=lambda epoch, logs: epochs.append(epoch))
    options = {"verbose": 0, "batch_size": 8, "validation_data": (x, y), "callbacks": [spy]}
    how = NeuralRejuvenation(0.0, utilisation=0.9, crossing="attention")
    with telling("below 300"):
        done = rejuvenate(model, (x, y), how, epochs=3, fit_options=options)
    assert isinstance(done, RejuvenatedModel) and done.epoch == 1 and epochs == [0, 1, 2]
    assert {name: len(values) for name, values in done.history.items()} == dict.fromkeys(done.history, 3)
    assert {"loss", "mae", "val_loss", "utilisation", "sparsity", "seconds", "parameters"} <= set(done.history)
    assert done.history["parameters"] == [model.count_params(), *[done.model.count_params()] * 2]
    assert done.history["utilisation"][0] < 0.7 and done.history["utilisation"][1] > 0.95
    assert int(done.model.optimizer.iterations) == 15
    assert all(np.array_equal(one, two) for one, two in zip(before, model.get_weights(), strict=True))


def test_a_model_that_is_used_is_not_rejuvenated():
    x, y = images_of(8)
    model = randomise(conv_net())
    model.compile("sgd", "mse", **EAGER)
    with telling(r"after 2 epochs the utilisation is 1.000, above 0.5, so the model was not rejuvenated.*larger"):
        done = rejuvenate(model, (x, y), NeuralRejuvenation(0.0), epochs=2, fit_options={"verbose": 0})
    assert done.epoch is None and done.survived is None and len(done.history["loss"]) == 2
    assert done.model.count_params() == model.count_params()


# Rescaling ------------------------------------------------------------------------------------------------------------


def small_gammas(model, name):
    return np.abs(model.get_layer(name).gamma.numpy())


def test_rescaling_keeps_the_function():
    model = randomise(conv_net())
    x, _ = images_of(4)
    for number in range(3):
        model.get_layer(f"norm_{number}").gamma.assign(np.array([0.3, -0.1, 0.0, 0.8, 0.2, 0.05])[: 6 - number])
    expected = outputs_of(model, [x])
    assert rescale_batch_norms(unit_groups(model), 0.5) == ["norm_0", "norm_1", "norm_2", "norm"]
    np.testing.assert_allclose(outputs_of(model, [x]), expected, rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(small_gammas(model, "norm_0"), [0.5, 0.5, 0.0, 0.8, 0.5, 0.5], rtol=1e-6)


def test_rescaling_leaves_alone_what_would_change():
    x = keras.Input((4, 4, 3))

    def norm(h, name):
        return layers.BatchNormalization(name=name)(h)

    first = norm(layers.Conv2D(4, 1, name="a")(x), "sum")
    second = norm(layers.Conv2D(4, 1, name="b")(x), "sum_2")
    h = layers.ReLU()(layers.Add()([first, second]))
    h = layers.Activation("sigmoid")(norm(layers.Conv2D(4, 1, name="c")(h), "sigmoid"))
    h = layers.LeakyReLU()(norm(layers.Conv2D(4, 1, name="d")(h), "leaky"))
    h = layers.MaxPooling2D()(h)
    raw = layers.Conv2D(3, 1, name="e")(h)
    twice = layers.Concatenate()([layers.ReLU()(norm(raw, "twice")), raw])
    h = layers.ReLU(max_value=6)(norm(layers.Conv2D(3, 1, name="f")(twice), "capped"))
    inner_input = keras.Input((2, 2, 3))
    inner = keras.Model(inner_input, layers.Conv2D(3, 1, name="g")(inner_input), name="inner")
    h = norm(inner(h), "before_nested")
    inner_2 = keras.Sequential([keras.Input((2, 2, 3)), layers.Conv2D(2, 1, name="i")], name="inner_2")
    h = layers.Concatenate()([inner_2(h), layers.Conv2D(2, 1, name="h")(h)])
    shared = layers.Conv2D(4, 1, name="shared")
    h = shared(layers.ReLU()(norm(shared(layers.Conv2D(4, 1, name="j")(h)), "shared_reader")))
    h = norm(h, "output")
    model = randomise(keras.Model(x, [h, layers.Dense(2)(layers.GlobalAveragePooling2D()(h))]))
    for layer in model.layers:
        if isinstance(layer, layers.BatchNormalization):
            layer.gamma.assign(0.1 * layer.gamma)
    data = np.random.default_rng(0).normal(size=(3, 4, 4, 3)).astype("float32")
    expected = outputs_of(model, [data])
    assert rescale_batch_norms(unit_groups(model), 0.5) == ["leaky"]
    assert (small_gammas(model, "leaky") >= 0.499).all() and (small_gammas(model, "twice") < 0.2).all()
    np.testing.assert_allclose(outputs_of(model, [data]), expected, rtol=1e-3, atol=1e-5)


def test_rescaling_within_a_rejuvenation():
    rejuvenation, x = trained(conv_net(), rescale=2.0)
    new = rejuvenation.rejuvenated()
    squeezed = tfp.remove(rejuvenation.model, rejuvenation.mask)
    np.testing.assert_allclose(outputs_of(new, [x]), outputs_of(squeezed, [x]), rtol=1e-4, atol=1e-5)
    survived = rejuvenation.survived["conv_0"]
    np.testing.assert_allclose(small_gammas(new, "norm_0")[:survived], 2.0, rtol=1e-6)


# Kinds ----------------------------------------------------------------------------------------------------------------


def test_kinds_on_axes_of_gates():
    """New units of a recurrent layer are on every gate's part of the axis."""
    x = keras.Input((4, 3))
    model = randomise(keras.Model(x, layers.Dense(2, name="out")(layers.LSTM(3, name="lstm")(x))))
    wide = tfp.widen(model, {"lstm": 5}, outgoing="he_normal")
    Kinds(unit_groups(wide), {"lstm": 3}).silence()
    data = np.random.default_rng(0).normal(size=(2, 4, 3)).astype("float32")
    np.testing.assert_allclose(outputs_of(wide, [data]), outputs_of(model, [data]), rtol=1e-5, atol=1e-6)
    recurrent = wide.get_layer("lstm").cell.recurrent_kernel.numpy().reshape(5, 4, 5)
    assert not recurrent[3:, :, :3].any() and not recurrent[:3, :, 3:].any() and recurrent[3:, :, 3:].all()


# Border ---------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "match"),
    [
        ({"strength": -1.0}, "NeuralRejuvenation: `strength` expects a finite number of at least 0"),
        ({"utilisation": 1.0}, "`utilisation` expects a number above 0 and below 1, received 1.0"),
        ({"crossing": "half"}, "`crossing` expects one of 'full', 'none', 'attention'"),
        ({"rescale": 0}, "`rescale` expects a number above 0 or None, received 0"),
        ({"resource": "seconds"}, "`resource` expects one of 'parameters', 'flops'"),
        ({"seed": -1}, "`seed` expects a whole number of at least 0"),
        ({"schedule": "falling"}, "`schedule` knows by name only 'rising'"),
    ],
)
def test_refused_at_once(options, match):
    with pytest.raises(ValueError, match=match):
        NeuralRejuvenation(**{"strength": 0.1} | options)


def test_refused_types():
    with pytest.raises(TypeError, match="no such arguments: strenght"):
        NeuralRejuvenation(0.1, strenght=3)
    with pytest.raises(TypeError, match="`rejuvenation` expects a NeuralRejuvenation"):
        rejuvenate(conv_net(), images_of(8), 0.1, epochs=3)
    with pytest.raises(ValueError, match="rejuvenate: `epochs` expects a whole number"):
        rejuvenate(conv_net(), images_of(8), NeuralRejuvenation(0.1), epochs=0)
    with pytest.raises(ValueError, match="rejuvenate: `fit_options` may not have 'epochs'"):
        rejuvenate(conv_net(), images_of(8), NeuralRejuvenation(0.1), epochs=2, fit_options={"epochs": 3})


def test_refused_without_batch_normalization():
    x, y = data_of()
    with pytest.raises(ValueError, match="cannot act on 'first', 'second'.*Use penalty='group_norm'"):
        dense_net().fit(x, y, verbose=0, callbacks=[NeuralRejuvenation(0.1)])


def test_refused_before_fit():
    with pytest.raises(ValueError, match="`fit` has not begun"):
        NeuralRejuvenation(0.1).rejuvenated()
