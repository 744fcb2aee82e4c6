"""Places for the boxes of a network's picture: layers from top to bottom, few crossings, wrapped into columns.

Source: Sugiyama, Tagawa and Toda, Methods for Visual Understanding of Hierarchical System Structures, 1981.
"""

import itertools
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

SWEEPS = 6
"""Passes over the layers in which each layer is ordered by the middle of its neighbors."""
ONE_COLUMN = 24
"""Layers that are not wrapped."""
FLAT = 2.5
"""Width of a box, in distances of layers."""
PASSING = 0.35
"""Width of an edge that passes a layer, where a box has 1."""


@dataclass
class Layout:
    """Where boxes and edges are.

    Attributes:
        boxes: (column, x, y) by box; y counts layers from the top of a column, x boxes from its middle.
        edges: points (column, x, y) from a box to one that reads it.
        layers: of each column.
        width: of each column, in boxes.
    """

    boxes: dict[int, tuple[int, float, int]] = field(default_factory=dict)
    edges: list[list[tuple[int, float, int]]] = field(default_factory=list)
    layers: list[int] = field(default_factory=list)
    width: list[float] = field(default_factory=list)


def arrange(readers: Mapping[int, Sequence[int]], count: int, rows: int | None = None) -> Layout:
    """Arrange boxes that are numbered in an order in which each comes before its readers.

    Args:
        readers: the boxes that read each box.
        count: of boxes.
        rows: layers of a column; None for what makes the picture about as high as wide.

    Example:
        >>> layout = arrange({0: [1, 2], 1: [3], 2: [3]}, 4, rows=10)
        >>> [y for _, _, y in layout.boxes.values()], layout.boxes[1][1] != layout.boxes[2][1]
        ([0, 1, 1, 2], True)
    """
    depth = [0] * count
    for i in range(count):
        for reader in readers.get(i, ()):
            depth[reader] = max(depth[reader], depth[i] + 1)
    layers: list[list[int]] = [[] for _ in range(max(depth, default=-1) + 1)]
    for i in range(count):
        layers[depth[i]].append(i)
    chains = _passing_edges(readers, depth, layers, count)
    below: dict[int, list[int]] = {}
    above: dict[int, list[int]] = {}
    for chain in chains:
        for upper, lower in itertools.pairwise(chain):
            below.setdefault(upper, []).append(lower)
            above.setdefault(lower, []).append(upper)
    x = _placed(layers, above, below, count)
    rows = rows or _rows(len(layers), max(x.values(), default=0) - min(x.values(), default=0) + 1)
    layout = Layout()
    for start in range(0, len(layers), rows):
        part = [x[item] for layer in layers[start : start + rows] for item in layer]
        layout.layers.append(min(rows, len(layers) - start))
        layout.width.append(max(part) - min(part) + 1)
        for layer in layers[start : start + rows]:
            for item in layer:
                x[item] -= (max(part) + min(part)) / 2
    where = {item: (y // rows, x[item], y % rows) for y, layer in enumerate(layers) for item in layer}
    layout.boxes = {i: where[i] for i in range(count)}
    layout.edges = [[where[item] for item in chain] for chain in chains]
    return layout


def _rows(layers: int, width: float) -> int:
    """Layers of a column: all if they are few, else so many that the picture is about as high as wide."""
    return max(1, layers) if layers <= ONE_COLUMN else max(ONE_COLUMN // 2, math.ceil(math.sqrt(layers * width * FLAT)))


def _passing_edges(
    readers: Mapping[int, Sequence[int]], depth: Sequence[int], layers: list[list[int]], count: int
) -> list[list[int]]:
    """Each edge as the items it meets, one a layer: boxes at its ends, places to pass between them."""
    chains, new = [], count
    for i in range(count):
        shared: list[int] = []  # edges of one box to several readers pass through the same places
        for reader in sorted(set(readers.get(i, ())), key=lambda r: depth[r]):
            while len(shared) < depth[reader] - depth[i] - 1:
                layers[depth[i] + 1 + len(shared)].append(new)
                shared.append(new)
                new += 1
            chains.append([i, *shared[: depth[reader] - depth[i] - 1], reader])
    return chains


def _placed(
    layers: list[list[int]], above: Mapping[int, list[int]], below: Mapping[int, list[int]], count: int
) -> dict[int, float]:
    x = {item: float(i) for layer in layers for i, item in enumerate(layer)}
    for sweep in range(SWEEPS):
        down = sweep % 2 == 0
        for layer in layers if down else reversed(layers):
            wanted = {}
            for item in layer:
                near = (above if down else below).get(item, [])
                wanted[item] = sum(x[n] for n in near) / len(near) if near else x[item]
            layer.sort(key=lambda item: wanted[item])
            edge, total = float("-inf"), 0.0
            for item in layer:
                half = (1 if item < count else PASSING) / 2
                x[item] = max(wanted[item], edge + half)
                edge = x[item] + half
                total += x[item] - wanted[item]
            for item in layer:
                x[item] -= total / len(layer)
    return x
