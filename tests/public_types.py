"""A user's program for the type checker, which `make lint` runs over it: what comes back is known, nothing is Any."""

from typing import TYPE_CHECKING

import keras
import numpy as np

import tfprune as tfp

if TYPE_CHECKING:
    from typing_extensions import assert_type


def program(net: keras.Model, x: np.ndarray, y: np.ndarray) -> None:
    """Scores, masks, and models from models."""
    scores = assert_type(tfp.saliency.least_squares(net, x), tfp.LayerValues)
    mask = assert_type(tfp.keep_top(scores, sparsity=0.5), tfp.LayerValues)
    assert_type(tfp.keep_above(scores, 0.1), tfp.LayerValues)
    assert_type(tfp.keep_random(scores, 0.5, seed=1), tfp.LayerValues)
    assert_type(tfp.keep_budget(net, scores, flops=0.5), tfp.LayerValues)
    assert_type(mask["hidden"], np.ndarray)

    small = assert_type(tfp.remove(net, mask, repair="least_squares", data=x), keras.Model)
    assert_type(tfp.remove_dead(net, x), keras.Model)
    assert_type(tfp.with_on_nodes(net), keras.Model)
    assert_type(tfp.zero_weights(net, tfp.saliency.weights.magnitude(net)), keras.Model)
    assert_type(tfp.distinctiveness.prune(net, x), keras.Model)

    graph = assert_type(tfp.unit_groups(net), tfp.UnitGraph)
    assert_type(graph.num_units, int)
    assert_type(tfp.sweep(net, (x, y), graph.on_nodes(mask)).losses, np.ndarray)
    assert_type(tfp.relevance.explain(net, x), tfp.relevance.Explanation)
    print(tfp.compare(net, small, (x, y)))
    net.fit(
        x, y, callbacks=[tfp.training.PruneDuringTraining(tfp.saliency.weight_norm, tfp.schedules.constant(0.5), x)]
    )
