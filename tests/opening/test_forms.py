"""The forms of what was cut, and their files, as people meet them: without get_config, after scores, under any name."""

import keras
import numpy as np
import pytest
import tensorflow as tf
from blocks import difference, flat, mask_of_graph
from conftest import randomise, slow_but
from keras import layers

import tfprune
from tfprune import LayerValues
from tfprune.surgery import form_of, remove

X = np.random.default_rng(0).normal(size=(20, 6)).astype("float32")
Y = np.random.default_rng(1).normal(size=(20, 2)).astype("float32")


class Net(keras.Model):
    """As tutorials have it: numbers in the constructor, layers in a list, no get_config."""

    def __init__(self, hidden=12, depth=3, **kwargs):
        super().__init__(**kwargs)
        self.hidden, self.depth = hidden, depth
        self.first = layers.Dense(6, name="first")
        self.wide = [layers.Dense(hidden, "relu", name=f"wide_{k}") for k in range(depth)]
        self.narrow = [layers.Dense(6, name=f"narrow_{k}") for k in range(depth)]
        self.last = layers.Dense(2, name="last")

    def call(self, x):
        x = self.first(x)
        for wide, narrow in zip(self.wide, self.narrow, strict=True):
            x = x + narrow(wide(x))
        return self.last(x)


class Reading(Net):
    """The same, whose code reads a weight: no plain form comes before a copy."""

    def build(self, shape):
        self.scale = self.add_weight(shape=(self.hidden,), name="scale")
        super().build(shape)

    def call(self, x):
        x = self.first(x)
        for wide, narrow in zip(self.wide, self.narrow, strict=True):
            x = x + narrow(wide(x) * self.scale)
        return self.last(x)


class Mix(layers.Layer):
    """A branch; what it is added to stands outside."""

    def __init__(self, hidden, **kwargs):
        super().__init__(**kwargs)
        self.wide = layers.Dense(hidden, "relu", name="wide")

    def build(self, shape):
        self.narrow = layers.Dense(shape[-1], name="narrow")
        self.gain = self.add_weight(shape=(self.wide.units,), name="gain")
        self.wide.build(shape)
        self.narrow.build((*shape[:-1], self.wide.units))

    def call(self, x):
        return self.narrow(self.wide(x) * self.gain)


def subclassed(kind=Net):
    model = kind(name="net")
    model.compile("sgd", "mse")
    model(X[:2])
    return randomise(model)


def branches(norm=None):
    """Three branches, added outside: by a layer, by an operator, two at once; with norms before or behind."""
    inputs = keras.Input((6,), name="x")
    x = layers.Dense(6, name="stem")(inputs)
    for k in range(2):
        y = layers.LayerNormalization(name=f"norm_{k}")(x) if norm == "first" else x
        y = layers.Dropout(0.1, name=f"drop_{k}")(Mix(8 + k, name=f"mix_{k}")(y))
        x = layers.Add(name=f"plus_{k}")([x, y]) if k else x + y
        x = layers.LayerNormalization(name=f"norm_{k}")(x) if norm == "last" else x
    x = layers.Add(name="three")([x, Mix(5, name="mix_2")(x), Mix(7, name="mix_3")(x)])
    return randomise(keras.Model(inputs, layers.Dense(2, name="head")(x), name="branches"))


ALL_ALIKE = LayerValues({f"wide_{k}": np.arange(12) % 3 > 0 for k in range(3)})


@pytest.mark.parametrize("mask", [ALL_ALIKE, LayerValues({"blocks": [True, False, True]})], ids=["units", "blocks"])
def test_a_class_that_says_no_configuration_of_its_own(mask, tmp_path):
    """Keras finds one for models by itself, which holds the defaults; what was cut says what it was built with."""
    if "hidden" not in subclassed().get_config():
        pytest.skip("this Keras finds no configuration of models by itself")
    small = remove(subclassed(), mask)
    assert form_of(small).name == "class" and type(small) is Net
    assert small.get_config()["hidden"] == small.hidden and small.get_config()["depth"] == small.depth
    assert (small.hidden, small.depth) != (12, 3)
    for save, load in ((small.save, keras.models.load_model), (lambda path: tfprune.save(small, path), tfprune.load)):
        save(tmp_path / "small.keras")
        back = load(tmp_path / "small.keras", custom_objects={"Net": Net})
        assert difference(flat(small(X)), flat(back(X))) < 1e-6


def test_a_class_whose_configuration_is_false_is_not_built():
    class False_(Net):
        def get_config(self):
            return {"hidden": 12, "depth": 3}

    small = remove(subclassed(False_), ALL_ALIKE)
    assert "get_config of 'false_' does not say with which hidden it was built" in form_of(small).refused["class"]
    assert form_of(small).name == "plain"


LOOKS = {
    "least_squares": lambda model: tfprune.saliency.least_squares(model, X),
    "loss_change": lambda model: tfprune.saliency.loss_change(model, (X, Y)),
    "sweep": lambda model: tfprune.sweep(model, (X, Y), np.ones((1, 18)), progress=False),
    "statistics": lambda model: tfprune.statistics.unit_statistics(model, X),
    "activations": lambda model: tfprune.neurons.activations(model, X, "wide_0"),
    "explain": lambda model: tfprune.relevance.explain(model, X, target=0),
    "remove": lambda model: remove(model, mask_of_graph(tfprune.unit_groups(model)), repair="mean", data=X),
    "fit": lambda model: model.fit(X, Y, verbose=0),
    "flops": lambda model: tfprune.graph.count_flops(tfprune.unit_groups(model)),
}


@pytest.mark.filterwarnings("ignore:.*300")
@pytest.mark.parametrize("look", slow_but(["least_squares", "remove"], LOOKS))
def test_what_was_looked_at_has_the_same_forms(look):
    """What the package compiles for a model hangs on it, and goes into no copy."""
    model = subclassed(Reading)
    LOOKS[look](model)
    mask = mask_of_graph(tfprune.unit_groups(model))
    small = remove(model, mask)
    assert form_of(small).name == "copy" and type(small) is Reading
    assert "_tfprune_made" not in vars(small) and "_tfprune_opened" not in vars(small)
    assert difference(flat(remove(model, mask, form="plain")(X)), flat(small(X))) < 1e-5


@pytest.mark.parametrize("norm", [None, "first", "last"])
@pytest.mark.parametrize("form", ["copy", "layers", "plain"])
def test_whole_branches_that_are_added_outside(form, norm):
    model = branches(norm)
    graph = tfprune.unit_groups(model)
    assert graph["blocks"].size == 4
    masked = tfprune.with_on_nodes(model, "blocks")
    for on in ([False, True, True, True], [True, False, False, True], [False, True, False, False]):
        small = remove(model, LayerValues({"blocks": on}), form=form)
        assert form_of(small).name == form
        expected = flat(masked([X, np.array([on], "float32")]))
        assert difference(expected, flat(small(X))) < 1e-5
        assert difference(flat(model(X)), expected) > 1e-3
        assert small.count_params() == tfprune.graph.count_parameters(graph, LayerValues({"blocks": on}))
        if form != "plain":
            left = [layer.name for layer in small.layers if isinstance(layer, Mix)]
            assert left == [f"mix_{k}" for k in range(4) if on[k]]


@pytest.mark.parametrize("form", ["copy", "layers", "plain", "graph"])
def test_names_stay(form):
    """Groups and layers are called as before, so that masks and get_layer fit what was cut."""
    model = branches()
    mask = mask_of_graph(tfprune.unit_groups(model))
    small = remove(model, mask, form=form)
    if form != "plain":
        parted = "." if form == "graph" else "/"
        assert set(tfprune.unit_groups(small)) == {name.replace("/", parted) for name in mask}
    names = {layer.name for layer in small.layers}
    assert names >= {"stem", "head"} | (set() if form in ("plain", "graph") else {f"mix_{k}" for k in range(4)})


def test_a_model_of_keras_layers_has_a_form():
    model = keras.Sequential([keras.Input((6,)), layers.Dense(4, name="hidden"), layers.Dense(2)])
    assert form_of(remove(model, LayerValues({"hidden": [True, False, True, True]}))).name == "plain"


@pytest.mark.parametrize("name", ["small.tfprune", "small", "small.keras"])
@pytest.mark.parametrize("form", ["layers", "plain", "copy"])
def test_files_of_any_name(form, name, tmp_path):
    model = branches()
    small = remove(model, mask_of_graph(tfprune.unit_groups(model)), form=form)
    tfprune.save(small, tmp_path / name)
    back = tfprune.load(tmp_path / name, custom_objects={"Mix": Mix})
    assert difference(flat(small(X)), flat(back(X))) < 1e-6
    assert [own.name for own in tmp_path.iterdir()] == [name]


def test_a_file_whose_classes_are_missing_says_the_two_ways_out(tmp_path, monkeypatch):
    # Some versions of Keras import the module of a class that they do not know.
    monkeypatch.setattr(Mix, "__module__", "elsewhere")
    model = branches()
    tfprune.save(remove(model, mask_of_graph(tfprune.unit_groups(model)), form="copy"), tmp_path / "small.tfprune")
    with pytest.raises(ValueError, match=r"cannot be built .*custom_objects=.*MyLayer.*load\(path, model=original\)"):
        tfprune.load(tmp_path / "small.tfprune")
    back = tfprune.load(tmp_path / "small.tfprune", model=branches())
    assert back.count_params() < model.count_params()


def test_the_advice_fits_the_reason():
    model = branches()
    mask = mask_of_graph(tfprune.unit_groups(model))
    with pytest.raises(ValueError, match="its class is a plain keras.Functional.*mix_3/wide: take another form"):
        remove(model, mask, form="class")
    with pytest.raises(ValueError, match="as many of each in all blocks"):
        remove(subclassed(Net), LayerValues({"wide_0": np.arange(12) > 5}), form="class")


def test_saving_a_graph_by_keras_says_what_it_needs(tmp_path):
    model = branches()
    mask = mask_of_graph(tfprune.unit_groups(model))
    with pytest.warns(UserWarning, match="at most where tfprune is imported"):
        remove(model, mask, form="graph").save(tmp_path / "graph.keras")
    with pytest.warns(UserWarning, match="would build the old widths"):
        remove(model, mask, form="copy").save(tmp_path / "copy.keras")


def test_preprocessing_is_no_wall_and_closed_layers_say_that_they_were_closed():
    words = keras.Input((1,), dtype="string", name="words")
    x = layers.Embedding(5, 4, name="embedding")(layers.StringLookup(vocabulary=["a", "b"], name="lookup")(words))
    model = keras.Model(words, layers.Dense(2, name="head")(layers.Dense(3, name="hidden")(layers.Flatten()(x))))
    graph = tfprune.unit_groups(model)
    assert not graph.walls and list(graph) == ["embedding", "hidden"]
    given = tf.constant([["a"], ["b"], ["c"]])
    mask = mask_of_graph(graph)
    masked = tfprune.with_on_nodes(model)([given, tf.constant(graph.on_nodes(mask), "float32")])
    assert difference(flat(masked), flat(remove(model, mask)(given))) < 1e-6

    @tfprune.graph.closed
    class Shut(Mix):
        pass

    inputs = keras.Input((6,), name="x")
    shut = keras.Model(inputs, layers.Dense(2)(Shut(4, name="shut")(inputs)))
    assert tfprune.unit_groups(shut).walls == {"shut": "it was closed by tfprune.graph.closed"}
