"""Which units of a model are one group, and which ones stay."""

from __future__ import annotations

import numpy as np

from tfprune.graph.ids import NOTHING
from tfprune.graph.step import Records


def group_units(records: Records, labels: np.ndarray, removable: np.ndarray) -> tuple[list, np.ndarray]:
    """Returns the groups as `(name, emitters, labels of the units)`, and the labels of all units in column order.

    Units with the same members are one group, so far as all of them are in the same slices: none is to be emptied, as
    long as one unit of each group stays. Units come in the order in which the first member makes them.
    """
    emitters = list(records.emitters.values())
    every = (*(own.ids for own in emitters), *records.parts)
    made = [_without_repeats(labels[ids[ids != NOTHING]]) for ids in every]
    made = [own[removable[own]] for own in made]
    # Each label belongs to one class: the emitters that make it and the parts that hold it, as far as gone through.
    sets: list[tuple[int, ...]] = [()]
    classes = np.zeros(len(labels), int)
    for number, own in enumerate(made):
        before = classes[own]
        for known in np.unique(before).tolist():
            classes[own[before == known]] = len(sets)
            sets.append((*sets[known], number))
    found = []
    for known in np.unique(classes[classes > 0]).tolist():
        members = [number for number in sets[known] if number < len(emitters)]
        within = classes[made[members[0]]] == known
        found.append((members, int(np.argmax(within)), made[members[0]][within]))
    groups, used = [], {}
    for members, _, units in sorted(found, key=lambda own: own[:2]):
        name = emitters[members[0]].name
        used[name] = used.get(name, 0) + 1
        name = name if used[name] == 1 else f"{name}#{used[name]}"
        groups.append((name, [emitters[number] for number in members], units))
    return groups, np.concatenate([np.zeros(0, int), *(own for _, _, own in groups)])


def _without_repeats(values: np.ndarray) -> np.ndarray:
    """Returns the different values in the order in which they come first."""
    if (values[1:] > values[:-1]).all():
        return values
    return values[np.sort(np.unique(values, return_index=True)[1])]


def fixed_layers(
    records: Records, labels: np.ndarray, reasons: dict[int, str], removable: np.ndarray
) -> dict[str, tuple[int, str]]:
    """Returns for every layer with units that stay how many they are, and why."""
    result = {}
    for emitter in records.emitters.values():
        own = labels[emitter.ids]
        own = np.unique(own[~removable[own]])
        if len(own):
            result[emitter.name] = (len(own), reasons[int(own[0])])
    return result
