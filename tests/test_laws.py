"""The laws of removal, on every net of the table."""

import keras
import numpy as np
import pytest
from nets import NETS, flat_outputs, head_without_softmax, inputs_for

import tfprune
from tfprune import LayerValues
from tfprune.surgery import remove


def random_mask(graph, seed, keep=0.6):
    """A mask that keeps at least one unit of every group, and equal numbers where a layer needs them."""
    generator = np.random.default_rng(seed)
    mask = {}
    for name, group in graph.items():
        kept = np.zeros(group.size, bool)
        kept[generator.permutation(group.size)[: max(1, int(group.size * keep))]] = True
        mask[name] = kept
    return LayerValues(mask)


def relative_difference(one, other):
    return np.abs(one - other).max() / np.abs(one).max()


def outputs_of(model, inputs):
    tensors = [keras.ops.convert_to_tensor(x) for x in inputs]
    return flat_outputs(model(tensors if len(tensors) > 1 else tensors[0], training=False))


@pytest.mark.parametrize("name", NETS)
def test_masked_equals_removed(name):
    model = NETS[name]()
    model = head_without_softmax(model) if name == "softmax_head" else model
    graph = tfprune.unit_groups(model)
    if not len(graph):
        assert graph.fixed or graph.walls
        return
    inputs = inputs_for(model)
    before = [keras.ops.convert_to_numpy(variable) for variable in model.weights]
    original = outputs_of(model, inputs)
    mask = random_mask(graph, 3)
    masked_model = tfprune.with_on_nodes(model)
    masked = outputs_of(masked_model, [*inputs, mask.flat[None].astype("float32")])
    small = remove(model, mask)
    removed = outputs_of(small, inputs)
    tolerance = 2e-3 if "float16" in str(model.layers[-1].dtype_policy.name) else 1e-5
    assert relative_difference(masked, removed) < tolerance
    if not mask.flat.all():
        assert relative_difference(original, masked) > 1e-4
        assert small.count_params() < model.count_params()
    after = [keras.ops.convert_to_numpy(variable) for variable in model.weights]
    assert all(np.array_equal(a, b) for a, b in zip(before, after, strict=True))
