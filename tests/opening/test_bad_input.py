"""What a user gets to read where a model cannot be opened, masked or cut."""

import keras
import numpy as np
import pytest
from blocks import LENGTH, NETS, LowRank, head, low_rank, made, mask_of
from conftest import randomise
from keras import layers, ops

import tfprune
from tfprune import LayerValues
from tfprune.graph.closing import closed
from tfprune.graph.opened import is_opened
from tfprune.graph.walk import functional
from tfprune.surgery import form_of, remove

X = np.random.default_rng(0).normal(size=(3, 4)).astype("float32")


class Plain(keras.Model):
    """A subclassed model; `between` is what its code does between two layers."""

    def __init__(self, between=ops.relu, **kwargs):
        super().__init__(name="plain", **kwargs)
        self.between = between
        self.one, self.two = layers.Dense(5, name="one"), layers.Dense(2, name="two")

    def call(self, x):
        return self.two(self.between(self.one(x)))


class TwoArguments(Plain):
    def call(self, x, scale):
        return self.two(self.one(x) * scale)


def through_numpy(x):
    return ops.convert_to_tensor(np.asarray(x) * 2.0)


def through_a_branch(x):
    return x if ops.sum(x) > 0 else -x


def random_noise(x):
    return x + keras.random.normal(ops.shape(x))


def fixed_noise(x):
    return x + np.random.normal(size=x.shape)


def test_a_model_that_was_never_called():
    for function in (tfprune.unit_groups, tfprune.with_on_nodes, tfprune.saliency.weight_norm):
        with pytest.raises(ValueError, match=r"'plain' is .* \(Plain\) that is not built.*Call it on data"):
            function(Plain())


def test_a_model_of_several_arguments():
    model = TwoArguments()
    model(X, X[:, :1])
    with pytest.raises(ValueError, match=r"called with several arguments \(.*scale.*Let its call take one argument"):
        tfprune.unit_groups(model)


@pytest.mark.parametrize("between", [through_numpy, through_a_branch])
def test_code_that_keras_cannot_run_without_numbers(between):
    model = Plain(between)
    model(X)
    with pytest.raises(ValueError, match="cannot be followed: Keras could not run it.*Write its call with keras"):
        tfprune.unit_groups(model)


def test_code_that_cannot_be_followed_is_named_by_file_and_line():
    model = Plain(eagerly)
    model(X)
    line = eagerly.__code__.co_firstlineno + 2
    told = rf"cannot be followed: opening/test_bad_input.py, line {line}: NotImplementedError: numbers .*graph.register"
    with pytest.raises(ValueError, match=told):
        tfprune.unit_groups(model)


class Block(layers.Layer):
    """A layer around one thing that its code does."""

    def __init__(self, between, **kwargs):
        super().__init__(**kwargs)
        self.between = between
        self.inner = layers.Dense(5, name="inner")

    def call(self, x):
        return self.between(self.inner(x))


def around(between):
    inputs = keras.Input((4,), name="x")
    x = layers.Dense(6, "relu", name="before")(inputs)
    x = Block(between, name="block")(x)
    x = layers.Dense(5, "relu", name="behind")(x)
    return randomise(keras.Model(inputs, head(x), name="around"))


def eagerly(x):
    if isinstance(x, keras.KerasTensor) and None not in x.shape:
        raise NotImplementedError("numbers are needed here")
    return x


def test_a_block_that_cannot_be_followed_is_a_wall_and_the_rest_is_cut():
    model = around(eagerly)
    graph = tfprune.unit_groups(model)
    assert "behind" in graph and "before" not in graph
    line = eagerly.__code__.co_firstlineno + 2
    assert f"opening/test_bad_input.py, line {line}: NotImplementedError: numbers are needed" in graph.walls["block"]
    assert "block" in graph.fixed["before"][1]
    mask = LayerValues({"behind": np.arange(5) < 3})
    masked = tfprune.with_on_nodes(model)([X, np.atleast_2d(graph.on_nodes(mask)).astype("float32")])
    np.testing.assert_allclose(masked, remove(model, mask)(X), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("between", [random_noise, fixed_noise])
def test_random_numbers_are_no_part_of_a_graph(between):
    model = Plain(between)
    model(X)
    with pytest.raises(ValueError, match="'plain' is a subclassed model .*array whose numbers change with the size"):
        tfprune.unit_groups(model)


class TwoLengths(keras.Model):
    """Adds two sequences, which must be equally long."""

    def __init__(self):
        super().__init__(name="two_lengths")
        self.one, self.two = layers.Dense(5, name="one"), layers.Dense(5, name="two")
        self.out = layers.Dense(2, name="out")

    def call(self, inputs):
        return self.out(ops.relu(self.one(inputs["left"]) + self.two(inputs["right"])))


def sides(left=6, right=6, batch=2):
    generator = np.random.default_rng(left + right)
    return {k: generator.normal(size=(batch, n, 3)).astype("float32") for k, n in (("left", left), ("right", right))}


def test_lengths_that_must_be_equal_are_one():
    model = TwoLengths()
    model(sides())
    randomise(model)
    graph = tfprune.unit_groups(model)
    assert list(graph) == ["one"]
    assert functional(model).inputs[0].shape == (None, None, 3)
    np.testing.assert_allclose(functional(model)(sides(9, 9)), model(sides(9, 9)), rtol=1e-5, atol=1e-6)
    masked, row = tfprune.with_on_nodes(model), np.ones((1, 5), "float32")
    with pytest.raises(ValueError, match="must be equal, but are 9 and 7"):
        tfprune.sweep(model, (sides(9, 7), np.zeros((2, 9, 2), "float32")), row, loss="mse", progress=False)
    assert masked([*sides(9, 9).values(), row]).shape == (2, 9, 2)


def test_data_with_missing_and_unknown_keys():
    model = TwoLengths()
    model(sides())
    for data in ({"left": sides()["left"]}, {**sides(), "rihgt": sides()["left"]}):
        with pytest.raises(ValueError, match="right|rihgt"):
            tfprune.statistics.unit_statistics(model, data)


def test_forms_that_cannot_be_say_why():
    model = made("blocks_in_blocks")
    mask = mask_of("blocks_in_blocks", tfprune.unit_groups(model))
    with pytest.raises(ValueError, match="cannot be cut in the form 'class' .*its class is a plain keras.Functional"):
        remove(model, mask, form="class")
    with pytest.raises(ValueError, match="in the form 'layers' .*outer/middle/first/dense/kernel.* differ"):
        remove(model, mask, form="layers")
    with pytest.raises(ValueError, match="form: expected one of 'auto', 'class', .*received 'block'"):
        remove(model, mask, form="block")
    small = remove(model, mask)
    assert form_of(small).name == "plain" and set(form_of(small).refused) == {"class", "layers"}
    with pytest.raises(ValueError, match="was not cut by remove in this process"):
        form_of(model)


def test_one_width_for_all_blocks_is_all_that_the_class_can_say():
    model = made("configured_model")
    uneven = LayerValues({"block_0/hidden": np.arange(8) < 5, "block_1/hidden": np.arange(8) < 6})
    with pytest.raises(ValueError, match="cannot be cut in the form 'class' .*block_._?.*differ"):
        remove(model, uneven, form="class")
    assert form_of(remove(model, uneven)).name == "plain"


@pytest.mark.parametrize("quantised", [False, True])
def test_layers_inside_with_lora_or_quantised_stay_with_the_way_out(quantised):
    model = low_rank(quantised)
    graph = tfprune.unit_groups(model)
    assert "low/one" not in graph
    way_out = "remove units first, then quantise" if quantised else "merge them first"
    assert way_out in graph.walls["low/one"]
    assert "low/two" in graph
    assert isinstance(model.get_layer("low"), LowRank)


def test_closed_and_registered_layers_are_not_opened():
    class Shut(layers.Layer):
        def __init__(self, **kwargs):
            super().__init__(**kwargs)
            self.inner = layers.Dense(5, name="inner")

        def call(self, x):
            return ops.relu(self.inner(x))

    def build():
        inputs = keras.Input((4,), name="x")
        return keras.Model(inputs, head(Shut(name="shut")(inputs)))

    assert "shut/inner" in tfprune.unit_groups(build())
    closed(Shut)
    shut = build()
    assert not is_opened(functional(shut)) and not len(tfprune.unit_groups(shut))

    class Taught(Shut):
        pass

    @tfprune.graph.register(Taught)
    def taught(step, inputs):
        units = step.emit(5)
        step.weight(step.operation.inner.kernel, step.contract(inputs), units)
        step.weight(step.operation.inner.bias, units)
        return inputs.replaced(-1, units)

    inputs = keras.Input((4,), name="x")
    model = keras.Model(inputs, head(Taught(name="taught")(inputs)))
    assert not is_opened(functional(model)) and list(tfprune.unit_groups(model)) == ["taught"]


def test_masks_that_do_not_fit():
    model = made("holder")
    with pytest.raises(ValueError, match="all 5 units of group 'holder/listed_0' are off"):
        remove(model, LayerValues({"holder/listed_0": np.zeros(5, bool)}))
    with pytest.raises(ValueError, match="listed"):
        remove(model, LayerValues({"holder/listed": np.ones(5, bool)}))
    with pytest.raises(ValueError, match="holder/listed_0"):
        remove(model, LayerValues({"holder/listed_0": np.ones(4, bool)}))


def test_data_of_another_shape():
    model = made("subclassed_recurrent")
    assert NETS["subclassed_recurrent"].inputs(2, LENGTH).shape == (2, LENGTH, 3)
    with pytest.raises(ValueError, match=r"expects? .*3|shape"):
        tfprune.statistics.unit_statistics(model, np.ones((2, LENGTH, 4), "float32"))
