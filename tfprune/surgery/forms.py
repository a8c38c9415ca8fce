"""Where the cut form of an opened model lives: the smallest thing whose constructor can say its shape.

- "class": the model's own class, built from its configuration with smaller numbers (all blocks alike).
- "layers": a plain functional model of the model's own blocks, each built from its own configuration.
- "plain": layers of Keras alone; weights that code reads itself become those of an Embedding.
- "copy": a copy of the model in which the cut layers and weights stand in the place of the old ones.
- "graph": layers of Keras and operations of this package, where code asks one width for another, so that no copy of it
  runs once they differ.

Nothing is guessed without being checked: all weights have the cut shapes, and the result computes what was cut.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import keras
import numpy as np

from tfprune.borders import in_one_line, warn
from tfprune.graph.nodes import STANDING
from tfprune.graph.opened import (
    is_opened,
    other_in_training,
)
from tfprune.graph.told import keep_input_shapes
from tfprune.graph.walk import functional
from tfprune.surgery.configuring import SHAPES, Refused
from tfprune.surgery.housing import House
from tfprune.surgery.origins import ORIGIN, origin_after
from tfprune.surgery.rebuild import Cut, Rebuild
from tfprune.surgery.recompiling import compile_like

FORMS = ("auto", "class", "layers", "plain", "copy", "graph")
"""The forms, in the order in which "auto" tries them."""
_PLACE = "_tfprune_form"


@dataclass(frozen=True)
class Form:
    """In which form a model was cut, and why not in one that stands before it.

    Attributes:
        name: "class", "layers", "plain", "copy" or "graph".
        refused: for each form that was tried before, why it could not be.
    """

    name: str
    refused: dict[str, str]


def form_of(model: keras.Model) -> Form:
    """Returns in which form `remove` has cut a model, and why not in another one.

    Args:
        model: what `remove` has returned.

    Raises:
        ValueError: if it was not cut by `remove` in this process.
    """
    form = vars(model).get(_PLACE)
    if not isinstance(form, Form):
        raise ValueError(f"model {model.name!r} was not cut by remove in this process, so it is in no form of its own.")
    return form


def finished(model: keras.Model, rebuilt: Rebuild, *, form: str = "auto", keep_optimizer: bool = False) -> keras.Model:
    """Returns a rebuilt model in its form, compiled as the original is.

    Args:
        model: the original.
        rebuilt: what was made of it.
        form: one of `FORMS`. A model that was not opened is in the form "plain" as it is.
        keep_optimizer: as for `compile_like`.

    Raises:
        ValueError: if it cannot be in this form.
    """
    if is_opened(functional(model)) or form not in ("auto", "plain"):
        rebuilt.model = _housed(rebuilt, form)
    else:
        vars(rebuilt.model)[_PLACE] = Form("plain", {})
    keep_input_shapes(model, rebuilt.model)
    compile_like(model, rebuilt, keep_optimizer=keep_optimizer)
    return rebuilt.model


def _housed(rebuilt: Rebuild, form: str) -> keras.Model:
    """Returns the rebuilt model in a form, the first that can be where it is "auto"."""
    house, refused = House(rebuilt), dict[str, str]()
    for name in house.order if form == "auto" else (form,):
        held = [(own, {key: vars(own).get(key) for key in STANDING}) for own in rebuilt.operations.values()]
        try:
            model = getattr(house, f"as_{name}")()
            if name not in ("plain", "graph"):
                house.check(model)
        except Refused as reason:
            refused[name] = str(reason)
        except Exception as error:  # The code of a stranger, with other numbers than it was written for.
            refused[name] = f"{type(error).__name__}: {in_one_line(error)}"
        if name in refused:
            # A form may have put layers of the cut graph into another one.
            for own, before in held:
                vars(own).update({key: value for key, value in before.items() if value is not None})
        else:
            if name in ("plain", "graph") and other_in_training(house.model):
                others = ", ".join(map(repr, other_in_training(house.model)))
                warn(
                    f"{rebuilt.verb}: in training, the code of {others} does something else, which the result in the "
                    f"form {name!r} does not do. Its predictions are right; form='copy' keeps the code."
                )
            vars(model)[_PLACE] = Form(name, refused)
            vars(model).pop(ORIGIN, None)
            if name in ("copy", "graph"):
                vars(model)[ORIGIN] = origin_after(rebuilt, name)
                vars(model)["save"] = _warn_and_save(model)
            return model
    told = "; ".join(f"{name}: {reason}" for name, reason in refused.items())
    way_out = "cut other groups, as many of each in all blocks (uniform=True), or " if SHAPES in told else ""
    raise ValueError(
        f"form: model {rebuilt.graph.model.name!r} cannot be cut in the form {form!r} ({told}). Cut are units of "
        f"{_changed_groups(rebuilt)}: {way_out}take another form."
    )


def _changed_groups(rebuilt: Rebuild, most: int = 6) -> str:
    """Returns the names of the groups of which units went."""
    graph, on = rebuilt.graph, rebuilt.on if isinstance(rebuilt, Cut) else np.ones(0, bool)
    starts = {name: graph[name].start for name in graph.sizes_with_blocks}
    names = [name for name, start in starts.items() if not on[start : start + graph[name].size].all()]
    return ", ".join(names[:most]) + (f" and {len(names) - most} more" if len(names) > most else "")


def _warn_and_save(model: keras.Model) -> Callable:
    def save(*args: Any, **kwargs: Any) -> None:
        name = form_of(model).name
        why = (
            "so that Keras cannot load the file: its class would build the old widths"
            if name == "copy"
            else "with operations of this package, so that Keras loads the file at most where tfprune is imported"
        )
        warn(
            f"save: model {model.name!r} was cut in the form {name!r}, {why}. Use tfprune.save(model, path) and "
            "tfprune.load(path)."
        )
        type(model).save(model, *args, **kwargs)

    return save
