"""Lowering of exchanges between GPUs: a box is packed, copied into the receiver's memory, announced, and unpacked.

A network that is cut has a part on each GPU. For each exchange the receiver has a zone in its memory, in C order, and
all parts see a word in page-locked memory of the host. The sender's stream packs the box, copies it into the zone, and
then writes the number of the run into the word. The receiver's stream waits for that number, and copies from the zone
into its own tensor. No thread of the host waits in between.
"""

from collections.abc import Iterator, Sequence
from dataclasses import replace

from groupconv_worker.cuda.network.lowering import Lowering, Views
from groupconv_worker.cuda.network.movement import copy
from groupconv_worker.graph.graph import Graph, Node, Tensor
from groupconv_worker.graph.needed.box import Box
from groupconv_worker.graph.partition.part import RECEIVE, SEND
from groupconv_worker.graph.partition.partition import Partition
from groupconv_worker.graph.strides import dense


def numbered(made: Partition) -> list[Graph]:
    """The graph of each part, whose nodes that send and receive know the `numbers` of their boxes' exchanges."""
    found = {(e.tensor, e.sender, e.receiver, e.box): number for number, e in enumerate(made.exchanges)}

    def with_numbers(node: Node, worker: int) -> Node:
        if node.op not in (SEND, RECEIVE):
            return node
        a = node.attributes
        ends = [(worker, peer) if node.op == SEND else (peer, worker) for peer in a["peers"]]
        numbers = tuple(found[a["tensor"], *pair, box] for pair, box in zip(ends, a["boxes"], strict=True))
        return replace(node, attributes={**a, "numbers": numbers})

    return [
        replace(part.graph, nodes=tuple(with_numbers(node, part.worker) for node in part.graph.nodes))
        for part in made.parts
    ]


def lower_send(low: Lowering, node: Node) -> None:
    """Send: boxes of the input go into zones of other parts, then their words get the number of the run.

    Beside the attributes of `partition.part.SEND` there are `numbers`.
    """
    x = node.inputs[0]
    for box, number in _pieces(node):
        packed = low.between(box.shape, low.dtype(x))
        copy_box(low, x, box.relative(node.attributes["own"]), packed, _origin(box))
        _put(low, packed, number)
    for _, number in _pieces(node):
        low.meet(number, waits=False)


def lower_receive(low: Lowering, node: Node) -> None:
    """Receive: a box of a tensor from this part's own, if there is an input, and from what others have sent.

    The attributes are those of `lower_send`.
    """
    y, whole, own = node.outputs[0], node.attributes["box"], node.attributes["own"]
    for x in node.inputs:
        common = own.common(whole)
        copy_box(low, x, common.relative(own), y, common.relative(whole))
    tensor, zones = node.attributes["tensor"], []
    for box, number in _pieces(node):
        zones.append((box, low.zone(number, tensor, Tensor(tensor, low.dtype(y), box.shape))))
        low.meet(number, waits=True)
    for box, zone in zones:
        copy_box(low, zone, _origin(box), y, box.relative(whole))


def copy_box(low: Lowering, x: str, x_box: Box, y: str, y_box: Box) -> None:
    """Copy a box of a tensor to a box of another one, of the same shape."""
    steps = dense(low.shape(x)), dense(low.shape(y))
    first = _first(steps[0], x_box), _first(steps[1], y_box)
    copy(low, x_box.shape, x, steps[0], y, steps[1], first)


def _put(low: Lowering, x: str, exchange: int) -> None:
    """Copy a tensor into the zone of an exchange, on whichever device it is."""
    targets, device, nbytes = low.targets, low.device, low.tensors[x].nbytes

    def run(views: Views) -> None:
        assert device is not None, "a plan alone cannot be launched"
        cuda = device.cupy.cuda
        stream, kind = cuda.get_current_stream().ptr, cuda.runtime.memcpyDefault
        cuda.runtime.memcpyAsync(targets[exchange], views[x].data.ptr, nbytes, kind, stream)

    low.add([x], [], run)


def _pieces(node: Node) -> Iterator[tuple[Box, int]]:
    """The boxes of a node that sends or receives, with the numbers of their exchanges."""
    return zip(node.attributes["boxes"], node.attributes["numbers"], strict=True)


def _first(steps: Sequence[int], box: Box) -> int:
    """The position of a box's first element."""
    return sum(step * r.start for step, r in zip(steps, box.ranges, strict=True))


def _origin(box: Box) -> Box:
    """A box of the same shape that begins at 0."""
    return Box.whole(box.shape)
