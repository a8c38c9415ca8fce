"""Copies of layers that are not cut, with all that they hold: weights, computed state, tables, seeds, layers inside.

A layer may hold more than its configuration and its weights say (the mean that an adapted normalisation divides by, a
lookup table, what its author forgot in `get_config`), so it is not built anew but copied attribute by attribute.
"""

from __future__ import annotations

import functools
import types
from collections.abc import Callable, Iterable
from typing import Any

import keras
import numpy as np
import tensorflow as tf
from keras.src.utils.tracking import Tracker

from tfprune.graph.nodes import is_bookkeeping

_OF_CALLS = {
    **dict.fromkeys(("_inbound_nodes", "_outbound_nodes", "_losses", "_losses_override"), list),
    "_loss_ids": set,
}
"""Attributes that belong to the calls of the original, and what makes those of a copy."""

_OF_THE_PACKAGE = ("_tfprune_opened", "_tfprune_made")
"""Attributes by which the package keeps what it has found out of a model and compiled for it."""

_OF_TRAINING = {
    **dict.fromkeys(("train_function", "test_function", "predict_function"), lambda: None),
    **dict.fromkeys(("_compile_config", "_compile_loss", "_compile_metrics", "_loss_tracker"), lambda: None),
    **dict.fromkeys(("optimizer", "_optimizer"), lambda: None),
    "_compiled_trainable_state": dict,
    "compiled": bool,
}
"""The same for a model inside a layer, which is not trained by itself."""

_SAFE_TO_SHARE = (tf.lookup.StaticHashTable, tf.lookup.StaticVocabularyTable)
"""Resources that never change: setting another vocabulary makes a new table."""


_EMPTY = types.CellType()
"""The cell of a closure whose variable has no value yet."""


class NotCopied(Exception):
    """A layer holds something of which there is no second one; the message names it."""


class Copier:
    """Copies layers; what several of them hold is copied once.

    Args:
        part: called with a layer or model that is held by a layer; returns what stands for it in the new model.
        left_out: layers that are to be missing from the copies of lists that hold them.
    """

    def __init__(self, part: Callable[[Any], Any], left_out: Iterable[Any] = ()):
        self._part = part
        self._left_out = {id(layer) for layer in left_out}
        # The original is kept beside its copy so that its id is not given to another object.
        self._copies: dict[int, tuple[Any, Any]] = {}
        self._stateful: dict[int, tuple[Any, bool]] = {}

    def layer(self, old: Any) -> Any:
        """Returns a copy of a layer that holds copies of all that it holds.

        Raises:
            NotCopied: if it holds something that cannot be copied.
        """
        known = dict(self._copies)
        try:
            new = self._remember(old, type(old).__new__(type(old)))
            self._fill(old, new)
        except Exception as error:  # Whatever a stranger's class does when it is copied is the reason why it is not.
            self._copies = known
            if isinstance(error, NotCopied):
                raise
            raise NotCopied(f"{type(error).__name__}: {error}") from error
        return new

    def know(self, pairs: Iterable[tuple[Any, Any]]) -> None:
        """Says what stands for some objects in the copies: pairs of an old and a new one."""
        for old, new in pairs:
            self._remember(old, new)

    def known(self, old: Any) -> Any:
        """Returns what stands for an object, or None if it was not met."""
        return self._copies.get(id(old), (old, None))[1]

    def variables(self) -> dict[int, Any]:
        """Returns the copy of every Keras variable that was copied, by the original's `id`."""
        return {id(old): new for old, new in self._copies.values() if isinstance(old, keras.Variable)}

    def _remember(self, old: Any, new: Any) -> Any:
        self._copies[id(old)] = (old, new)
        return new

    def _fill(self, old: Any, new: Any) -> None:
        """Gives `new` the attributes of `old`; those that its class made for it alone stay."""
        anew = _OF_CALLS if isinstance(old, keras.Operation) else {}
        anew = anew | _OF_TRAINING if isinstance(old, keras.Model) else anew
        made = {name for name, value in vars(new).items() if isinstance(value, types.FunctionType)}
        for name, value in vars(old).items():
            if name in made or name in _OF_THE_PACKAGE or is_bookkeeping(name):
                continue
            if name in anew:
                vars(new)[name] = anew[name]()
                continue
            try:
                vars(new)[name] = self._copy(value)
            except NotCopied as error:
                raise NotCopied(f"{name}: {error}" if isinstance(old, keras.Operation) else str(error)) from error
        for name, value in getattr(old, "_self_unconditional_dependency_names", {}).items():
            its = self._copy(value) if id(value) in self._copies else vars(new).get(name)
            if isinstance(its, tf.__internal__.tracking.Trackable):
                new._track_trackable(its, name=name, overwrite=True)

    def _copy(self, value: Any) -> Any:
        if id(value) in self._copies:
            return self._copies[id(value)][1]
        for kinds, copy in self._ways():
            if isinstance(value, kinds):
                return copy(value)
        return value

    def _ways(self) -> tuple:
        """How objects are copied, by their class; the first that fits counts, and what fits none is shared."""
        return (
            (keras.Variable, self._variable),
            (tf.Variable, self._tf_variable),
            (keras.layers.Layer, lambda layer: self._remember(layer, self._part(layer))),
            (Tracker, self._tracker),
            (dict, self._dict),
            ((list, set), self._collection),
            (tuple, self._tuple),
            (np.ndarray, lambda array: self._remember(array, array.copy())),
            (types.MethodType, lambda method: types.MethodType(method.__func__, self._copy(method.__self__))),
            (functools.partial, self._partial),
            (types.FunctionType, self._function),
            (_SAFE_TO_SHARE, lambda table: table),
            (tf.lookup.experimental.MutableHashTable, self._table),
            (tf.types.experimental.PolymorphicFunction, self._refused_if_stateful),
            (tf.Tensor, lambda tensor: tensor),
            (tf.__internal__.tracking.Trackable, self._refused),
            (object, self._object),
        )

    def _variable(self, old: Any) -> Any:
        # Keras would take a tf.Variable over as it is: the new variable starts from its value instead.
        new = keras.Variable(tf.convert_to_tensor(old.value), dtype=old.dtype, trainable=old.trainable, name=old.name)
        own = {name for name in vars(old) if not (name.startswith("_value") or is_bookkeeping(name))}
        vars(new).update({name: vars(old)[name] for name in own})
        return self._remember(old, new)

    def _tf_variable(self, old: Any) -> Any:
        new = tf.Variable(old, trainable=old.trainable, name=old.name.split(":")[0], dtype=old.dtype, shape=old.shape)
        return self._remember(old, new)

    def _table(self, old: Any) -> Any:
        keys, values = old.export()
        new = tf.lookup.experimental.MutableHashTable(old.key_dtype, old.value_dtype, old._default_value)
        new.insert(keys, values)
        return self._remember(old, new)

    def _tracker(self, old: Tracker) -> Tracker:
        new = self._remember(old, object.__new__(type(old)))
        vars(new).update(vars(old))
        new.config = {name: (fits, self._copy(store)) for name, (fits, store) in old.config.items()}
        new.stored_ids = {name: {id(value) for value in store} for name, (_, store) in new.config.items()}
        return new

    def _empty(self, old: Any) -> Any:
        """Returns an empty collection of the same class, without the tracker of Keras's own ones for now."""
        new = type(old).__new__(type(old))
        if hasattr(old, "__dict__"):
            vars(new).update(dict.fromkeys(vars(old)))
        return self._remember(old, new)

    def _own_attributes(self, old: Any, new: Any) -> Any:
        if hasattr(old, "__dict__"):
            vars(new).update({name: self._copy(value) for name, value in vars(old).items()})
        return new

    def _dict(self, old: dict) -> dict:
        if hasattr(old, "__wrapped__"):
            # TensorFlow's proxy of a dictionary, which Keras meets where it does not track one itself.
            return self._copy(old.__wrapped__)
        new = self._empty(old)
        for key, value in old.items():
            new[self._copy(key)] = self._copy(value)
        return self._own_attributes(old, new)

    def _collection(self, old: Any) -> Any:
        values = [value for value in old if id(value) not in self._left_out]
        if isinstance(old, tf.__internal__.tracking.Trackable):
            # TensorFlow's own list, as above.
            return self._remember(old, [self._copy(value) for value in values])
        new = self._empty(old)
        add = new.append if isinstance(old, list) else new.add
        for value in values:
            add(self._copy(value))
        return self._own_attributes(old, new)

    def _tuple(self, old: tuple) -> tuple:
        entries = [self._copy(value) for value in old]
        if all(one is other for one, other in zip(old, entries, strict=True)):
            return old
        return type(old)(*entries) if hasattr(old, "_fields") else type(old)(entries)

    def _partial(self, old: functools.partial) -> functools.partial:
        arguments = [self._copy(value) for value in old.args]
        return functools.partial(self._copy(old.func), *arguments, **self._copy(old.keywords))

    def _function(self, old: types.FunctionType) -> types.FunctionType:
        """A function that holds state through its closure gets a closure of its own."""
        if not self._is_stateful(old):
            return old
        cells = tuple(types.CellType() for _ in old.__closure__)
        new = types.FunctionType(old.__code__, old.__globals__, old.__name__, old.__defaults__, cells)
        new.__kwdefaults__, new.__qualname__ = old.__kwdefaults__, old.__qualname__
        self._remember(old, new)
        for cell, own in zip(cells, old.__closure__, strict=True):
            if own != _EMPTY:
                cell.cell_contents = self._copy(own.cell_contents)
        return new

    def _object(self, old: Any) -> Any:
        """Any other object is shared unless there is state in it."""
        if not self._is_stateful(old):
            return old
        new = self._remember(old, object.__new__(type(old)))
        self._fill(old, new)
        return new

    def _refused(self, old: Any) -> Any:
        raise NotCopied(f"there is no second one of a {type(old).__name__}")

    def _refused_if_stateful(self, old: Any) -> Any:
        return self._refused(old) if self._is_stateful(old.python_function) else old

    def _is_stateful(self, value: Any) -> bool:
        """Whether variables, layers or arrays are reached from an object."""
        if id(value) not in self._stateful:
            self._stateful[id(value)] = (value, _reaches_state(value, set()))
        return self._stateful[id(value)][1]


def _reaches_state(value: Any, seen: set[int]) -> bool:
    if isinstance(value, keras.Variable | tf.Variable | keras.layers.Layer | np.ndarray):
        return True
    if id(value) in seen or isinstance(value, type | types.ModuleType | tf.Tensor | str | int | float):
        return False
    seen.add(id(value))
    return any(_reaches_state(part, seen) for part in _parts(value))


def _parts(value: Any) -> list[Any]:
    """Returns what an object refers to, as far as Python shows it."""
    if isinstance(value, dict):
        return [*value.keys(), *value.values()]
    if isinstance(value, list | tuple | set | frozenset):
        return list(value)
    if isinstance(value, types.MethodType):
        return [value.__self__]
    if isinstance(value, functools.partial):
        return [value.func, *value.args, *value.keywords.values()]
    if isinstance(value, types.FunctionType):
        return [cell.cell_contents for cell in value.__closure__ or () if cell != _EMPTY]
    return list(vars(value).values()) if hasattr(value, "__dict__") else []
