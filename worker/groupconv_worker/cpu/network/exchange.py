"""Lowering of exchanges between workers: a box is packed, announced, awaited, and unpacked where it belongs.

A network that is cut has a program on each worker. They share one block of memory: a semaphore for each exchange, and a
zone for what it carries. The sender copies into the zone, then writes the number of the run into the semaphore. The
receiver waits for that number, and copies from the zone into its own tensor. So what an earlier run left half sent is
never taken for this run's.
"""

import math

from groupconv_worker.cpu.blocked.kernels.blocks import LANES
from groupconv_worker.cpu.blocked.layout import Blocked
from groupconv_worker.cpu.network.arrays import copy_box
from groupconv_worker.cpu.network.convolutions import STEM
from groupconv_worker.cpu.network.kernels import exchange
from groupconv_worker.cpu.network.lowering import FIRST_INPUT, CpuLowering, Map
from groupconv_worker.cpu.network.maps import pick, region
from groupconv_worker.cpu.network.planning import is_map
from groupconv_worker.cpu.stages import Address
from groupconv_worker.graph.graph import Node, Tensor
from groupconv_worker.graph.needed.box import Box
from groupconv_worker.graph.partition.zones import LINE


def is_blocked(tensor: Tensor) -> bool:
    """Whether parts of a tensor travel channel-blocked. A stem reads its few channels in C order."""
    return is_map(tensor) and len(tensor.shape) == 4 and tensor.shape[1] > STEM


def zone_bytes(box: Box, *, blocked: bool) -> int:
    """Bytes of the zone of a box of elements of 4 bytes."""
    if not blocked:
        return -(-4 * math.prod(box.shape) // LINE) * LINE
    samples, channels, rows, columns = box.shape
    return samples * Blocked(channels, rows, columns, LANES).nbytes


def lower_send(low: CpuLowering, node: Node) -> None:
    """Send: boxes of the input go into zones, then their semaphores get the number of the run.

    Beside the attributes of `partition.part.SEND` there are `zones`, in the shared memory, and `blocked`: whether they
    are channel-blocked.
    """
    x, own = node.inputs[0], node.attributes["own"]
    for box, semaphore, zone in _pieces(low, node):
        inner = box.relative(own)
        if node.attributes["blocked"]:
            channels = inner.ranges[1]
            pick(low, region(low.map(x), inner), _zone(box, zone), range(channels.start, channels.stop))
        else:
            copy_box(low, low.array(x), low.shape(x), inner, zone, box.shape, _origin(box))
        low.assembly.add(low.assembly.kernel(exchange.publish), (semaphore, _run(low)), 1)


def lower_receive(low: CpuLowering, node: Node) -> None:
    """Receive: a box of a tensor from this worker's own part, if there is an input, and from what others have sent.

    The attributes are those of `lower_send`.

    The own part is copied. It could be made in its place, but then an operator that makes an array, as Pad with
    reflection does, has to copy it there all the same; and in place saves only 1 % of ResNet-50 and 3 % of a U-Net.
    """
    y, whole = node.outputs[0], node.attributes["box"]
    pieces = [(box.relative(whole), semaphore, zone) for box, semaphore, zone in _pieces(low, node)]
    own = [(name, node.attributes["own"]) for name in node.inputs]
    if node.attributes["blocked"]:
        assembled = low.new_map(y)
        for name, held in own:
            common = held.common(whole)
            inner, channels = common.relative(whole), common.relative(held).ranges[1]
            source = region(low.map(name), common.relative(held))
            pick(low, source, region(assembled, inner), range(channels.start, channels.stop), inner.ranges[1].start)
        for box, semaphore, zone in pieces:
            _await(low, semaphore)
            source = _zone(box, zone)
            pick(low, source, region(assembled, box), range(source.layout.channels), box.ranges[1].start)
        return
    parts = [(low.array(name), low.shape(name), held) for name, held in own]
    array = low.new_array(y)
    for part, shape, held in parts:
        common = held.common(whole)
        copy_box(low, part, shape, common.relative(held), array, low.shape(y), common.relative(whole))
    for box, semaphore, zone in pieces:
        _await(low, semaphore)
        copy_box(low, zone, box.shape, _origin(box), array, low.shape(y), box)


def _pieces(low: CpuLowering, node: Node) -> list[tuple[Box, Address, Address]]:
    """The boxes of an exchange, with their semaphores and zones."""
    return [
        (box, _shared(low, zone.semaphore), _shared(low, zone.offset))
        for box, zone in zip(node.attributes["boxes"], node.attributes["zones"], strict=True)
    ]


def _zone(box: Box, address: Address) -> Map:
    """A zone as a map without margins."""
    samples, channels, rows, columns = box.shape
    layout = Blocked(channels, rows, columns, LANES)
    return Map(address, layout, layout.nbytes, samples)


def _await(low: CpuLowering, semaphore: Address) -> None:
    low.assembly.add(low.assembly.kernel(exchange.await_number), (semaphore, _run(low)), 1)


def _shared(low: CpuLowering, offset: int) -> Address:
    """A place in the memory that the workers share, whose base follows the outputs'."""
    return Address(FIRST_INPUT + len(low.graph.inputs) + len(low.graph.outputs), offset)


def _run(low: CpuLowering) -> Address:
    """The number of the run, given as the last base."""
    return Address(FIRST_INPUT + len(low.graph.inputs) + len(low.graph.outputs) + 1)


def _origin(box: Box) -> Box:
    """A box of the same shape that begins at 0."""
    return Box.whole(box.shape)
