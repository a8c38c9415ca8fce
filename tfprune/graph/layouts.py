"""How the inputs of a model may be laid out when its code is run: shapes, types, and which open lengths are one."""

from __future__ import annotations

import inspect
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import keras
from keras import tree

from tfprune.graph.sizes import Symbol

SMALL, OTHER, THIRD = (2, 11), (3, 17), (4, 13)
"""Batch and length of the two traces, and of the run that checks what was read."""
Shape = Sequence[int | None]
"""Lengths of an input, samples first; None where they are open."""
_EVEN = 32
"""A length for code that takes no other than multiples of some power of two (windows, steps down and up again)."""
_LONGEST_CHECK = 128


@dataclass(frozen=True)
class Layout:
    """How an input is laid out.

    Attributes:
        shape: its shape, None where it is open.
        dtype: its type.
        name: its name.
        at: for each axis a length at which its code is known to run, None for those that the package chooses.
    """

    shape: tuple[int | None, ...]
    dtype: str
    name: str
    at: tuple[int | None, ...] = ()

    @property
    def chosen(self) -> tuple[int | None, ...]:
        """Lengths at which the code is run, None where the shape says them or the package chooses."""
        return self.at or (None,) * len(self.shape)

    def fixed(self) -> Layout:
        """The same with no open length behind the samples."""
        lengths = [known or at or THIRD[1] for known, at in zip(self.shape[1:], self.chosen[1:], strict=True)]
        return replace(self, shape=(self.shape[0], *lengths), at=())


def inputs_of(model: keras.Model) -> Any:
    """Returns symbolic inputs of a subclassed model, as it was built by a call on data."""
    shapes = getattr(model, "_build_shapes_dict", None)
    if not model.built:
        raise ValueError(
            f"model {model.name!r} is a subclassed model ({type(model).__name__}) that is not built, so its shapes are "
            "unknown. Call it on data once."
        )
    if not shapes:
        raise ValueError(
            f"model {model.name!r} is a subclassed model ({type(model).__name__}), and its code cannot be followed: "
            "Keras could not run it on tensors without numbers, so that not even its shapes are known. Write its call "
            "with keras.ops, without NumPy and without branches on what tensors hold."
        )
    needed = [
        name
        for name, own in inspect.signature(model.call).parameters.items()
        if own.default is own.empty and own.kind in (own.POSITIONAL_ONLY, own.POSITIONAL_OR_KEYWORD)
    ]
    (shape,) = shapes.values() if len(shapes) == 1 else (None,)
    needed = needed if len(needed) > 1 else list(shapes)
    if shape is None or len(needed) > 1:
        raise ValueError(
            f"model {model.name!r} is a subclassed model ({type(model).__name__}) that is called with several "
            f"arguments ({', '.join(needed)}). Let its call take one argument, a list or a dictionary of tensors."
        )
    dtype = model.input_dtype if keras.backend.is_float_dtype(model.input_dtype) else "float32"
    structure = _plain(tree.map_shape_structure(lambda own: keras.KerasTensor((None, *own[1:]), dtype), shape))
    given = tree.flatten(structure)
    for number, tensor in enumerate(given):
        tensor.name = "inputs" if len(given) == 1 else f"inputs_{number}"
    for name, tensor in structure.items() if isinstance(structure, dict) else ():
        if isinstance(tensor, keras.KerasTensor):
            tensor.name = name
    return structure


def _plain(structure: Any) -> Any:
    """Returns a structure without the classes in which Keras tracks what a layer holds."""
    if isinstance(structure, dict):
        return {key: _plain(own) for key, own in structure.items()}
    return [_plain(own) for own in structure] if isinstance(structure, list) else structure


def ways_of(
    given: list[Any], has_graph: bool, told: Sequence[Shape] | None = None
) -> Iterator[tuple[list[Layout], str | int]]:
    """Yields how the inputs may be laid out, the most general way first: shapes, and which lengths are one.

    Args:
        given: the inputs.
        has_graph: whether the model says which of its lengths are open.
        told: what a user has told of their lengths.
    """
    plain = [Layout(tuple(own.shape), own.dtype, own.name) for own in given]
    if told is not None:
        plain = [replace(own, at=lengths) for own, lengths in zip(plain, told, strict=True)]
    variants = [plain]
    if not has_graph:
        open_lengths = [replace(own, shape=(None,) * min(2, len(own.shape)) + own.shape[2:]) for own in plain]
        integers = [[replace(p, dtype="int32") for p in own] for own in (open_lengths, plain)]
        variants = [open_lengths, plain, *integers]
    for own in variants:
        lengths = [p for p in own if None in p.shape[1:]]
        # One of several may have a length of its own: the places of the tokens that are to be guessed, say.
        alone = [number for number, p in enumerate(own) if None in p.shape[1:]] if len(lengths) > 2 else []
        for groups in ("apart", "by_prefix", *alone, "one") if len(lengths) > 1 else ("one",):
            yield own, groups
    with_lengths = [own for own in variants if any(None in p.shape[1:] for p in own)]
    if told is None:
        for own in with_lengths:
            yield [replace(p, at=tuple(_EVEN if n is None else n for n in p.shape)) for p in own], "one"
    for own in with_lengths:
        yield [p.fixed() for p in own], "one"


def symbols_of(inputs: list[Layout], groups: str | int) -> list[tuple[list[tuple[int, int]], Symbol]]:
    """Returns the open lengths of the inputs: which axes are one, and what they are in both traces and the run."""
    found: dict[Any, list[tuple[int, int]]] = {}
    for number, own in enumerate(inputs):
        for axis, length in enumerate(own.shape):
            if length is None:
                prefix = own.name.split("_")[0] if groups == "by_prefix" else number if groups == "apart" else None
                prefix = number == groups if isinstance(groups, int) else prefix
                told = own.chosen[axis]
                found.setdefault((axis, told, None if axis == 0 else prefix), []).append((number, axis))
    result = []
    for (axis, told, _), members in found.items():
        # Numbers that no two of these have in common.
        count = sum(own.axis[1] > 0 for _, own in result)
        if axis == 0:
            sizes = SMALL[0], OTHER[0], THIRD[0]
        elif told is None:
            sizes = SMALL[1] + 2 * count, OTHER[1] + 6 * count, THIRD[1] + 2 * count
        else:
            sizes = told, (2 + count) * told, (3 if 3 * told <= _LONGEST_CHECK else 1) * told
        result.append((members, Symbol(members[0], *sizes)))
    return result
