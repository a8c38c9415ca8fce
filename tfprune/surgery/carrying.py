"""What a rebuilt layer takes over from the layer that it was built from: weights, flags, computed state, moments."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from typing import Any

import keras
import numpy as np
from keras import layers

from tfprune.borders import warn
from tfprune.graph.nodes import is_bookkeeping
from tfprune.layers.opened import HeldWeight

_OF_VARIABLES = ("trainable", "regularizer", "constraint")

_WITHOUT_COMPUTED_STATE = (
    *(layers.Dense, layers.EinsumDense, layers.Embedding),
    *(layers.Conv1D, layers.Conv2D, layers.Conv3D),
)
"""Layers that load their weights in a way of their own only where they are quantised, and these are not cut."""


def inner_pairs(old: Any, new: Any, verb: str) -> Iterator[tuple[Any, Any]]:
    """Yields a layer and the one built from it, then the layers inside them, by the attributes that hold them.

    What holds others comes before these. Messages begin with `verb`.
    """
    seen: set[int] = set()

    def walk(one: Any, other: Any) -> Iterator[tuple[Any, Any]]:
        if isinstance(one, layers.Layer):
            if id(one) in seen:
                return
            seen.add(id(one))
            if type(one) is not type(other):
                raise RuntimeError(
                    f"{verb}: inside {new.name!r} ({type(new).__name__}) a {type(other).__name__} was built where the "
                    f"original holds {one.name!r} ({type(one).__name__}): its get_config() does not describe the layer."
                )
            yield one, other
            for name, value in vars(one).items():
                # The list of all layers inside is in the order of their making, which is nobody's promise.
                if name != "_layers" and not is_bookkeeping(name):
                    yield from walk(value, vars(other).get(name))
        elif isinstance(one, dict):
            for key, value in one.items():
                yield from walk(value, other.get(key) if isinstance(other, dict) else None)
        elif isinstance(one, list | tuple):
            others = list(other) if isinstance(other, list | tuple) else []
            for value, its in zip(one, [*others, *[None] * len(one)], strict=False):
                yield from walk(value, its)

    yield from walk(old, new)


def carry_weights(
    pairs: Iterable[tuple[Any, Any, bool]],
    value_of: Callable[[Any, np.ndarray], np.ndarray],
    copies: dict[int, Any],
    verb: str,
) -> set[int]:
    """Gives rebuilt layers the numbers of their originals.

    Args:
        pairs: old layer, new layer, and whether the new one has a bias that the old one has not; it is set to zero.
        value_of: takes a variable of the original and its value, returns the value of the new one.
        copies: the variable that stands for an old one already, by the old one's `id`.
        verb: how messages begin.

    Returns:
        The `id`s of the variables that were given a value.
    """
    seen, done = dict(copies), set()
    for old, new, bias_added in pairs:
        if not bias_added:
            _carry_computed_state(old, new, value_of)
        elif getattr(new, "bias", None) is not None:
            new.bias.assign(np.zeros(new.bias.shape))
            done.add(id(new.bias))
        variables = [variable for variable in own_variables(new) if id(variable) not in done]
        if len(variables) != len(own_variables(old)):
            raise RuntimeError(
                f"{verb}: {old.name!r} ({type(old).__name__}) has {len(own_variables(old))} variables, but "
                f"{len(variables)} when it is built from its get_config(), which does not describe the layer."
            )
        for own, its in zip(own_variables(old), variables, strict=True):
            if seen.setdefault(id(own), its) is not its:
                _hold_instead(new, its, seen[id(own)])
                continue
            _assign(old, its, value_of(own, keras.ops.convert_to_numpy(own)), verb)
            done.add(id(its))
    return done


def _carry_computed_state(old: Any, new: Any, value_of: Callable[[Any, np.ndarray], np.ndarray]) -> None:
    """Lets a layer compute what it computes when its weights are loaded (a mean ready for use, say)."""
    if type(new).load_own_variables is layers.Layer.load_own_variables or isinstance(new, _WITHOUT_COMPUTED_STATE):
        return
    store: dict[str, Any] = {}
    old.save_own_variables(store)
    for key, value in store.items():
        if isinstance(value, keras.Variable):
            store[key] = value_of(value, keras.ops.convert_to_numpy(value))
    new.load_own_variables(store)


def own_variables(layer: Any) -> list[Any]:
    """Returns the variables that the layer itself holds, states of its random generators included."""
    seeds = [generator.state for generator in layer._seed_generators]
    return [*layer._trainable_variables, *layer._non_trainable_variables, *seeds]


def _hold_instead(layer: Any, variable: Any, shared: Any) -> None:
    """Makes a layer hold `shared`, the variable of another layer, in the place of its own."""
    # A built layer refuses new state through its attributes, hence the dictionary.
    for name, value in vars(layer).items():
        if value is variable:
            vars(layer)[name] = shared
    for variables in (layer._trainable_variables, layer._non_trainable_variables):
        for place, value in enumerate(variables):
            if value is variable:
                list.__setitem__(variables, place, shared)


def _assign(layer: Any, variable: Any, value: np.ndarray, verb: str) -> None:
    if tuple(variable.shape) != value.shape:
        raise RuntimeError(
            f"{verb}: weight {variable.path!r} of {layer.name!r} should have shape {value.shape} afterwards, but the "
            f"new layer has {tuple(variable.shape)}: the row of {type(layer).__name__} does not fit the layer."
        )
    variable.assign(value)


def carry_flags(pairs: Iterable[tuple[Any, Any, bool]]) -> None:
    """Makes rebuilt layers as trainable as their originals, single variables too."""
    pairs = list(pairs)
    # Setting a layer's flag sets it for all inside, so the outer ones come first.
    for old, new, _ in pairs:
        new.trainable = old.trainable
    for old, new, _ in pairs:
        for own, its in zip(old._trainable_variables, new._trainable_variables, strict=False):
            its.trainable = own.trainable
        if isinstance(old, HeldWeight):
            # What a layer says when it makes a weight itself no configuration holds.
            for name in _OF_VARIABLES:
                setattr(new.held, name, getattr(old.held, name))


def as_rows(shape: Sequence[int]) -> tuple[int, int]:
    """Returns the shape of a table that holds an array of this shape, its last axis in rows."""
    width = int(shape[-1]) if len(shape) else 1
    return int(np.prod(shape)) // max(width, 1), width


def carry_moments(
    source: Any,
    target: Any,
    weights: list[Any],
    carried: Callable[[Any, np.ndarray], np.ndarray],
    gone: Collection[int] = (),
) -> None:
    """Carries an optimizer's moments and step over to the new model.

    Args:
        source: the original's optimizer.
        target: the new model's, of the same settings.
        weights: the new model's trainable variables.
        carried: takes a variable of the original and a moment of its shape, returns the new moment.
        gone: the `id`s of the original's variables that the new model does not have.
    """
    if not source.built:
        return
    target.build(weights)
    inner = getattr(source, "inner_optimizer", source)
    of_slot, without = slots_of(inner), _slots_of_gone(inner, gone)
    left_out = 0
    slots = [slot for slot in source.variables if id(slot) not in without]
    for slot, new_slot in zip(slots, target.variables, strict=True):
        value = keras.ops.convert_to_numpy(slot)
        variable = of_slot.get(id(slot))
        if variable is not None:
            value = carried(variable, value)
            if tuple(new_slot.shape) == as_rows(value.shape):
                # Its weight may have become the rows of a table.
                value = value.reshape(new_slot.shape)
        if tuple(new_slot.shape) == value.shape:
            new_slot.assign(value)
        else:
            left_out += 1
    if left_out:
        warn(
            f"keep_optimizer: {left_out} moments of {type(source).__name__} are not shaped like the weights that they "
            "belong to; they start anew."
        )


def _slots_of_gone(optimizer: Any, gone: Collection[int]) -> set[int]:
    variables = optimizer._trainable_variables
    lists = [held for held in vars(optimizer).values() if isinstance(held, list) and len(held) == len(variables)]
    places = [place for place, variable in enumerate(variables) if id(variable) in gone]
    return {id(held[place]) for held in lists if held is not variables for place in places}


def slots_of(optimizer: Any) -> dict[int, Any]:
    """Returns the variable that each slot belongs to, by the slot's `id`: slots of the variable's own shape only."""
    variables = optimizer._trainable_variables
    result = {}
    for held in vars(optimizer).values():
        if isinstance(held, list) and len(held) == len(variables) and held is not variables:
            for slot, variable in zip(held, variables, strict=True):
                if slot is not None and tuple(getattr(slot, "shape", ())) == tuple(variable.shape):
                    result[id(slot)] = variable
    return result
