"""The networks of keras.applications: removed equals masked, with random weights, statistics and biases everywhere."""

import keras
import numpy as np
import pytest
from conftest import SEED
from keras import applications
from nets import outputs_of

import tfprune
from tfprune import LayerValues
from tfprune.surgery import remove

SIZES = {"Xception": 71, "InceptionV3": 75, "InceptionResNetV2": 75}
"""The smallest images, where they are not 32 x 32."""

FAMILIES = {
    "ConvNeXt": ["Tiny", "Small", "Base", "Large", "XLarge"],
    "DenseNet": ["121", "169", "201"],
    "EfficientNet": [f"B{number}" for number in range(8)],
    "EfficientNetV2": ["B0", "B1", "B2", "B3", "S", "M", "L"],
    "Inception": ["V3", "ResNetV2"],
    "MobileNet": ["", "V2", "V3Small", "V3Large"],
    "NASNet": ["Mobile", "Large"],
    "ResNet": ["50", "101", "152", "50V2", "101V2", "152V2"],
    "VGG": ["16", "19"],
    "Xception": [""],
}
ALL = [family + member for family, members in FAMILIES.items() for member in members]

DEEPEST = ["EfficientNetV2M", "EfficientNetV2L"]
"""With random weights these amplify what is rounded: moving the images of V2L by 1e-14 moves its outputs by 5e-5."""

QUICK = ["MobileNet", "MobileNetV2", "MobileNetV3Small", "ResNet50V2", "ConvNeXtTiny"]
"""One for each way of joining layers: chains, inverted residuals, gates, streams, norms; concatenations are slow."""


def randomised(model):
    """Random gammas, variances, means and biases; kernels keep their initial numbers, which are random already."""
    generator = np.random.default_rng(SEED)
    for variable in model.weights:
        if variable.name in ("gamma", "moving_variance"):
            variable.assign(generator.uniform(0.5, 1.5, variable.shape))
        elif variable.name in ("beta", "moving_mean", "bias"):
            variable.assign(generator.normal(0.0, 0.3, variable.shape))
    return model


def application(name):
    size = SIZES.get(name, 32)
    options = {"include_preprocessing": False} if name.startswith(("MobileNetV3", "EfficientNetV2", "ConvNeXt")) else {}
    build = getattr(applications, name)
    if name.startswith("NASNet"):
        # Its head always ends in the activation that it is told.
        return randomised(build(input_shape=(size, size, 3), weights=None, classes=10, classifier_activation=None))
    shape = (size, size, 3)
    return randomised(build(input_shape=shape, weights=None, classes=10, classifier_activation=None, **options))


def mask_at(graph, sparsity):
    generator = np.random.default_rng(SEED)
    return LayerValues(
        {name: generator.permutation(size) >= int(size * sparsity) for name, size in graph.sizes.items()}
    )


def tolerance_of(name, model, x):
    """The largest difference that counts as equal, relative to the largest output.

    For the deepest it grows with what some units in the last place of the images do to the outputs.
    """
    least, move = (1e-10, 1e-14) if keras.config.floatx() == "float64" else (1e-5, 1e-6)
    if name not in DEEPEST:
        return least
    images = x[0].astype(keras.config.floatx())
    outputs = outputs_of(model, [images])
    moved = np.abs(outputs_of(model, [images * (1 + move)]) - outputs).max() / np.abs(outputs).max()
    return max(least, 10 * moved)


def check(name, sparsity, batch=2):
    """Returns the small model, the images and what the masked model says of them."""
    model = application(name)
    graph = tfprune.unit_groups(model)
    assert not graph.walls
    mask = mask_at(graph, sparsity)
    x = [np.random.default_rng(1).uniform(0.0, 1.0, (batch, *model.input_shape[1:])).astype("float32")]
    original = outputs_of(model, x)
    masked = outputs_of(tfprune.with_on_nodes(model), x, mask.flat)
    small = remove(model, mask)
    scale = np.abs(masked).max()
    assert np.abs(outputs_of(small, x) - masked).max() < tolerance_of(name, small, x) * scale
    assert np.abs(original - masked).max() > 1e-3 * scale
    assert small.count_params() == tfprune.graph.count_parameters(graph, mask)
    assert small.count_params() < (1 - sparsity) * 1.05 * model.count_params()
    return small, x, masked


@pytest.mark.parametrize("name", QUICK)
def test_removed_equals_masked(name):
    check(name, 0.5, batch=1)


@pytest.mark.slow
@pytest.mark.parametrize("sparsity", [0.3, 0.5])
@pytest.mark.parametrize("name", ALL)
def test_every_application(name, sparsity, tmp_path):
    small, x, masked = check(name, sparsity)
    small.save(tmp_path / "small.keras")
    again = keras.saving.load_model(tmp_path / "small.keras", compile=False)
    np.testing.assert_allclose(outputs_of(again, x), masked, atol=tolerance_of(name, small, x) * np.abs(masked).max())
    if sparsity == 0.5:
        # Loads the export back and compares outputs before it puts it in its place.
        assert tfprune.export.saved_model(small, tmp_path / "exported").exists()
    small.compile(keras.optimizers.SGD(1e-6), keras.losses.SparseCategoricalCrossentropy(from_logits=True))
    before = [variable.numpy() for variable in small.trainable_variables]
    small.train_on_batch(x[0], np.array([1, 2]))
    assert any(not np.array_equal(a, b.numpy()) for a, b in zip(before, small.trainable_variables, strict=True))


@pytest.fixture
def double_precision():
    before = keras.config.floatx()
    keras.config.set_floatx("float64")
    yield
    keras.config.set_floatx(before)


@pytest.mark.slow
@pytest.mark.parametrize("name", DEEPEST)
def test_the_deepest_in_double_precision(name, double_precision):
    check(name, 0.3)


def test_all_forty_are_here():
    assert len(ALL) == 40
