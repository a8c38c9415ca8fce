"""Code that runs at certain lengths alone: lengths that the package finds, and those that a user tells."""

import keras
import numpy as np
import pytest
from blocks import difference, flat, head, mask_of_graph
from conftest import randomise
from keras import layers, ops

import tfprune
from tfprune.graph.walk import functional
from tfprune.surgery import form_of, remove

generator = np.random.default_rng(0)


class Windows(layers.Layer):
    """Mixes within windows of four places, as Swin does: other lengths than multiples of four do not run."""

    def __init__(self, **kwargs):
        super().__init__(**kwargs)
        self.wide, self.narrow = layers.Dense(8, "relu", name="wide"), layers.Dense(3, name="narrow")

    def call(self, x):
        length = x.shape[1] or ops.shape(x)[1]
        parts = ops.reshape(x, (-1, length // 4, 4, 3))
        parts = self.narrow(self.wide(parts + ops.mean(parts, axis=2, keepdims=True)))
        return x + ops.reshape(parts, (-1, length, 3))


class Table(layers.Layer):
    """Adds what it has learned of 24 places, no more and no fewer."""

    def __init__(self, **kwargs):
        super().__init__(**kwargs)
        self.wide, self.narrow = layers.Dense(8, "relu", name="wide"), layers.Dense(3, name="narrow")

    def build(self, shape):
        self.table = self.add_weight(shape=(24, shape[-1]), name="table")

    def call(self, x):
        return self.narrow(self.wide(x + self.table))


class Both(layers.Layer):
    """A place in the one sequence for six in the other."""

    def __init__(self, **kwargs):
        super().__init__(**kwargs)
        self.short = layers.Dense(6, name="short")

    def build(self, shapes):
        self.short.build(shapes["short"])

    def call(self, inputs):
        long = ops.reshape(inputs["long"], (-1, 4, 6))
        return ops.relu(self.short(inputs["short"]) + ops.mean(long, axis=-1, keepdims=True))


def images():
    """Halves its images twice and doubles them again, in one layer."""

    class UpAndDown(layers.Layer):
        def __init__(self, **kwargs):
            super().__init__(**kwargs)
            self.down = [layers.Conv2D(4, 3, 2, "same", activation="relu", name=f"down_{k}") for k in range(2)]
            self.up = [layers.Conv2DTranspose(4, 2, 2, activation="relu", name=f"up_{k}") for k in range(2)]

        def call(self, x):
            first = self.down[0](x)
            second = ops.concatenate([self.up[0](self.down[1](first)), first], axis=-1)
            return ops.concatenate([self.up[1](second), x], axis=-1)

    inputs = keras.Input((None, None, 3), name="x")
    x = layers.GlobalAveragePooling2D()(UpAndDown(name="unet")(inputs))
    return randomise(keras.Model(inputs, layers.Dense(2, name="out")(x)))


def around(block, name):
    inputs = keras.Input((None, 3), name="x")
    return randomise(keras.Model(inputs, head(layers.GlobalAveragePooling1D()(block(name=name)(inputs)))))


def two_inputs():
    inputs = {"short": keras.Input((None, 2), name="short"), "long": keras.Input((None,), name="long")}
    return randomise(keras.Model(inputs, head(Both(name="both")(inputs))))


def masked_is_removed(model, *inputs, form="auto", whole=()):
    graph = tfprune.unit_groups(model)
    mask = mask_of_graph(graph, whole=whole)
    small = remove(model, mask, form=form)
    on = np.atleast_2d(graph.on_nodes(mask)).astype("float32")
    masked = tfprune.with_on_nodes(model)
    for x in inputs:
        given = list(x.values()) if isinstance(x, dict) else [x]
        expected = flat(masked([*given, on]))
        assert difference(expected, flat(small(x))) < 1e-5
        assert difference(expected, flat(model(x))) > 1e-3
    return small


def sequence(length, channels=3):
    return generator.normal(size=(3, length, channels)).astype("float32")


def test_windows_of_any_length_that_they_take():
    model = around(Windows, "windows")
    assert "windows/wide" in tfprune.unit_groups(model)
    assert functional(model).inputs[0].shape == (None, None, 3)
    masked_is_removed(model, sequence(4), sequence(12), sequence(40))


def test_images_of_any_size_that_they_take():
    model = images()
    assert {"unet/down_0", "unet/down_1", "unet/up_0", "unet/up_1"} <= set(tfprune.unit_groups(model))
    small, large = (generator.normal(size=(2, *size, 3)).astype("float32") for size in ((8, 12), (20, 16)))
    masked_is_removed(model, small, large)


@pytest.mark.parametrize("shape", [(None, 24, 3), (100, 24, None), np.zeros((5, 24, 3)).shape, [[None, 24, 3]]])
def test_a_length_that_is_told(shape):
    model = around(Table, "table")
    assert "unit_groups(model, input_shapes=...)" in tfprune.unit_groups(model).walls["table"]
    graph = tfprune.unit_groups(model, input_shapes=shape)
    assert "table/wide" in graph and not graph.walls
    # It is remembered, by what is cut too.
    assert "table/wide" in tfprune.unit_groups(model)
    small = masked_is_removed(model, sequence(24))
    assert tfprune.unit_groups(small).sizes["table/wide"] < 8
    masked_is_removed(small, sequence(24))


@pytest.mark.parametrize("form", ["copy", "layers"])
def test_what_was_told_stays_with_what_is_cut(form):
    class Configured(Table):
        def __init__(self, units=8, **kwargs):
            super().__init__(**kwargs)
            self.units, self.wide = units, layers.Dense(units, "relu", name="wide")

        def get_config(self):
            return super().get_config() | {"units": self.units}

    model = around(Configured, "table")
    tfprune.unit_groups(model, input_shapes=(None, 24, 3))
    small = masked_is_removed(model, sequence(24), form=form, whole=("table/narrow",))
    assert form_of(small).name == form
    assert isinstance(small.get_layer("table"), Configured)
    assert not tfprune.unit_groups(small).walls


def test_data_of_another_length_than_was_told():
    model = around(Table, "table")
    tfprune.unit_groups(model, input_shapes=(None, 24, 3))
    with pytest.raises(ValueError, match=r"24"):
        tfprune.statistics.unit_statistics(model, sequence(12))


def test_scores_and_repairs_at_a_length_that_was_told():
    model = around(Table, "table")
    tfprune.unit_groups(model, input_shapes=(None, 24, 3))
    x = generator.normal(size=(300, 24, 3)).astype("float32")
    scores = tfprune.saliency.least_squares(model, x)
    mask = tfprune.keep_top(scores, 0.25)
    errors = [
        float(np.mean((remove(model, mask, repair=repair, data=x)(x) - model(x)) ** 2))
        for repair in ("zero", "least_squares")
    ]
    assert errors[1] < errors[0]


def test_a_sequential_model_and_a_subclassed_one():
    model = randomise(keras.Sequential([keras.Input((None, 3)), Table(name="table"), layers.Dense(2, name="out")]))
    assert "table/wide" in tfprune.unit_groups(model, input_shapes=(None, 24, 3))

    class Own(keras.Model):
        def __init__(self):
            super().__init__(name="own")
            self.table, self.out = Table(name="table"), layers.Dense(2, name="out")

        def call(self, x):
            return self.out(self.table(x))

    own = Own()
    own(sequence(24))
    assert "table/wide" in tfprune.unit_groups(own, input_shapes=(None, 24, 3))
    with pytest.raises(ValueError, match="input_shapes of 'inputs': expected lengths of at least 1 where.*received"):
        tfprune.unit_groups(own, input_shapes=(None, 12, 3))


def test_lengths_of_several_inputs():
    model = two_inputs()
    assert "both" in tfprune.unit_groups(model).walls
    graph = tfprune.unit_groups(model, input_shapes={"long": (None, 24), "short": (None, 4, 2)})
    assert "both/short" in graph
    x = {"long": sequence(24)[..., 0], "short": sequence(4, 2)}
    masked_is_removed(model, x)


class Ramp(Table):
    """Adds numbers from zero to one, however long the sequence is: not the same numbers at two lengths."""

    def build(self, shape):
        pass

    def call(self, x):
        return self.narrow(self.wide(x + np.linspace(0.0, 1.0, x.shape[1] or 5, dtype="float32")[:, None]))


def test_a_length_that_the_package_had_to_choose():
    with pytest.warns(UserWarning, match=r"input 'x' was taken as \(None, 13, 3\). Tell the shapes.*input_shapes"):
        assert "ramp/wide" in tfprune.unit_groups(around(Ramp, "ramp"))
    model = around(Ramp, "ramp")
    assert "ramp/wide" in tfprune.unit_groups(model, input_shapes=(None, 20, 3))
    assert functional(model).inputs[0].shape == (None, 20, 3)


NOT_FITTING = {
    "another rank": (24, 3),
    "channels that the model has otherwise": (None, 24, 4),
    "no length": (None, 0, 3),
    "two for one input": [(None, 24, 3), (None, 24, 3)],
    "another name": {"y": (None, 24, 3)},
}


@pytest.mark.parametrize("shapes", NOT_FITTING.values(), ids=NOT_FITTING)
def test_shapes_that_do_not_fit(shapes):
    with pytest.raises(ValueError, match=r"input_shapes.*expected (lengths of at least 1|one for each of).*received"):
        tfprune.unit_groups(around(Table, "table"), input_shapes=shapes)


@pytest.mark.parametrize("shapes", ["24", 24, (None, 24.0, 3), ((None, 24, 3), 3)])
def test_what_is_no_shape(shapes):
    with pytest.raises(TypeError, match="input_shapes: expected the shape .*received"):
        tfprune.unit_groups(around(Table, "table"), input_shapes=shapes)
    with pytest.raises(TypeError, match="expected a keras.Model"):
        tfprune.unit_groups("model", input_shapes=(None, 3))


def test_a_model_that_needs_no_opening_takes_them_too():
    model = keras.Sequential([keras.Input((4,)), layers.Dense(3, name="hidden"), layers.Dense(2)])
    assert list(tfprune.unit_groups(model, input_shapes=(None, 4))) == ["hidden"]
    with pytest.raises(ValueError, match="input_shapes of 'keras_tensor.* its own elsewhere; received"):
        tfprune.unit_groups(model, input_shapes=(None, 5))


def test_a_file_keeps_what_was_told(tmp_path):
    model = around(Table, "table")
    tfprune.unit_groups(model, input_shapes=(None, 24, 3))
    small = masked_is_removed(model, sequence(24), form="copy")
    tfprune.save(small, tmp_path / "small.tfprune")
    x = sequence(24)
    for options in ({"custom_objects": {"Table": Table}}, {"model": around(Table, "table")}):
        back = tfprune.load(tmp_path / "small.tfprune", **options)
        assert difference(flat(small(x)), flat(back(x))) < 1e-6
        assert not tfprune.unit_groups(back).walls


def test_a_length_at_which_the_code_does_not_run_is_named():
    graph = tfprune.unit_groups(around(Table, "table"), input_shapes=(None, 23, 3))
    assert "at the input_shapes that were told, (None, 23, 3)" in graph.walls["table"]
    assert "\x1b" not in graph.walls["table"] and "tell one" not in graph.walls["table"]
