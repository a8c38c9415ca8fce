"""How the inputs of a model may be laid out when its code is run: shapes, types, and which open lengths are one."""

from __future__ import annotations

import inspect
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import keras
from keras import tree

from tfprune.graph.sizes import Symbol

SMALL, OTHER, THIRD = (2, 11), (3, 17), (4, 13)
"""Batch and length of the two traces, and of the run that checks what was read."""


@dataclass(frozen=True)
class Layout:
    """How an input is laid out: its shape, None where it is open, its type and name."""

    shape: tuple[int | None, ...]
    dtype: str
    name: str


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


def ways_of(given: list[Any], has_graph: bool) -> Iterator[tuple[list[Layout], str | int]]:
    """Yields how the inputs may be laid out, the most general way first: shapes, and which lengths are one."""
    plain = [Layout(tuple(own.shape), own.dtype, own.name) for own in given]
    variants = [plain]
    if not has_graph:
        open_lengths = [Layout((None,) * min(2, len(p.shape)) + p.shape[2:], p.dtype, p.name) for p in plain]
        integers = [[Layout(p.shape, "int32", p.name) for p in own] for own in (open_lengths, plain)]
        variants = [open_lengths, plain, *integers]
    for own in variants:
        lengths = [p for p in own if None in p.shape[1:]]
        # One of several may have a length of its own: the places of the tokens that are to be guessed, say.
        alone = [number for number, p in enumerate(own) if None in p.shape[1:]] if len(lengths) > 2 else []
        for groups in ("apart", "by_prefix", *alone, "one") if len(lengths) > 1 else ("one",):
            yield own, groups
    for own in variants:
        if any(None in p.shape[1:] for p in own):
            yield [Layout((p.shape[0], *(n or THIRD[1] for n in p.shape[1:])), p.dtype, p.name) for p in own], "one"


def symbols_of(inputs: list[Layout], groups: str | int) -> list[tuple[list[tuple[int, int]], Symbol]]:
    """Returns the open lengths of the inputs: which axes are one, and what they are in both traces."""
    found: dict[Any, list[tuple[int, int]]] = {}
    for number, own in enumerate(inputs):
        for axis, length in enumerate(own.shape):
            if length is None:
                prefix = own.name.split("_")[0] if groups == "by_prefix" else number if groups == "apart" else None
                prefix = number == groups if isinstance(groups, int) else prefix
                found.setdefault((axis, None if axis == 0 else prefix), []).append((number, axis))
    result = []
    for (axis, _), members in found.items():
        if axis == 0:
            result.append((members, Symbol(members[0], SMALL[0], OTHER[0])))
        else:
            # Numbers that no two of these have in common.
            step = 2 * sum(own.axis[1] > 0 for _, own in result)
            result.append((members, Symbol(members[0], SMALL[1] + step, OTHER[1] + 3 * step)))
    return result
