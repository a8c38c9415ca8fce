"""Pruning single weights: the same model with zeros in its kernels."""

from __future__ import annotations

import keras
import numpy as np

from tfprune.borders import public
from tfprune.graph import unit_groups
from tfprune.graph.weights import kernel_weights
from tfprune.surgery.forms import finished
from tfprune.surgery.rebuild import Cut
from tfprune.units import LayerValues, check_like


@public
def zero_weights(model: keras.Model, weight_mask: LayerValues) -> keras.Model:
    """Sets single weights to zero, in a new model of the same size (unstructured pruning).

    The zeros save nothing by themselves; units all of whose weights are zero can be taken out with `remove_dead`.
    Training moves the weights away from zero again, unless something holds them there.

    Args:
        model: a Sequential or functional model. It is not changed.
        weight_mask: True = kept, one array of bool per kernel, of the kernel's shape, named like the scores of
            `saliency.weights`; kernels that it leaves out stay whole.

    Returns:
        A model with the same layers, names and flags. It is compiled if `model` is, with the same loss, fresh metrics
        and a fresh optimizer of the same settings.

    Raises:
        TypeError: if `model` is no Keras model, or the mask is not of bool.
        ValueError: if a name is unknown or a shape does not fit.

    Example:
        >>> net = keras.Sequential([keras.Input((2,)), keras.layers.Dense(3, use_bias=False, name="out")])
        >>> mask = tfprune.LayerValues({"out": [[True, False, True], [False, False, True]]})
        >>> int((zero_weights(net, mask).get_layer("out").kernel.numpy() != 0).sum())
        3

    Reference: U. Evci (2018), "Detecting dead weights and units in neural networks", section 2.
    """
    kernels = kernel_weights(model)
    shapes = {name: tuple(kernel.variable.shape) for name, kernel in kernels.items()}
    mask = check_like(weight_mask, shapes, "weight mask", partial=True, boolean=True)
    graph = unit_groups(model)
    copy = Cut(graph, np.ones(graph.num_units, bool))
    new = copy.new_variables()
    for name, on in mask.items():
        variable = new[id(kernels[name].variable)]
        variable.assign(np.where(on, keras.ops.convert_to_numpy(variable), 0))
    return finished(model, copy)
