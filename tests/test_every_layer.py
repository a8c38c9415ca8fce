"""Every class in `keras.layers` between two kernels: what it carries goes with it, and masked equals removed."""

from pathlib import Path

import keras
import numpy as np
import pytest
from every_layer import ELSEWHERE, ROWS, net_with, public_classes, what_is_read

import tfprune
from tfprune import LayerValues

pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")


def test_every_class_has_a_row():
    assert set(ROWS) | set(ELSEWHERE) >= set(public_classes())
    assert not set(ROWS) & set(ELSEWHERE)


def outputs(model, x, training=False):
    return np.asarray(model(keras.ops.convert_to_tensor(x), training=training))


def mask_of(model, keep):
    sizes = tfprune.unit_groups(model).sizes
    return LayerValues({name: np.arange(size) < max(1, round(size * keep)) for name, size in sizes.items()})


# Of what there is for several numbers of axes, images stand for the others by default.
QUICK = [pytest.param(name, marks=[pytest.mark.slow] if name[-2:] in ("1D", "3D") else []) for name in ROWS]


@pytest.mark.parametrize("name", QUICK)
def test_what_a_layer_carries_goes_with_it(name, generator, tmp_path):
    model, x = net_with(name, generator)
    before = [variable.numpy() for variable in model.weights]
    calls = [len(layer._inbound_nodes) for layer in model.layers]
    original = outputs(model, x)
    whole = tfprune.remove(model, mask_of(model, 1.0))
    np.testing.assert_allclose(outputs(whole, x), original, atol=1e-6)
    assert [len(layer._inbound_nodes) for layer in model.layers] == calls
    assert not {id(variable) for variable in model.variables} & {id(variable) for variable in whole.variables}

    mask = mask_of(model, 0.5)
    on_nodes = mask.flat[None].astype("float32")
    masked = np.asarray(
        tfprune.with_on_nodes(model)([keras.ops.convert_to_tensor(tensor) for tensor in (x, on_nodes)], training=False)
    )
    small = tfprune.remove(model, mask)
    assert small.count_params() < model.count_params()
    np.testing.assert_allclose(outputs(small, x), masked, atol=1e-5)
    assert np.abs(masked - original).max() > 1e-3

    small.save(tmp_path / "small.keras")
    loaded = keras.models.load_model(tmp_path / "small.keras", safe_mode=False)
    np.testing.assert_allclose(outputs(loaded, x), outputs(small, x), atol=1e-6)

    for variable in whole.trainable_variables:
        variable.assign(variable + 1.0)
    for variable, value in zip(model.weights, before, strict=True):
        np.testing.assert_array_equal(variable.numpy(), value)
    np.testing.assert_array_equal(outputs(model, x), original)


@pytest.mark.parametrize(
    "name", [name for name in ROWS if name.startswith("Random") or "Drop" in name or "Noise" in name]
)
def test_random_layers_go_on_where_they_were(name, generator):
    model, x = net_with(name, generator)
    outputs(model, x, training=True)
    whole = tfprune.remove(model, mask_of(model, 1.0))
    for _ in range(2):
        np.testing.assert_allclose(outputs(whole, x, training=True), outputs(model, x, training=True), atol=1e-5)


def test_the_page_in_docs_tells_what_is_read():
    page = (Path(__file__).resolve().parents[1] / "docs" / "layers.md").read_text()
    rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in page.splitlines()]
    stands = {cells[0]: tuple(cells[1:]) for cells in rows if len(cells) == 3}
    for name in [name for name in ROWS if name[-2:] not in ("2D", "3D")]:
        assert stands[name] == what_is_read(name), f"make docs/layers.md anew: {name}"
