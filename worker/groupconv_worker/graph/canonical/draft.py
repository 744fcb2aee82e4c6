"""A graph that is being rewritten."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from groupconv_worker.contract import Array
from groupconv_worker.graph.graph import Graph, Node, Tensor

Memo = dict[tuple[Any, ...], tuple[Sequence[Array], Array]]
"""Constants that rewriting computed, with those they were made of, by a name and the identities of these."""


class Draft:
    """A graph whose nodes are replaced one after another. Rules read and change it.

    Args:
        graph: where it begins.
        memo: of constants; graphs of one model that share it share the constants that are computed.

    Example:
        >>> f32 = np.dtype("float32")
        >>> tensors = {name: Tensor(name, f32, (2,)) for name in "xyz"}
        >>> nodes = (Node("Neg", ("x",), ("y",)), Node("Neg", ("y",), ("z",)))
        >>> draft = Draft(Graph(("x",), ("z",), nodes, tensors, {}))
        >>> draft.replace([*nodes], Node("Identity", ("x",), ("z",)))
        >>> [node.op for node in draft.graph().nodes]
        ['Identity']
    """

    def __init__(self, graph: Graph, memo: Memo | None = None) -> None:
        self._source = graph
        self.outputs = graph.outputs
        self.tensors: dict[str, Tensor] = dict(graph.tensors)
        self.constants: dict[str, Array] = dict(graph.constants)
        self._memo: Memo = {} if memo is None else memo
        self._nodes: dict[float, Node] = {}
        self._places: dict[str, float] = {}  # of the node that makes a tensor
        self._readers: dict[str, set[float]] = {}
        for place, node in enumerate(graph.nodes):
            self._put(float(place), node)
        self._names = 0

    def __iter__(self) -> Iterator[Node]:
        """The nodes that are there now, in order; those that a rule puts in may come or not."""
        for place in sorted(self._nodes):
            if place in self._nodes:
                yield self._nodes[place]

    def maker(self, name: str) -> Node | None:
        """The node that makes a tensor; None for inputs and constants."""
        place = self._places.get(name)
        return None if place is None else self._nodes[place]

    def made_by(self, name: str, *ops: str) -> Node | None:
        """The node that makes a tensor, if it is one of these operators and nothing else needs the tensor."""
        node = self.maker(name)
        return node if node is not None and node.op in ops and self.used_once(name) else None

    def used_once(self, name: str) -> bool:
        """Whether one node reads a tensor, and it is no output."""
        return len(self._readers.get(name, ())) == 1 and name not in self.outputs

    def readers(self, name: str) -> list[Node]:
        """The nodes that read a tensor."""
        return [self._nodes[place] for place in sorted(self._readers.get(name, ()))]

    def reader(self, node: Node, *ops: str) -> Node | None:
        """The only reader of a node's first output, if it is one of these operators."""
        name = node.outputs[0]
        if not self.used_once(name):
            return None
        (place,) = self._readers[name]
        found = self._nodes[place]
        return found if found.op in ops else None

    def value(self, name: str) -> Array | None:
        """The elements of a constant."""
        return self.constants.get(name)

    def number(self, name: str) -> float | None:
        """The value of a constant whose elements are all equal; None of others."""
        array = self.constants.get(name)
        if array is None or array.size == 0 or array.dtype.kind not in "fiu":
            return None
        first = array.reshape(-1)[0]
        return float(first) if array.size == 1 or (array.size <= 2**16 and (array == first).all()) else None

    def shape(self, name: str) -> tuple[int, ...]:
        """The shape of a tensor."""
        return self.tensors[name].shape

    def constant(self, name: str, function: Callable[..., Any], *arrays: Array, key: tuple[Any, ...] = ()) -> str:
        """Add a constant that is computed from others; it is computed once for all graphs that share the memo.

        Args:
            name: begins the new name.
            function: of the arrays.
            arrays: that it depends on.
            key: what else it depends on.
        """
        known = function.__qualname__, key, *map(id, arrays)
        if known not in self._memo:
            array = np.ascontiguousarray(function(*arrays))
            array.setflags(write=False)
            self._memo[known] = arrays, array
        return self.keep(name, self._memo[known][1])

    def keep(self, name: str, array: Array) -> str:
        """Add a constant under a name that begins with `name`, and give that name."""
        new = self.fresh(name, array.shape, array.dtype)
        self.constants[new] = array
        return new

    def fresh(self, name: str, shape: tuple[int, ...], dtype: np.dtype) -> str:
        """Add a tensor, and give its name."""
        self._names += 1
        new = f"{name}/{self._names}"
        while new in self.tensors:
            new += "'"
        self.tensors[new] = Tensor(new, dtype, shape)
        return new

    def replace(self, old: Sequence[Node], *new: Node) -> None:
        """Put nodes in the place of the last of others, which go."""
        places = [self._places[next(filter(None, node.outputs))] for node in old]
        for place in places:
            self._take(place)
        last = max(places)
        below = max((place for place in self._nodes if place < last), default=last - 1) if len(new) > 1 else last - 1
        for i, node in enumerate(new):
            self._put(last - (last - below) * (len(new) - 1 - i) / len(new), node)

    def alias(self, node: Node) -> bool:
        """Take away a node whose output is its first input. False if it makes an output out of what has to stay."""
        source, name = node.inputs[0], node.outputs[0]
        if name in self.outputs:
            maker = self.maker(source)
            if maker is None or source in self.outputs or len(maker.outputs) > 1:
                return False
            readers = [self._nodes[place] for place in self._readers[source]]
            self.replace([node])
            self.replace([maker], replace(maker, outputs=(name,)))
            self._redirect([reader for reader in readers if reader is not node], source, name)
            return True
        readers = [self._nodes[place] for place in self._readers.get(name, ())]
        self.replace([node])
        self._redirect(readers, name, source)
        return True

    def graph(self) -> Graph:
        """The rewritten graph, without nodes and constants that no output needs."""
        needed, nodes = set(self.outputs), []
        for place in sorted(self._nodes, reverse=True):
            node = self._nodes[place]
            if needed.intersection(node.outputs):
                nodes.append(node)
                needed.update(filter(None, node.inputs))
        produced = {name for node in nodes for name in node.outputs if name}
        constants = {name: array for name, array in self.constants.items() if name in needed}
        used = {*self._source.inputs, *produced, *constants}
        tensors = {name: tensor for name, tensor in self.tensors.items() if name in used}
        return Graph(self._source.inputs, self.outputs, tuple(reversed(nodes)), tensors, constants)

    def _redirect(self, readers: Sequence[Node], name: str, to: str) -> None:
        for reader in readers:
            inputs = tuple(to if source == name else source for source in reader.inputs)
            self.replace([reader], replace(reader, inputs=inputs))

    def _put(self, place: float, node: Node) -> None:
        self._nodes[place] = node
        for name in node.outputs:
            if name:
                self._places[name] = place
        for name in node.inputs:
            if name:
                self._readers.setdefault(name, set()).add(place)

    def _take(self, place: float) -> None:
        node = self._nodes.pop(place)
        for name in node.outputs:
            if self._places.get(name) == place:
                del self._places[name]
        for name in node.inputs:
            if name:
                self._readers[name].discard(place)
