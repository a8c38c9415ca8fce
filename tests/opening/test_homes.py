"""The plain form of blocks whose code reads weights itself: rows of an Embedding, trained and saved as before."""

import os
import subprocess
import sys

import keras
import numpy as np
import pytest
from blocks import NETS, difference, flat, head, made, mask_of, outputs_of, with_policy
from conftest import randomise
from keras import layers, ops

import tfprune
from tfprune import LayerValues
from tfprune.surgery import form_of, remove

pytestmark = pytest.mark.filterwarnings("ignore:.*in training, the code of")

READ = ("shifted_windows", "gated_feed_forward", "raw_weights")


class Gated(layers.Layer):
    """A scale, a table of places and a single number, read by code."""

    def __init__(self, regularizer=None, constraint=None, **kwargs):
        super().__init__(**kwargs)
        self.wide, self.narrow = layers.Dense(8, "relu", name="wide"), layers.Dense(3, name="narrow")
        self.options = {"regularizer": regularizer, "constraint": constraint}

    def build(self, shape):
        self.table = self.add_weight(shape=(*shape[1:-1], 8), name="table", **self.options)
        self.scale = self.add_weight(shape=(8,), name="scale")
        self.share = self.add_weight(shape=(), name="share")
        super().build(shape)

    def call(self, x):
        hidden = self.wide(x) * self.scale + self.table
        return x + self.share * self.narrow(hidden)


def gated(**options):
    inputs = keras.Input((5, 3), name="x")
    x = Gated(name="gated", **options)(inputs)
    return randomise(keras.Model(inputs, head(layers.Flatten()(x)), name="net"))


X = np.random.default_rng(0).normal(size=(40, 5, 3)).astype("float32")
Y = np.random.default_rng(1).normal(size=(40, 2)).astype("float32")
MASK = LayerValues({"gated/wide": np.arange(8) % 2 == 0})


def of_keras_alone(model):
    return all(type(own).__module__.startswith("keras.") for own in model._flatten_layers()) and all(
        type(own).__module__.startswith("keras.") for own in model.operations
    )


def test_the_rows_of_the_weights():
    model = gated()
    small = remove(model, MASK, form="plain")
    assert form_of(small).name == "plain" and of_keras_alone(small)
    shapes = {own.name: tuple(own.embeddings.shape) for own in small.layers if isinstance(own, layers.Embedding)}
    assert shapes == {"gated.table": (5, 4), "gated.scale": (1, 4), "gated.share": (1, 1)}
    copy = remove(model, MASK, form="copy")
    assert small.count_params() == copy.count_params() and form_of(remove(model, MASK)).name == "copy"
    assert difference(flat(copy(X)), flat(small(X))) < 1e-6
    (group,) = tfprune.unit_groups(small)
    again = remove(small, LayerValues({group: [True, True, False, True]}))
    mask = LayerValues({"gated/wide": [True, False, True, False, False, False, True, False]})
    assert difference(flat(remove(model, mask)(X)), flat(again(X))) < 1e-6


@pytest.mark.parametrize("name", READ)
def test_loads_where_neither_the_code_nor_tfprune_is(name, tmp_path):
    model = made(name)
    small = remove(model, mask_of(name, tfprune.unit_groups(model)), form="plain")
    inputs = NETS[name].inputs(3, 6)
    small.save(tmp_path / "small.keras")
    np.savez(tmp_path / "data.npz", x=inputs, y=outputs_of(small, inputs))
    program = (
        "import sys, keras, numpy as np; data = np.load(sys.argv[2]); model = keras.models.load_model(sys.argv[1]); "
        "found = np.reshape(model.predict(data['x'], verbose=0), data['y'].shape); "
        "assert 'tfprune' not in sys.modules; print(np.abs(found - data['y']).max())"
    )
    command = [sys.executable, "-c", program, tmp_path / "small.keras", tmp_path / "data.npz"]
    done = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path, env={**os.environ, "PYTHONPATH": ""})
    assert done.returncode == 0, done.stderr[-2000:]
    assert float(done.stdout.split()[-1]) < 1e-5


@pytest.mark.parametrize("regularizer", [None, "l2"])
@pytest.mark.parametrize("optimizer", ["sgd", "adam"])
def test_training_goes_on_as_in_a_copy(optimizer, regularizer):
    """The moments are carried to the rows, and a step moves them as it moves the weights of the copy."""
    model = gated(regularizer=regularizer)
    model.compile(keras.optimizers.SGD(0.05, momentum=0.9) if optimizer == "sgd" else "adam", "mse")
    model.fit(X, Y, batch_size=10, epochs=2, shuffle=False, verbose=0)
    results = [remove(model, MASK, form=form, keep_optimizer=True) for form in ("copy", "plain")]
    before = flat(results[0](X))
    losses = [own.fit(X, Y, batch_size=10, epochs=2, shuffle=False, verbose=0).history["loss"] for own in results]
    np.testing.assert_allclose(losses[0], losses[1], rtol=1e-4)
    assert difference(flat(results[0](X)), flat(results[1](X))) < 1e-4
    assert difference(before, flat(results[1](X))) > 1e-3


@pytest.mark.parametrize("form", ["copy", "plain", "graph"])
def test_what_a_weight_was_made_with_goes_with_it(form):
    """Frozen ones stay frozen, and a regulariser is counted, in masked models and whatever is cut of them."""
    for mask in (MASK, LayerValues({"gated/wide": np.ones(8, bool)})):
        model = gated(regularizer="l2")
        expected = float(model.losses[0]) if mask is not MASK else None
        small = remove(model, mask, form=form)
        table = next(own for own in small.weights if "table" in own.path)
        assert len(small.losses) == 1
        assert float(small.losses[0]) == pytest.approx(expected or 0.01 * float(ops.sum(table**2)), rel=1e-5)
        masked = tfprune.with_on_nodes(model)
        assert [float(own) for own in masked.losses] == pytest.approx([float(own) for own in model.losses])
        model.get_layer("gated").trainable = False
        assert len(remove(model, mask, form=form).trainable_weights) == 2
        assert len(tfprune.with_on_nodes(model).trainable_weights) == 2


@pytest.mark.parametrize("form", ["copy", "graph"])
def test_a_constraint_holds_while_training_goes_on(form):
    small = remove(gated(constraint="non_neg"), MASK, form=form)
    small.compile("sgd", "mse")
    small.fit(X, Y, verbose=0)
    table = next(own for own in small.weights if "table" in own.path)
    assert ops.convert_to_numpy(table).min() >= 0 and isinstance(table.constraint, keras.constraints.NonNeg)


def test_half_precision():
    for policy in ("mixed_bfloat16", "bfloat16"):
        model = with_policy(policy, gated)
        small = remove(model, MASK, form="plain")
        found, expected = (ops.cast(own(X), "float32") for own in (small, remove(model, MASK, form="copy")))
        assert difference(flat(expected), flat(found)) < 3e-2
        kinds = {weight.dtype for own in small.layers if isinstance(own, layers.Embedding) for weight in own.weights}
        assert kinds == {"float32" if policy.startswith("mixed") else "bfloat16"}


def test_weights_without_a_home():
    for options in ({"constraint": "max_norm"}, {"regularizer": keras.regularizers.OrthogonalRegularizer()}):
        with pytest.raises(ValueError, match="'plain' .*table/held' has a constraint or a regulariser"):
            remove(gated(**options), MASK, form="plain")
        assert form_of(remove(gated(**options), MASK)).name == "copy"
