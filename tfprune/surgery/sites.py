"""The layers that read units, in the order in which they are repaired, and what runs into them."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Any

import keras
import numpy as np
from keras import layers

from tfprune.graph.walk import ancestors, flat_nodes
from tfprune.repair.readers import Reading, readings
from tfprune.surgery.rebuild import Cut


@dataclass(eq=False)
class Site:
    """A layer with kernels, in the original and in the cut model.

    Attributes:
        name: the layer's name.
        old: the layer of the original model.
        new: the layer of the cut model.
        old_nodes: the calls of the old layer.
        new_nodes: those of the new one, in the same order.
        kernels: the readings of both layers, side by side.
        before: the sites that run before this one.
        behind_gone: whether blocks that are gone ran before it.
    """

    name: str
    old: Any
    new: Any
    old_nodes: list[Any]
    new_nodes: list[Any]
    kernels: list[tuple[Reading, Reading]]
    before: set[Site] = field(default_factory=set)
    behind_gone: bool = False


def find_sites(cut: Cut) -> list[Site]:
    """Returns the sites, each after all that run before it."""
    model = cut.graph.model
    calls: dict[int, list[Any]] = {}
    for node in flat_nodes(model):
        # With a block its readers go.
        if id(node) in cut.nodes and id(node) not in cut.removal.passed:
            calls.setdefault(id(node.operation), []).append(node)
    sites = []
    for nodes in calls.values():
        old, new = nodes[0].operation, cut.operations[id(nodes[0].operation)]
        kernels = list(zip(readings(old), readings(new), strict=True))
        if kernels and not _has_units_as_groups(cut, old):
            sites.append(Site(old.name, old, new, nodes, [cut.nodes[id(node)] for node in nodes], kernels))
    for site in sites:
        running = ancestors(model, {id(node) for node in site.old_nodes})
        site.behind_gone = not cut.removal.nodes.isdisjoint(running)
        site.before = {other for other in sites if other is not site and any(id(n) in running for n in other.old_nodes)}
    # What runs before a site has fewer sites before it. A shortcut's projection comes before the longer branch.
    return sorted(sites, key=lambda site: len(site.before))


def _has_units_as_groups(cut: Cut, layer: Any) -> bool:
    """Whether a layer is a grouped convolution whose groups are units: its kernel contracts over none."""
    if getattr(layer, "groups", 1) == 1:
        return False
    record = cut.graph.records.weights.get(id(layer.kernel))
    return record is None or record.axes[-2] is None


@dataclass(frozen=True)
class Addition:
    """A site's output, through batch norms at most, is added to others that the cut has changed already.

    Attributes:
        norm: the batch norm between, or None.
        others: for every other addend, the node of the original and of the cut model that makes it.
    """

    norm: Any
    others: list[tuple[Any, Any]]


class Followers:
    """Who reads what in the original model."""

    def __init__(self, cut: Cut):
        self._cut = cut
        self._readers: dict[int, list[Any]] = {}
        self._makers: dict[int, Any] = {}
        for node in flat_nodes(cut.graph.model):
            for tensor in node.input_tensors:
                self._readers.setdefault(id(tensor), []).append(node)
            for tensor in node.outputs:
                self._makers[id(tensor)] = node

    def batch_norm(self, site: Site) -> Any:
        """Returns the batch norm that alone reads what the site's kernel makes, right behind it, or None."""
        norms = {id(node.operation): node.operation for node in self._only_readers(site)}
        norm = next(iter(norms.values()), None)
        if len(norms) != 1 or type(norm) is not layers.BatchNormalization or not _is_linear(site):
            return None
        rank = len(site.old_nodes[0].outputs[0].shape)
        inner = getattr(site.old, "layer", site.old)
        axis = 1 if getattr(inner, "data_format", None) == "channels_first" else rank - 1
        return norm if len(site.kernels) == 1 and norm.axis % rank == axis else None

    def _only_readers(self, site: Site) -> list[Any]:
        result = []
        for node in site.old_nodes:
            readers = self._readers.get(id(node.outputs[0]), [])
            result += readers if len(readers) == 1 else [None]
        return [] if None in result else result

    def addition(self, site: Site, done: set[Site]) -> Addition | None:
        """Returns the addition that the site's output goes into, if all that its other addends stand on is repaired.

        Only what the kernel makes, with no activation behind it, can make up for an error there.
        """
        readers = self._only_readers(site)
        if len(site.old_nodes) != 1 or len(readers) != 1 or not _is_linear(site):
            return None
        norm, came_from = None, site.old_nodes[0].outputs[0]
        if type(readers[0].operation) is layers.BatchNormalization:
            norm, came_from = readers[0].operation, readers[0].outputs[0]
            readers = self._readers.get(id(came_from), [])
        if len(readers) != 1 or type(readers[0].operation) is not layers.Add:
            return None
        others = [self._makers.get(id(tensor)) for tensor in readers[0].input_tensors if tensor is not came_from]
        # What a block that is gone gave on has no node of its own any more.
        if any(node is None or id(node) not in self._cut.nodes for node in others):
            return None
        if any(not self._repaired(node, site, done) for node in others):
            return None
        return Addition(norm, [(node, self._cut.nodes[id(node)]) for node in others])

    def _repaired(self, node: Any, site: Site, done: set[Site]) -> bool:
        running = ancestors(self._cut.graph.model, {id(node)})
        every = {*done, *self._sites}
        return all(other in done for other in every if any(id(own) in running for own in other.old_nodes))

    def watch(self, sites: list[Site]) -> None:
        """Tells which sites there are."""
        self._sites = sites


def _is_linear(site: Site) -> bool:
    """Whether the site gives out what its kernel makes, as it is."""
    inner = getattr(site.old, "layer", site.old)
    # Cells and directions hold the activations of these.
    is_recurrent = isinstance(inner, layers.RNN | layers.Bidirectional)
    return not is_recurrent and getattr(inner, "activation", None) in (None, keras.activations.linear)


def batch_size_for(site: Site, most: int = 250) -> int:
    """Returns how many samples are run at once so that the rows of a site's kernels stay within bounds."""
    floats = 1
    for old, _ in site.kernels:
        taps, rows, _ = old.view(np.zeros(old.kernel.shape, bool)).shape
        shapes = [tensor.shape for node in site.old_nodes for tensor in (*node.input_tensors, *node.outputs)]
        positions = max(math.prod(length or 1 for length in shape[1:-1]) for shape in shapes)
        floats = max(floats, taps * rows * positions)
    return int(np.clip(2**25 // floats, 1, most))
