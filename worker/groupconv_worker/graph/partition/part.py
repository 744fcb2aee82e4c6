"""What one worker computes of a network: a graph of its own, with nodes that send and receive."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import reduce

import numpy as np

from groupconv_worker.contract import Array
from groupconv_worker.graph.graph import Graph, Node, Tensor
from groupconv_worker.graph.needed.box import Box
from groupconv_worker.graph.partition.cut import Cut
from groupconv_worker.graph.partition.local import LocalNode

SEND = "Send"
"""An operator that sends boxes of its input to other workers, and does not wait.

Attributes: `tensor`, its name in the whole graph; `own`, the box of the input; `peers`, the receivers; `boxes`, what
each is sent. All boxes are of the whole tensor.
"""
RECEIVE = "Receive"
"""An operator that waits for boxes of a tensor and puts them together with the worker's own part.

Attributes as of `Send`, `peers` being the senders; and `box`, that of the output. Without an input the worker makes
nothing of the tensor, and `own` is None. What both have is taken from the own part.
"""


@dataclass(frozen=True, slots=True)
class Incoming:
    """A box of a tensor that a worker needs and does not make alone.

    Attributes:
        box: all that it needs beyond its own part, and what lies between.
        pieces: who sends which part of it.
    """

    box: Box
    pieces: tuple[tuple[int, Box], ...]


@dataclass(frozen=True)
class Part:
    """What one worker computes.

    Attributes:
        worker: its number.
        graph: its inputs, outputs and the tensors that it makes alone have the names of the whole; a part of a tensor
            that is assembled or taken has the name with its box behind it. Operators are ONNX's and those of canonical
            form, on the shapes of the parts, and `Send` and `Receive`.
        inputs: the box of each input that it is sent.
        outputs: the box of each output that it makes.
    """

    worker: int
    graph: Graph
    inputs: Mapping[str, Box]
    outputs: Mapping[str, Box]


class PartBuilder:
    """Builds the graph of one worker, node by node.

    Args:
        graph: the whole.
        cuts: of its tensors.
        worker: whose graph it is.
        needs: the boxes that its nodes read, by tensor.
        incoming: tensors of which it receives parts.
        outgoing: for tensors that it makes, who is sent which box.
    """

    def __init__(
        self,
        graph: Graph,
        cuts: Mapping[str, Cut],
        worker: int,
        needs: Mapping[str, Sequence[Box]],
        incoming: Mapping[str, Incoming],
        outgoing: Mapping[str, Sequence[tuple[int, Box]]],
    ) -> None:
        self._graph, self._worker, self._incoming, self._outgoing = graph, worker, incoming, outgoing
        self._nodes: list[Node] = []
        self._tensors: dict[str, Tensor] = {}
        self._constants: dict[str, Array] = {}
        self._held: dict[str, list[tuple[Box, str]]] = {}
        self._inputs: dict[str, Box] = {}
        for name in graph.inputs:
            if boxes := needs.get(name):
                self._inputs[name] = reduce(Box.joined, boxes)
                self._hold(name, name, self._inputs[name])
        boxes_made = {name: cut.boxes[worker] for name, cut in cuts.items()}
        self._own = {name: box for name, box in boxes_made.items() if box is not None}

    def add(self, local: LocalNode) -> None:
        """Add a node: what it reads, itself, what is kept of its outputs, and what is sent of them."""
        inputs = [
            self._value(name, box) if box else "" for name, box in zip(local.node.inputs, local.reads, strict=True)
        ]
        outputs, wanted_parts = [], []
        for name, makes in zip(local.node.outputs, local.makes, strict=True):
            wanted = self._own.get(name)
            if makes is None:
                outputs.append("")
            elif wanted == makes:
                outputs.append(self._hold(name, name, makes))
            else:
                outputs.append(self._tensor(name, f"{name}{_text(makes)}", makes))
                wanted_parts += [] if wanted is None else [(name, outputs[-1], makes, wanted)]
        self._nodes.append(replace(local.node, inputs=tuple(inputs), outputs=tuple(outputs)))
        for name, source, makes, wanted in wanted_parts:  # what is made beyond the wanted part need not be right
            self._slice(source, makes, name, name, wanted)
        for name in local.node.outputs:
            if sent := self._outgoing.get(name):
                self._exchange(SEND, name, [(self._own[name], name)], (), sent)

    def part(self, outputs: Sequence[str]) -> Part:
        """The finished part, which makes a box of each of these outputs."""
        boxes = {}
        for name in outputs:
            boxes[name] = self._own.get(name) or Box.whole(self._graph.tensors[name].shape)
            self._value(name, boxes[name])
        graph = Graph(tuple(self._inputs), tuple(outputs), tuple(self._nodes), self._tensors, self._constants)
        return Part(self._worker, graph, self._inputs, boxes)

    def _value(self, name: str, box: Box) -> str:
        """The local name of a box of a tensor: it is there, or is taken from what is there or arrives."""
        for held, local in self._held.get(name, ()):
            if held == box:
                return local
        if name in self._graph.constants:
            return self._constant(name, box)
        local = f"{name}{_text(box)}"
        for held, source in self._held.get(name, ()):
            if box.within(held):
                return self._slice(source, held, local, name, box)
        incoming = self._incoming[name]
        own = self._own.get(name)
        parts = [(own, name)] if own is not None and own.common(incoming.box) else []
        arrived = self._hold(name, f"{name}{_text(incoming.box)}", incoming.box)
        self._exchange(RECEIVE, name, parts, (arrived,), incoming.pieces, box=incoming.box)
        return self._value(name, box)

    def _constant(self, name: str, box: Box) -> str:
        array = self._graph.constants[name]
        whole = box.shape == array.shape
        local = self._hold(name, name if whole else f"{name}{_text(box)}", box)
        self._constants[local] = array if whole else np.ascontiguousarray(array[box.slices])
        return local

    def _slice(self, source: str, held: Box, local: str, name: str, box: Box) -> str:
        inner = box.relative(held)
        attributes = {
            "starts": tuple(r.start for r in inner.ranges),
            "ends": tuple(r.stop for r in inner.ranges),
            "axes": tuple(range(len(inner.ranges))),
            "steps": (1,) * len(inner.ranges),
        }
        self._hold(name, local, box)
        self._nodes.append(Node("Slice", (source,), (local,), attributes, local))
        return local

    def _exchange(
        self,
        op: str,
        name: str,
        own: Sequence[tuple[Box, str]],
        outputs: tuple[str, ...],
        pieces: Sequence[tuple[int, Box]],
        **more: Box,
    ) -> None:
        attributes = {
            "tensor": name,
            "own": own[0][0] if own else None,
            "peers": tuple(peer for peer, _ in pieces),
            "boxes": tuple(piece for _, piece in pieces),
            **more,
        }
        inputs = tuple(source for _, source in own)
        self._nodes.append(Node(op, inputs, outputs, attributes, f"{op} {name}"))

    def _hold(self, name: str, local: str, box: Box) -> str:
        self._held.setdefault(name, []).append((box, local))
        return self._tensor(name, local, box)

    def _tensor(self, name: str, local: str, box: Box) -> str:
        self._tensors[local] = Tensor(local, self._graph.tensors[name].dtype, box.shape)
        return local


def _text(box: Box) -> str:
    """A box as an index, for names."""
    return "[" + ",".join(f"{r.start}:{r.stop}" for r in box.ranges) + "]"
