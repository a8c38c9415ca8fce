"""Each rule of relevance against its replica, and the two consistency tables of the source."""

import keras
import numpy as np
import pytest
import replicas_relevance as replicas
from conftest import randomise
from keras import layers

from tfprune.relevance import Composite, explain, rules

ONES = {
    "gradient": dict(linear="gradient", nonlinearity="gradient", product="gradient", flow="sensitivity"),
}


def one_layer(layer, shape):
    """A model of one layer, in float64."""
    return randomise(keras.Sequential([keras.Input(shape, dtype="float64", name="x"), layer]))


def relevance_of(model, x, start, composite, **options):
    return explain(model, x, method=composite, start=start, target=0, **options)


# Linear steps ---------------------------------------------------------------------------------------------------------

LINEAR = [
    ("gradient", rules.Gradient(), {}),
    ("normalized", rules.Normalized(), {}),
    ("normalized", rules.Normalized(epsilon=0.3), {"epsilon": 0.3}),
    ("normalized", rules.Normalized(epsilon=0.3, biases=False), {"epsilon": 0.3, "biases": False}),
    ("gamma", rules.Gamma(gamma=0.7, epsilon=0.0), {"gamma": 0.7}),
    ("alpha_beta", rules.AlphaBeta(alpha=1.5, beta=0.5, epsilon=0.0), {"alpha": 1.5, "beta": 0.5}),
    ("z_plus", rules.ZPlus(epsilon=0.0), {}),
    ("w_square", rules.WSquare(epsilon=0.0), {}),
    ("flat", rules.Flat(epsilon=0.0), {}),
    ("z_box", rules.ZBox(low=-3.0, high=2.5, epsilon=0.0), {"low": -3.0, "high": 2.5}),
    ("z_box", rules.ZBox(low=-3.0, high=2.5, epsilon=0.0, biases=True), {"low": -3.0, "high": 2.5, "biases": True}),
]
# Whether a bias counts as an input is an option of every rule for weights.
WEIGHT_RULES = {
    "normalized": rules.Normalized,
    "gamma": rules.Gamma,
    "alpha_beta": rules.AlphaBeta,
    "z_plus": rules.ZPlus,
    "w_square": rules.WSquare,
    "flat": rules.Flat,
    "z_box": rules.ZBox,
}
LINEAR += [(name, rule(epsilon=0.0, biases=False), {"biases": False}) for name, rule in WEIGHT_RULES.items()]


@pytest.mark.parametrize("name, rule, options", LINEAR, ids=lambda value: str(value) if isinstance(value, str) else "")
def test_linear_rules_on_a_dense_layer(name, rule, options, generator):
    model = one_layer(layers.Dense(3, dtype="float64", name="dense"), (5,))
    w, b = model.get_weights()
    x, start = generator.normal(size=(4, 5)), generator.normal(size=(4, 3))
    found = relevance_of(model, x, start, Composite(linear=rule))
    for k in range(4):
        inputs, biases = replicas.linear(name, x[k], w, b, start[k], **options)
        np.testing.assert_allclose(found.inputs[k], inputs, rtol=1e-6, atol=1e-9)
        own = found.biases["dense"][k] if "dense" in found.biases else np.zeros(3)
        np.testing.assert_allclose(own, biases, rtol=1e-6, atol=1e-9)


CONVOLUTIONS = [
    layers.Conv1D(3, 2, dtype="float64", padding="causal", name="layer"),
    layers.Conv1DTranspose(2, 3, strides=2, dtype="float64", name="layer"),
    layers.DepthwiseConv1D(2, depth_multiplier=2, dtype="float64", name="layer"),
    layers.BatchNormalization(dtype="float64", name="layer"),
    layers.AveragePooling1D(2, dtype="float64", name="layer"),
]


@pytest.mark.parametrize("name, rule", [("normalized", rules.Normalized()), ("z_plus", rules.ZPlus(epsilon=0.0))])
@pytest.mark.parametrize("layer", CONVOLUTIONS, ids=lambda layer: type(layer).__name__)
def test_linear_rules_on_other_layers_are_those_of_their_matrix(layer, name, rule, generator):
    layer = type(layer).from_config(layer.get_config())
    model = one_layer(layer, (6, 2))
    matrix, offset = replicas.matrix_of(lambda x: model(x), (6, 2))
    x = generator.normal(size=(2, 6, 2))
    start = generator.normal(size=(2, *model.output_shape[1:]))
    found = relevance_of(model, x, start, Composite(linear=rule))
    for k in range(2):
        inputs, biases = replicas.linear(name, x[k].ravel(), matrix, offset, start[k].ravel())
        np.testing.assert_allclose(found.inputs[k].ravel(), inputs, rtol=1e-6, atol=1e-9)
        total = found.biases["layer"][k].sum() if "layer" in found.biases else 0.0
        np.testing.assert_allclose(total, biases.sum(), rtol=1e-6, atol=1e-9)


def test_a_subtraction_has_negative_weights():
    x, y = keras.Input((2,), dtype="float64", name="x"), keras.Input((2,), dtype="float64", name="y")
    model = keras.Model([x, y], layers.Subtract(dtype="float64")([x, y]))
    data = [np.array([[3.0, 1.0]]), np.array([[1.0, -2.0]])]
    found = relevance_of(model, data, np.ones((1, 2)), Composite(linear=rules.ZPlus()))
    # 3 - 1: only 3 pushes up. 1 + 2: both do.
    np.testing.assert_allclose(found.inputs[0], [[1.0, 1 / 3]], rtol=1e-6)
    np.testing.assert_allclose(found.inputs[1], [[0.0, 2 / 3]], rtol=1e-6, atol=1e-12)


def test_an_input_of_zero_and_a_sum_of_zero():
    model = one_layer(layers.Dense(1, use_bias=False, dtype="float64"), (2,))
    model.set_weights([np.array([[1.0], [1.0]])])
    found = relevance_of(model, np.array([[1.0, -1.0], [0.0, 2.0]]), np.ones((2, 1)), Composite())
    np.testing.assert_array_equal(found.inputs, [[0.0, 0.0], [0.0, 1.0]])
    np.testing.assert_array_equal(found.delta, [1.0, 0.0])


# Nonlinearities -------------------------------------------------------------------------------------------------------


def sigmoid(a):
    return 1.0 / (1.0 + np.exp(-a))


FUNCTIONS = {
    "relu": (lambda a: np.maximum(a, 0.0), lambda a: float(a > 0)),
    "tanh": (np.tanh, lambda a: 1.0 - np.tanh(a) ** 2),
    "sigmoid": (sigmoid, lambda a: sigmoid(a) * (1.0 - sigmoid(a))),
    "softplus": (lambda a: np.log1p(np.exp(a)), sigmoid),
}


@pytest.mark.parametrize("function", FUNCTIONS)
@pytest.mark.parametrize("rule", ["ignore", "gradient", "slope", "repeat", "guided"])
def test_nonlinearity_rules(rule, function):
    model = one_layer(layers.Activation(function, dtype="float64", name="f"), (6,))
    x = np.array([[-2.0, -0.3, 1e-9, 0.2, 1.5, 3.0]])
    start = np.array([[0.5, -1.0, 2.0, 1.0, -0.7, 0.3]])
    flow = "relevance" if rule == "ignore" else "sensitivity"
    found = relevance_of(model, x, start, Composite(linear="gradient", nonlinearity=rule, flow=flow))
    expected = [replicas.nonlinearity(rule, *FUNCTIONS[function], a, r) for a, r in zip(x[0], start[0], strict=True)]
    np.testing.assert_allclose(found.inputs[0], [inputs for inputs, _ in expected], rtol=1e-6, atol=1e-7)
    biases = found.biases["f/f(0)"][0] if "f/f(0)" in found.biases else np.zeros(6)
    np.testing.assert_allclose(biases, [bias for _, bias in expected], rtol=1e-9, atol=1e-12)


def test_the_slope_at_zero_is_the_derivative():
    model = one_layer(layers.Activation("tanh", dtype="float64"), (2,))
    composite = Composite(linear="gradient", nonlinearity="slope", flow="sensitivity")
    found = relevance_of(model, np.array([[0.0, 1e-12]]), np.ones((1, 2)), composite)
    np.testing.assert_allclose(found.inputs, [[1.0, 1.0]], rtol=1e-9)


def test_slope_of_differences():
    model = one_layer(layers.Activation("tanh", dtype="float64"), (3,))
    x, baseline = np.array([[0.5, -1.0, 0.2]]), np.array([1.5, 0.3, 0.2])
    found = explain(model, x, method="compare_to_baseline", baseline=baseline, target=1)
    slope = (np.tanh(-1.0) - np.tanh(0.3)) / (-1.0 - 0.3)
    np.testing.assert_allclose(found.multipliers, [[0.0, slope, 0.0]], rtol=1e-12)
    same = explain(model, x, method="compare_to_baseline", baseline=baseline, target=2)
    np.testing.assert_allclose(same.multipliers[0, 2], 1.0 - np.tanh(0.2) ** 2, rtol=1e-9)


# Maxima ---------------------------------------------------------------------------------------------------------------

ENTRIES = [[1.0, -2.0, 3.0, 0.5], [-1.0, -0.5, -2.0, -4.0], [-1.0, 2.0, -3.0, -0.1]]


@pytest.mark.parametrize("rule", ["gradient", "radial"])
@pytest.mark.parametrize("layer", [layers.MaxPooling1D(4), layers.GlobalMaxPooling1D()], ids=lambda x: type(x).__name__)
def test_maximum_rules(layer, rule):
    model = one_layer(type(layer).from_config({**layer.get_config(), "dtype": "float64"}), (4, 1))
    x = np.array(ENTRIES)[..., None]
    start = np.full((3, *model.output_shape[1:]), 0.7)
    composite = Composite(maximum=rule, flow="relevance")
    found = explain(model, x, method=composite, start=start, target=0)
    expected = [replicas.maximum(rule, entries, 0.7) for entries in ENTRIES]
    np.testing.assert_allclose(found.inputs[..., 0], expected, rtol=1e-12)


def test_radial_shares_as_multipliers_keep_the_sum():
    model = one_layer(layers.GlobalMaxPooling1D(dtype="float64"), (4, 1))
    composite = Composite(linear="gradient", nonlinearity="slope", maximum="radial", flow="multipliers")
    found = explain(model, np.array(ENTRIES)[..., None], method=composite, target=0)
    expected = [replicas.maximum("radial", entries, max(entries)) for entries in ENTRIES]
    np.testing.assert_allclose(found.inputs[..., 0], expected, rtol=1e-12)
    np.testing.assert_allclose(found.delta, 0.0, atol=1e-12)


@pytest.mark.parametrize("padding", ["same", "valid"])
@pytest.mark.parametrize("rank", [1, 2, 3])
def test_windows_of_pooling(rank, padding, generator):
    """Overlapping windows with padding: the shares of the largest entry alone are those of the gradient."""
    # TensorFlow has no pooling over three axes in float64.
    dtype = "float64" if rank < 3 else "float32"
    layer = getattr(layers, f"MaxPooling{rank}D")(3, strides=2, padding=padding, dtype=dtype)
    model = keras.Sequential([keras.Input((5, 6, 4)[:rank] + (2,), dtype=dtype), layer])
    x = generator.normal(size=(2, *model.input_shape[1:]))
    start = generator.normal(size=(2, *model.output_shape[1:]))
    baseline = x - 0.05 * generator.random(size=x.shape)  # so near that the order stays what it was
    options = {"linear": "gradient", "nonlinearity": "slope_of_differences", "flow": "multipliers"}
    gradient = relevance_of(model, x, start, Composite(**ONES["gradient"])).inputs
    for rule in ("larger_maximum", "folded_maximum"):
        found = relevance_of(model, x, start, Composite(maximum=rule, **options), baseline=baseline)
        np.testing.assert_allclose(found.inputs, gradient * (x - baseline), rtol=1e-5, atol=1e-6)


def test_two_maxima_of_differences():
    """The soft maximum's limit, and a + relu(b - a), against replicas; the source says that they disagree."""
    a, a0 = np.array([0.3, 1.2, -0.4, 0.9]), np.array([0.8, 0.1, 0.2, 0.5])
    model = one_layer(layers.GlobalMaxPooling1D(dtype="float64"), (4, 1))
    options = {"linear": "gradient", "nonlinearity": "slope_of_differences", "flow": "multipliers"}
    found = {}
    for rule in ("larger_maximum", "folded_maximum"):
        for one, other in ((a, a0), (a0, a)):
            composite = Composite(maximum=rule, **options)
            result = explain(model, one[None, :, None], method=composite, baseline=other[:, None], target=0)
            found[rule, one is a] = result.inputs[0, :, 0]
            np.testing.assert_allclose(result.delta, 0.0, atol=1e-12)
    limit = replicas.soft_maximum_difference(a, a0, softness=1e-3)
    np.testing.assert_allclose(found["larger_maximum", True], limit, atol=1e-9)
    np.testing.assert_allclose(limit, [0.0, 0.4, 0.0, 0.0], atol=1e-9)
    np.testing.assert_allclose(found["larger_maximum", False], -limit, atol=1e-9)
    np.testing.assert_allclose(found["folded_maximum", True], replicas.folded_maximum_difference(a, a0), atol=1e-12)
    np.testing.assert_allclose(found["folded_maximum", False], replicas.folded_maximum_difference(a0, a), atol=1e-12)
    assert np.abs(found["larger_maximum", True] - found["folded_maximum", True]).max() > 0.1


# The source's tables --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "matrix, nonlinearity, expected",
    [("gradient", "gradient", "factor"), ("gradient", "slope", "factor"), ("gradient", "repeat", "factor"),
     ("normalized", "ignore", "one")],
)  # fmt: skip
@pytest.mark.parametrize("factor", [0.3, -2.0])
def test_a_constant_factor_as_matrix_and_as_nonlinearity(matrix, nonlinearity, expected, factor, generator):
    """Scaling equivalence: a multiple of the identity may be seen either way."""
    x, start = generator.normal(size=(2, 3)), generator.normal(size=(2, 3))
    flow = "relevance" if matrix == "normalized" else "sensitivity"
    composite = Composite(linear=matrix, nonlinearity=nonlinearity, flow=flow)
    as_matrix = one_layer(layers.Dense(3, use_bias=False, dtype="float64"), (3,))
    as_matrix.set_weights([factor * np.eye(3)])
    as_function = one_layer(layers.Activation(lambda a: factor * a, dtype="float64"), (3,))
    one, other = (relevance_of(model, x, start, composite).inputs for model in (as_matrix, as_function))
    np.testing.assert_allclose(one, (factor if expected == "factor" else 1.0) * start, rtol=1e-9)
    np.testing.assert_allclose(other, one, rtol=1e-9)


def shares_of_maximum(rule, a, constant):
    """Multiplier of `a` in max(a, constant), as a maximum; the constant is a second input."""
    model = one_layer(layers.GlobalMaxPooling1D(dtype="float64"), (2, 1))
    x = np.array([[a, constant]])[..., None]
    return explain(model, x, method=Composite(maximum=rule), start=np.ones((1, 1)), target=0).inputs[0, 0, 0]


def shares_of_nonlinearity(rule, a, constant):
    model = one_layer(layers.Activation(lambda x: keras.ops.maximum(x, constant), dtype="float64"), (1,))
    composite = Composite(linear="gradient", nonlinearity=rule, flow="sensitivity")
    return relevance_of(model, np.array([[a]]), np.ones((1, 1)), composite).inputs[0, 0]


POINTS = [(1.5, -1.0), (0.2, -3.0), (2.0, 0.0), (-1.5, 0.0), (-2.0, -0.5), (-0.5, -2.0)]


@pytest.mark.parametrize("a, constant", POINTS)
def test_a_maximum_with_a_constant_gradient(a, constant):
    """Gradient matches gradient."""
    assert shares_of_maximum("gradient", a, constant) == shares_of_nonlinearity("gradient", a, constant)


@pytest.mark.parametrize("a, constant", POINTS)
def test_a_maximum_with_a_constant_radial_and_slope(a, constant):
    """The source suspects that radial and slope agree for two entries, from pictures that look alike.

    They do where the input is positive or the constant zero. Where both are negative they do not: with a, c < 0 the
    radial share is c / (a + c), the slope max(a, c) / a; both fall from 1 to 0 as a does.
    """
    radial, slope = shares_of_maximum("radial", a, constant), shares_of_nonlinearity("slope", a, constant)
    if a > 0 or constant == 0:
        assert radial == pytest.approx(slope, abs=1e-12)
    else:
        assert radial == pytest.approx(constant / (a + constant), rel=1e-12)
        assert slope == pytest.approx(max(a, constant) / a, rel=1e-9)
        assert slope > radial


# Composites -----------------------------------------------------------------------------------------------------------


def test_the_first_match_wins(dense_net, generator):
    """Name before class before kind."""
    x = generator.normal(size=(2, 3)).astype("float32")
    flat, plus, square = rules.Flat(), rules.ZPlus(), rules.WSquare()
    by_name = explain(dense_net, x, method=Composite(by_name={"first": flat}, by_class={layers.Dense: plus}))
    by_hand = explain(dense_net, x, method=Composite(by_name={"first": flat, "second": plus, "out": plus}))
    np.testing.assert_array_equal(by_name.inputs, by_hand.inputs)
    by_class = explain(dense_net, x, method=Composite(linear=square, by_class={layers.Dense: plus}))
    np.testing.assert_array_equal(by_class.inputs, explain(dense_net, x, method=Composite(linear=plus)).inputs)
    assert np.abs(by_name.inputs - by_class.inputs).max() > 1e-3


def test_a_rule_of_ones_own(dense_net, generator):
    """A rule is one method: here all relevance goes by the size of the inputs."""

    class ByInput(rules.WeightRule):
        def parts(self, inputs, weights, bias):
            ones = [keras.ops.ones_like(weight) for weight in weights]
            return [rules.Part([rules.Term([keras.ops.abs(x) for x in inputs], ones)], None)]

    x = np.abs(generator.normal(size=(2, 3))).astype("float32")
    found = explain(dense_net, x, method=Composite(linear=ByInput()))
    np.testing.assert_allclose(found.inputs, found.output[:, None] * x / x.sum(axis=1, keepdims=True), rtol=1e-4)


@pytest.mark.parametrize(
    "options, error, message",
    [
        ({"linear": "epsilno"}, ValueError, "did you mean 'epsilon'"),
        ({"linear": 3}, TypeError, "expects a rule"),
        ({"linear": rules.Slope()}, ValueError, "linear= does not take the rule Slope.*Rules that fit: gradient, norm"),
        ({"flow": "backwards"}, ValueError, "flow expects one of 'relevance'"),
        ({"flow": "multipliers"}, ValueError, "Normalized for linear is made for flow='relevance'"),
        ({"nonlinearity": "slope_of_differences"}, ValueError, "made for flow='multipliers'"),
    ],
)
def test_composites_that_do_not_fit(options, error, message):
    with pytest.raises(error, match=message):
        Composite(**options)


def test_options_of_rules_that_do_not_fit():
    with pytest.raises(ValueError, match="alpha - beta = 1"):
        rules.AlphaBeta(alpha=2.0, beta=0.5)
    with pytest.raises(ValueError, match="low below high"):
        rules.ZBox(low=1.0, high=0.0)


def test_options_of_rules_are_given_by_name():
    for rule in (*WEIGHT_RULES.values(), rules.SignalTakesAll):
        with pytest.raises(TypeError, match="positional argument"):
            rule(0.5)


@pytest.mark.parametrize("name", WEIGHT_RULES)
def test_without_biases_the_inputs_explain_all(name, dense_net, generator):
    """Relevance is kept, and none of it goes to a bias."""
    x = generator.random(size=(4, 3)).astype("float32")
    found = explain(dense_net, x, method=Composite(linear=WEIGHT_RULES[name](biases=False)))
    kept = name not in ("alpha_beta", "z_plus")  # Where nothing pushes upwards, these two have nobody to give it to.
    if kept:
        np.testing.assert_allclose(found.inputs.sum(axis=1), found.output, rtol=2e-3)
    assert all((np.abs(own) < 1e-6).all() for own in found.biases.values())


def test_names_of_layers_that_do_not_fit(dense_net):
    x = np.ones((1, 3), "float32")
    with pytest.raises(ValueError, match="did you mean 'first'"):
        explain(dense_net, x, method=Composite(by_name={"frist": rules.Flat()}))
    with pytest.raises(ValueError, match="Radial is for maximum steps and does not fit layer 'first'.*linear"):
        explain(dense_net, x, method=Composite(by_name={"first": rules.Radial()}))
