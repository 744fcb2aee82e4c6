"""Lowering of exchanges between GPUs: a box is packed, put where the receiver takes it, announced, and unpacked.

A network that is cut has a part on each GPU. For each exchange the receiver has a place in the landing area of its own
memory, and both parts see a semaphore in page-locked memory of the host. The sender's stream packs the box, copies it
to its target, and then writes the number of the run into the semaphore. The receiver's stream waits for that number,
and copies the box into its own tensor. No thread of the host waits in between.

The target is the landing area, if the sender's process has it: as its own memory, or opened through CUDA IPC. Else it
is a zone in page-locked memory, from which the receiver's stream first copies to the landing area.
"""

import math
from collections.abc import Iterator, Sequence

from groupconv_worker.cuda.device import Device
from groupconv_worker.cuda.network.lowering import CudaLowering, Views
from groupconv_worker.cuda.network.movement import copy
from groupconv_worker.graph.graph import Graph, Node, Tensor
from groupconv_worker.graph.needed.box import Box
from groupconv_worker.graph.partition import zones
from groupconv_worker.graph.partition.partition import Partition
from groupconv_worker.graph.partition.zones import Zone
from groupconv_worker.graph.strides import dense

ALIGNMENT = 256
"""Bytes that boxes begin at multiples of, as arrays of CuPy do."""
BLOCK = 8
"""Channels are cut at its multiples where there are enough: tensor cores take so many of 16 bits at once."""


def connected(partition: Partition) -> tuple[list[Graph], int]:
    """The graph of each part for its GPU, and the bytes of the memory that the parts of a node share (see `zones`)."""
    return zones.connected(partition, _zone_bytes)


def _zone_bytes(tensor: Tensor, box: Box) -> int:
    return -(-math.prod(box.shape) * tensor.dtype.itemsize // ALIGNMENT) * ALIGNMENT


def lower_send(low: CudaLowering, node: Node) -> None:
    """Send: boxes of the input go to their targets, then their semaphores get the number of the run.

    Beside the attributes of `partition.part.SEND` there are `zones`.
    """
    x = node.inputs[0]
    for box, zone in _pieces(node):
        packed = low.between(box.shape, low.dtype(x))
        copy_box(low, x, box.relative(node.attributes["own"]), packed, _origin(box))
        _put(low, packed, zone.semaphore)
    for _, zone in _pieces(node):
        low.meet(zone.semaphore, waits=False)


def lower_receive(low: CudaLowering, node: Node) -> None:
    """Receive: a box of a tensor from this part's own, if there is an input, and from what others have sent.

    The attributes are those of `lower_send`.
    """
    y, whole, own = node.outputs[0], node.attributes["box"], node.attributes["own"]
    for x in node.inputs:
        common = own.common(whole)
        copy_box(low, x, common.relative(own), y, common.relative(whole))
    tensor, landed = node.attributes["tensor"], []
    for box, zone in _pieces(node):
        landed.append((box, zone, low.landed(zone, tensor, Tensor(tensor, low.dtype(y), box.shape))))
        low.meet(zone.semaphore, waits=True)
    for _, zone, name in landed:
        _fetch(low, name, zone.semaphore)
    for box, _, name in landed:
        copy_box(low, name, _origin(box), y, box.relative(whole))


def copy_box(low: CudaLowering, x: str, x_box: Box, y: str, y_box: Box) -> None:
    """Copy a box of a tensor to a box of another one, of the same shape."""
    steps = dense(low.shape(x)), dense(low.shape(y))
    first = _first(steps[0], x_box), _first(steps[1], y_box)
    copy(low, x_box.shape, x, steps[0], y, steps[1], first)


def _put(low: CudaLowering, x: str, semaphore: int) -> None:
    """Copy a tensor to the target of an exchange, wherever it is."""
    targets, device, nbytes = low.routes.targets, low.device, low.tensors[x].nbytes

    def run(views: Views) -> None:  # it holds no weights on the host
        _copy(device, targets[semaphore], views[x].data.ptr, nbytes)

    low.add([x], [], run)


def _fetch(low: CudaLowering, y: str, semaphore: int) -> None:
    """Copy what an exchange has brought to the landing area, if it did not come there."""
    sources, device, nbytes = low.routes.sources, low.device, low.tensors[y].nbytes

    def run(views: Views) -> None:
        if semaphore in sources:
            _copy(device, views[y].data.ptr, sources[semaphore], nbytes)

    low.add([], [y], run)


def _copy(device: Device | None, to: int, source: int, nbytes: int) -> None:
    assert device is not None, "a plan alone cannot be launched"
    cuda = device.cupy.cuda
    stream, kind = cuda.get_current_stream().ptr, cuda.runtime.memcpyDefault
    cuda.runtime.memcpyAsync(to, source, nbytes, kind, stream)


def _pieces(node: Node) -> Iterator[tuple[Box, Zone]]:
    """The boxes of a node that sends or receives, with their zones."""
    return zip(node.attributes["boxes"], node.attributes["zones"], strict=True)


def _first(steps: Sequence[int], box: Box) -> int:
    """The position of a box's first element."""
    return sum(step * r.start for step, r in zip(steps, box.ranges, strict=True))


def _origin(box: Box) -> Box:
    """A box of the same shape that begins at 0."""
    return Box.whole(box.shape)
