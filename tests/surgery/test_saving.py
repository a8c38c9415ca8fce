"""Files of models that were cut in any form."""

import json
import zipfile

import keras
import numpy as np
import pytest
from keras import layers, ops

import tfprune
from tfprune import LayerValues


@keras.saving.register_keras_serializable(package="tests")
class Gated(layers.Layer):
    """A gated block with a scale of its own, which no layer of Keras has; it can say how it was built."""

    def __init__(self, width, **kwargs):
        super().__init__(**kwargs)
        self.width = width
        self.up, self.gate = layers.Dense(width, use_bias=False), layers.Dense(width, "sigmoid", use_bias=False)

    def build(self, shape):
        self.down = layers.Dense(shape[-1], use_bias=False)
        self.scale = self.add_weight(shape=(shape[-1],), initializer="ones", name="scale")
        self.up.build(shape)
        self.gate.build(shape)
        self.down.build((*shape[:-1], self.width))

    def call(self, x):
        return x + self.scale * self.down(self.up(x) * self.gate(x))

    def get_config(self):
        return super().get_config() | {"width": self.width}


class Silent(Gated):
    """The same without a configuration."""

    def get_config(self):
        raise NotImplementedError("it says nothing")


class Whole(keras.Model):
    """A subclassed model that holds blocks in a list."""

    def __init__(self, count=2, **kwargs):
        super().__init__(**kwargs)
        self.count = count
        self.blocks = [Gated(6, name=f"block_{k}") for k in range(count)]
        self.head = layers.Dense(2, name="head")

    def call(self, x):
        for block in self.blocks:
            x = block(x)
        return self.head(x)


def functional(block):
    x = keras.Input((4,), name="x")
    return keras.Model(x, layers.Dense(2, name="out")(block(6, name="block")(layers.Dense(4, name="first")(x))))


def subclassed():
    model = Whole()
    model(np.zeros((1, 4), "float32"))
    return model


def randomised(model):
    generator = np.random.default_rng(0)
    for weight in model.weights:
        weight.assign(generator.normal(size=weight.shape))
    return model


X = np.random.default_rng(1).normal(size=(5, 4)).astype("float32")


def half(model):
    return tfprune.keep_top(tfprune.saliency.weight_norm(model), 0.5)


def trained(model):
    model.compile("adam", "mse", metrics=["mae"])
    model.fit(X, np.ones((5, 2)), verbose=0)
    return model


@pytest.mark.parametrize(
    ("form", "repair", "twice"),
    [("copy", "zero", False), ("copy", "mean", True), ("graph", "zero", True), ("graph", "mean", False)],
)
def test_a_copy_is_read_as_it_was(form, repair, twice, tmp_path):
    model = randomised(functional(Gated))
    small = tfprune.remove(model, half(model), form=form, repair=repair, data=np.tile(X, (60, 1)))
    if twice:
        small = tfprune.remove(small, half(small), form=form)
    trained(small)
    tfprune.save(small, tmp_path / "small.tfprune")
    loaded = tfprune.load(tmp_path / "small.tfprune")
    np.testing.assert_array_equal(loaded.predict(X, verbose=0), small.predict(X, verbose=0))
    assert tfprune.form_of(loaded).name == form and loaded.count_params() < model.count_params()
    moments = [np.asarray(own) for own in small.optimizer.variables]
    for one, other in zip(moments, loaded.optimizer.variables, strict=True):
        np.testing.assert_array_equal(one, other)
    np.testing.assert_allclose(
        loaded.evaluate(X, np.ones((5, 2)), verbose=0), small.evaluate(X, np.ones((5, 2)), verbose=0)
    )
    assert set(zipfile.ZipFile(tmp_path / "small.tfprune").namelist()) == {"tfprune.json", "arrays.npz"}


@pytest.mark.parametrize("make", [lambda: functional(Silent), subclassed])
def test_without_a_configuration_the_original_is_asked_for(make, tmp_path):
    model = randomised(make())
    before = model.predict(X, verbose=0)
    small = tfprune.remove(model, half(model), form="copy")
    tfprune.save(small, tmp_path / "small.tfprune")
    with zipfile.ZipFile(tmp_path / "small.tfprune") as file:
        known = json.loads(file.read("tfprune.json"))["model"] is not None
    if not known:
        with pytest.raises(ValueError, match=r"holds no configuration of the original .*load\(path, model=original\)"):
            tfprune.load(tmp_path / "small.tfprune")
    loaded = tfprune.load(tmp_path / "small.tfprune", model=model)
    np.testing.assert_array_equal(loaded.predict(X, verbose=0), small.predict(X, verbose=0))
    np.testing.assert_array_equal(model.predict(X, verbose=0), before)


def test_other_forms_are_files_of_keras(tmp_path):
    model = randomised(keras.Sequential([keras.Input((4,)), layers.Dense(6, name="first"), layers.Dense(2)]))
    small = tfprune.remove(model, half(model))
    tfprune.save(small, tmp_path / "small.keras")
    for load in (tfprune.load, keras.saving.load_model):
        np.testing.assert_array_equal(load(tmp_path / "small.keras").predict(X, verbose=0), small.predict(X, verbose=0))


def test_saving_a_copy_the_plain_way_says_so(tmp_path):
    model = functional(Gated)
    small = tfprune.remove(model, half(model), form="copy")
    with pytest.warns(UserWarning, match=r"form 'copy', so that Keras cannot load the file.*tfprune.save"):
        small.save(tmp_path / "small.keras")


def test_what_cannot_be_read_is_refused(tmp_path):
    model = functional(Gated)
    tfprune.save(tfprune.remove(model, half(model), form="copy"), tmp_path / "small.tfprune")
    with pytest.raises(FileNotFoundError, match="there is no file"):
        tfprune.load(tmp_path / "other.tfprune")
    (tmp_path / "broken.tfprune").write_bytes((tmp_path / "small.tfprune").read_bytes()[:200])
    with pytest.raises(ValueError, match="is damaged, or no file of a model"):
        tfprune.load(tmp_path / "broken.tfprune")
    other = keras.Model(model.input, layers.Dense(2)(Gated(8, name="block")(model.layers[1].output)))
    with pytest.raises(ValueError, match="was cut from one with groups of .*Pass the original"):
        tfprune.load(tmp_path / "small.tfprune", model=other)
    with pytest.raises(ValueError, match="the folder .* does not exist"):
        tfprune.save(tfprune.remove(model, half(model), form="copy"), tmp_path / "nowhere" / "small.tfprune")
    silent = randomised(functional(Silent))
    wide = tfprune.widen(
        silent, {name: size + 2 for name, size in tfprune.unit_groups(silent).sizes.items() if size == 6}
    )
    np.testing.assert_allclose(wide(X), silent(X), rtol=1e-5, atol=1e-5)
    assert tfprune.form_of(wide).name == "copy"
    with pytest.raises(ValueError, match="is a copy that was widened or crossed, which cannot be repeated from a file"):
        tfprune.save(wide, tmp_path / "wide.tfprune")


@keras.saving.register_keras_serializable(package="tests")
class Doubled(Gated):
    def call(self, x):
        return 2.0 * super().call(x)


def test_the_form_tells_why_no_other():
    model = randomised(functional(Doubled))
    small = tfprune.remove(model, half(model))
    form = tfprune.form_of(small)
    assert form.name == "layers" and form.refused.keys() == {"class"}
    assert "plain keras.Functional" in form.refused["class"] and "Form" in repr(form)
    ragged = LayerValues(
        {name: np.arange(size) < 1 + k for k, (name, size) in enumerate(tfprune.unit_groups(model).sizes.items())}
    )
    assert tfprune.form_of(tfprune.remove(model, ragged)).name in ("layers", "copy")
    with pytest.raises(ValueError, match="was not cut by remove in this process"):
        tfprune.form_of(model)
    with pytest.raises(
        ValueError, match="form: expected one of 'auto', 'class', 'layers', 'plain', 'copy', 'graph', received"
    ):
        tfprune.remove(model, half(model), form="other")
    with pytest.raises(ValueError, match=r"cannot be cut in the form 'class' \(class: its class is a plain keras"):
        tfprune.remove(model, half(model), form="class")
    assert ops.shape(small(X)) == (5, 2)
