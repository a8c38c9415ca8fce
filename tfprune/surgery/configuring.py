"""Builds layers and models anew from their own configuration, with other numbers in it.

A model may hold parts that have configurations of their own (a task its backbone, CLIP its two encoders): those are
built first, and the model around them.
"""

from __future__ import annotations

import itertools
import re
import warnings
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from typing import Any

import keras

from tfprune.borders import in_one_line

SHAPES = "no numbers in the configuration of"
"""How a refusal begins where a constructor cannot say what was cut."""
_MOST_KEYS = 5
_MOST_OPTIONS = 32
_FACTORS = (1, 2, 3, 4)
_DEPTH = re.compile("layer|block|depth")


class Refused(Exception):
    """A form cannot be; the message says why."""


class Configurer:
    """Builds layers anew so that they have the cut weights.

    Args:
        new: the cut weight for the `id` of each one.
        numbers: what numbers in the code of a layer have become, by its `id` and the number.
        changes: whether weights or numbers of a layer are others in the cut model.
        gone: the `id`s of the weights that are not needed any more.
        whole: the layers that go whole with all in them, those inside others left out.
    """

    def __init__(
        self,
        new: Mapping[int, Any],
        numbers: Mapping[tuple[int, int], int],
        changes: Callable[[Any], bool],
        gone: Collection[int] = (),
        whole: Collection[Any] = (),
    ):
        self._new, self._numbers, self._changes = new, numbers, changes
        self._gone, self._whole = gone, whole
        self._inside_whole = {id(own) for layer in whole for own in layer._flatten_layers()}

    def built(self, old: Any, build: Callable[[Any], Any]) -> Any:
        """Returns a layer or model like `old` with the cut weights; `build` builds what its constructor does not.

        Raises:
            Refused: if no numbers in its configuration give the shapes of the cut weights.
        """
        new = self._shaped(old, build)
        for one, other in zip(self._weights(old), new.weights, strict=True):
            other.assign(self._new.get(id(one), one).value)
        for one, other in self.pairs(old, new):
            other._trainable = one._trainable
            if type(one) is type(other):
                # A configuration that Keras finds by itself may leave the name out.
                other.name = one.name
        return new

    def pairs(self, old: Any, new: Any) -> Iterator[tuple[Any, Any]]:
        """Yields the layers that stay, and those that stand for them in what was built."""
        left = (own for own in old._flatten_layers() if id(own) not in self._inside_whole)
        yield from zip(left, new._flatten_layers(), strict=False)

    def _weights(self, old: Any) -> list[Any]:
        return [own for own in old.weights if id(own) not in self._gone]

    def _shaped(self, old: Any, build: Callable[[Any], Any]) -> Any:
        try:
            config = old.get_config()
        except Exception as error:
            raise Refused(f"{old.name!r} has no configuration: {in_one_line(error)}") from error
        # What its code does not use (the pooler of a backbone, say) stays as it is.
        weights = self._weights(old)
        wanted = [tuple(self._new.get(id(own), own).shape) for own in weights]
        parts = _parts(old, config)
        for key, part in parts.items():
            if self._changes(part):
                new = self._shaped(part, lambda own, part=part: own.build_from_config(part.get_build_config()))
                config[key] = keras.saving.serialize_keras_object(new)
        # Building is what takes long. Where only what enters is narrower, the configuration fits as it is.
        for depth in self._depths(old, config):
            for changes in (*self._options({**config, **depth}, weights, wanted), {}):
                new = _built(old, {**config, **depth, **changes}, build)
                if new is not None and [tuple(own.shape) for own in new.weights] == wanted:
                    _carry_settings(old, new, config)
                    _say(new, {**depth, **changes})
                    return new
        changed = _changed(weights, wanted)
        lost = self._lost(old)
        why = (
            f"units of {changed} differ" if changed else f"that {lost} is gone differs" if lost else "its code differs"
        )
        raise Refused(
            f"{SHAPES} {old.name!r} give the shapes of the cut weights: {why} from what its constructor can say"
        )

    def _depths(self, old: Any, config: dict) -> list[dict]:
        """Returns what may be said of the number of layers, where some of them go whole."""
        inside = {id(own) for own in old._flatten_layers(include_self=False)}
        whole = [own for own in self._whole if id(own) in inside]
        alike = [own for own in old._flatten_layers(include_self=False) if whole and type(own) is type(whole[0])]
        stays = [all(own is not gone for gone in whole) for own in alike]
        lists = {key: _without(value, stays) for key, value in config.items() if isinstance(value, list | tuple)}
        lists = {key: value for key, value in lists.items() if value is not None}
        result = [lists] if lists else []
        # Encoders and decoders may have one number for both.
        for gone in (len(whole), *([len(whole) // 2] if whole and len(whole) % 2 == 0 else [])):
            keys = [key for key, value in config.items() if type(value) is int and value > gone and _DEPTH.search(key)]
            result += [{**lists, key: config[key] - gone} for key in keys if gone]
            # A list may be as long by chance.
            result += [{key: config[key] - gone} for key in keys if gone and lists]
        # What holds the layers may be a part that was built already.
        return [*result, {}]

    def _lost(self, old: Any) -> str:
        return _listed(own.path for own in old.weights if id(own) in self._gone)

    def _options(self, config: dict, weights: list[Any], wanted: list[tuple]) -> Iterator[dict]:
        """Yields changes of a configuration: numbers that are lengths of cut axes become what these are now."""
        pairs = [
            pair for own, shape in zip(weights, wanted, strict=True) for pair in zip(own.shape, shape, strict=True)
        ]
        pairs += [(old, new) for (_, old), new in self._numbers.items()]
        plain = {int(old) for old, _ in pairs}
        lengths: dict[int, set[int]] = {}
        for old, new in pairs:
            # Some constructors want twice the width of a gated layer, or the width of all heads together.
            for factor in _FACTORS if old != new else ():
                if factor == 1 or int(old) * factor not in plain:
                    lengths.setdefault(int(old) * factor, set()).add(int(new) * factor)
        keys = [key for key, value in config.items() if type(value) is int and value in lengths]
        for count in range(min(len(keys), _MOST_KEYS), 0, -1):
            for own in itertools.combinations(keys, count):
                for values in itertools.product(*(sorted(lengths[config[key]]) for key in own)):
                    yield dict(zip(own, values, strict=True))


def _without(values: Any, stays: list[bool]) -> Any:
    """Returns a list with an entry for each layer, or with the numbers of layers in each stage, for those that stay."""
    if len(values) == len(stays):
        return type(values)(own for own, stay in zip(values, stays, strict=True) if stay)
    if not all(type(own) is int for own in values) or sum(values) != len(stays):
        return None
    ends = list(itertools.accumulate(values, initial=0))
    return type(values)(sum(stays[begin:end]) for begin, end in itertools.pairwise(ends))


def _is_described(value: Any) -> bool:
    return isinstance(value, dict) and "class_name" in value and "config" in value


def _parts(old: Any, config: dict) -> dict[str, Any]:
    """Returns the layers with weights that a configuration holds the configurations of, by its keys."""
    held = {key: getattr(old, key, None) for key, value in config.items() if _is_described(value)}
    return {key: own for key, own in held.items() if isinstance(own, keras.layers.Layer) and own.weights}


def _carry_settings(old: Any, new: Any, config: dict) -> None:
    """Passes on what has no weights and is more than its configuration: a preprocessor holds a vocabulary."""
    for key, value in config.items():
        own = getattr(old, key, None)
        if _is_described(value) and isinstance(own, keras.layers.Layer) and not own.variables:
            try:
                setattr(new, key, own)
            except AttributeError:  # A property that cannot be set.
                continue


def _say(new: Any, changes: dict) -> None:
    """Sees to it that the configuration of a layer or model says what it was built with.

    The one that Keras finds for a model by itself holds the defaults of its constructor, whatever that was given.
    """
    found = getattr(new, "_auto_config", None)
    if found is not None:
        found.config.update({key: value for key, value in changes.items() if key in found.config})
    said = new.get_config()
    wrong = [key for key, value in changes.items() if _as_list(said.get(key)) != _as_list(value)]
    if wrong:
        raise Refused(f"get_config of {new.name!r} does not say with which {', '.join(wrong)} it was built")


def _as_list(value: Any) -> Any:
    return list(value) if isinstance(value, tuple) else value


def _built(old: Any, config: dict, build: Callable[[Any], Any]) -> Any:
    """Returns a layer or model like `old` of a configuration; None where its code refuses the numbers."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            new = type(old).from_config(dict(config))
            if not new.built or not new.weights:
                build(new)
                # It will be called in its place in a moment.
                new._inbound_nodes, new._outbound_nodes = [], []
            return new
    except Exception:
        return None


def _changed(weights: list[Any], wanted: list[tuple]) -> str:
    return _listed(own.path for own, shape in zip(weights, wanted, strict=True) if tuple(own.shape) != shape)


def _listed(names: Iterable[str], most: int = 3) -> str:
    names = list(names)
    return ", ".join(names[:most]) + (f" and {len(names) - most} more" if len(names) > most else "")
