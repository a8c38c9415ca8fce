"""Slow float64 versions of what new units do to a weight, by plain loops."""

import numpy as np


def grown(value, axis, blocks, units, more, inner=1, fill=np.nan):
    """Returns a weight with new positions along an axis that is `blocks` times `units` times `inner` positions long.

    New units come behind the old ones of every block; their entries are `fill`.
    """
    value = np.moveaxis(np.asarray(value, "float64"), axis, 0)
    assert len(value) == blocks * units * inner
    result = np.full((blocks * (units + more) * inner, *value.shape[1:]), fill)
    for block in range(blocks):
        for unit in range(units):
            for place in range(inner):
                result[(block * (units + more) + unit) * inner + place] = value[(block * units + unit) * inner + place]
    return np.moveaxis(result, 0, axis)


def silenced(value, axis, blocks, units, more, inner=1):
    """Returns what `grown` does with zeros: the weights by which the units along the axis are read."""
    return grown(value, axis, blocks, units, more, inner, fill=0.0)
