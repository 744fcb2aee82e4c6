"""Lowers a graph to stages: calls the function of each node's operator, and knows each tensor's place and layout."""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from groupconv_worker.contract import Array
from groupconv_worker.cpu.blocked.layout import Blocked
from groupconv_worker.cpu.kernels.layout import BLOCK, copied
from groupconv_worker.cpu.network.assembly import BLOCKS, Assembly, aligned_copy
from groupconv_worker.cpu.network.kernels import movement, windows
from groupconv_worker.cpu.network.planning import NO_MARGIN, MemoryLayout, is_map, slices
from groupconv_worker.cpu.network.weights import without_winograd
from groupconv_worker.cpu.stages import Address
from groupconv_worker.graph.graph import Graph, Node, UnsupportedNodeError

FIRST_INPUT = 2
"""The base of a network's first input: before it are scratch memory and the word of the job."""


@dataclass(frozen=True, slots=True)
class Map:
    """A channel-blocked tensor.

    Attributes:
        start: where its first sample begins, margins included.
        layout: of a sample.
        step: bytes from sample to sample.
        samples: how many; of a volume all slices of all samples.
    """

    start: Address
    layout: Blocked
    step: int
    samples: int

    def sample(self, number: int) -> Address:
        """Where a sample begins, margins included."""
        return self.start.plus(number * self.step)

    def cell(self, number: int, channel: int = 0) -> Address:
        """Where the first cell of a channel's block lies in a sample."""
        offset = self.layout.offset(channel - channel % self.layout.lanes, 0, 0)
        return self.start.plus(number * self.step + 4 * offset)

    @property
    def plane(self) -> int:
        """Elements from block to block."""
        return self.layout.plane * self.layout.lanes

    @property
    def row(self) -> int:
        """Elements from row to row."""
        return self.layout.pitch * self.layout.lanes


def from_element(array: Address | Array, first: int) -> Address | Array:
    """An array of elements of 4 bytes, in C order, from its element number `first` on."""
    if isinstance(array, Address):
        return array.plus(4 * first)
    return array.reshape(-1)[first:] if first else array


class CpuLowering:
    """Lowers a graph, node by node.

    Args:
        graph: whose nodes are lowered.
        plan: how its tensors lie.
        assembly: where stages go.

    Attributes:
        direct: outputs of convolutions that have no memory for Winograd's weights.
    """

    def __init__(self, graph: Graph, plan: MemoryLayout, assembly: Assembly) -> None:
        self.graph, self.plan, self.assembly = graph, plan, assembly
        self.maps: dict[str, Map] = {}
        self.arrays: dict[str, Address | Array] = {}
        self.direct = without_winograd(graph)
        self._blocks: dict[str, Map] = {}
        self._copies: dict[tuple[str, tuple[int, ...]], Map] = {}
        self._outputs = {name: Address(FIRST_INPUT + len(graph.inputs) + i) for i, name in enumerate(graph.outputs)}
        for i, name in enumerate(graph.inputs):
            self.arrays[name] = Address(FIRST_INPUT + i)

    def run(
        self, lower: Mapping[str, Callable[["CpuLowering", Node], None]], refused: dict[str, str] | None = None
    ) -> None:
        """Lower all nodes by their operators' functions.

        Args:
            lower: by operator.
            refused: gets the reason for each node that cannot be lowered, by its first output. The stages are of no
                use then.

        Raises:
            UnsupportedNodeError: naming the first node that cannot be lowered, without `refused`.
        """
        for node in self.graph.nodes:
            try:
                self._lower(node, lower)
            except UnsupportedNodeError as error:
                if refused is None:
                    raise
                refused[node.outputs[0]] = str(error)
                for name in filter(None, node.outputs):  # as if a runtime had made them
                    self.maps.pop(name, None)
                    self.any_array(name)
            self.assembly.ends.append((next(iter(node.outputs), ""), len(self.assembly.stages)))
            for name in node.outputs:
                if name in self._outputs and name in self.maps and name not in self.arrays:
                    self.array(name)
        for name, address in self._outputs.items():
            location = self.array(name)
            if location != address:
                nbytes = self.graph.tensors[name].nbytes
                self.assembly.add(self.assembly.kernel(copied), (location, address, nbytes), -(-nbytes // BLOCK))

    def _lower(self, node: Node, lower: Mapping[str, Callable[["CpuLowering", Node], None]]) -> None:
        if node.op not in lower:
            raise UnsupportedNodeError(f"{node.op} {node.name!r} has no kernel")
        try:
            lower[node.op](self, node)
        except UnsupportedNodeError as error:
            raise UnsupportedNodeError(f"{node.op} {node.name!r}: {error}") from None

    def shape(self, name: str) -> tuple[int, ...]:
        """The shape of a tensor."""
        return self.graph.tensors[name].shape

    def constant(self, name: str) -> Array | None:
        """The elements of a tensor that does not depend on the inputs."""
        return self.graph.constants.get(name) if name else None

    def has_map(self, name: str) -> bool:
        """Whether a tensor is there as a channel-blocked map."""
        return name in self.maps

    def map(self, name: str) -> Map:
        """A tensor as a channel-blocked map, copied into one if it is not."""
        if name not in self.maps:
            shape = self.shape(name)
            if not is_map(self.graph.tensors[name]):
                raise UnsupportedNodeError(f"{self.graph.tensors[name].dtype} {list(shape)} instead of a float32 map")
            source = self.array(name)
            self._change_layout(shape, source, self._made(name), to_blocks=True)
        return self.maps[name]

    def copied_map(self, name: str, shape: tuple[int, ...]) -> Map:
        """A tensor as a channel-blocked map of a shape with as many elements, for readers of more axes than it has."""
        if (name, shape) not in self._copies:
            layout, samples = Blocked(shape[1], shape[-2], shape[-1]), slices(shape)
            copy = Map(self.assembly.block(samples * layout.nbytes), layout, layout.nbytes, samples)
            self._change_layout(shape, self.array(name), copy, to_blocks=True)
            self._copies[name, shape] = copy
        return self._copies[name, shape]

    def array(self, name: str) -> Address | Array:
        """A tensor in C order, copied into it if it is a map. Constants are arrays, the others addresses."""
        if name in self.arrays:
            return self.arrays[name]
        constant = self.constant(name)
        if constant is not None:
            kind = np.ascontiguousarray(constant)
            self.arrays[name] = aligned_copy(kind) if kind.dtype == np.float32 else kind
        elif name in self.maps:
            self._unblock(name)
        else:
            raise UnsupportedNodeError(f"{name!r} is made by no node")
        return self.arrays[name]

    def _unblock(self, name: str) -> None:
        source = self.maps[name]
        if (
            math.prod(self.shape(name)[2:]) == 1
            and source.layout.margin == NO_MARGIN
            and source.samples == 1
            and name not in self._outputs
        ):
            self.arrays[name] = source.start
            return
        self._change_layout(self.shape(name), self.new_array(name), source, to_blocks=False)

    def _change_layout(self, shape: Sequence[int], array: Address | Array, blocked: Map, *, to_blocks: bool) -> None:
        """Copy a tensor in C order into a map, or the map into it."""
        _, C, *deep, H, W = shape
        depth = math.prod(deep)
        kernel = self.assembly.kernel(movement.change_layout, to_blocks)
        for n in range(blocked.samples):
            part = from_element(array, (n // depth * C * depth + n % depth) * H * W)
            words = (part, blocked.cell(n), C, H, W, depth * H * W, blocked.plane, blocked.row)
            self.assembly.add(kernel, words, blocked.layout.blocks * H)

    def new_map(self, name: str) -> Map:
        """Memory for a map that a node makes."""
        if name not in self.plan.maps:
            raise UnsupportedNodeError(f"{list(self.shape(name))} is no map")
        return self._made(name)

    def _made(self, name: str) -> Map:
        root, channel = self.plan.root(name)
        layout = self.plan.layout(self.graph.tensors[name])
        if root not in self._blocks:
            whole = self.plan.layout(self.graph.tensors[root])
            samples = slices(self.shape(root))
            block = self.assembly.block(samples * whole.nbytes)
            self._blocks[root] = Map(block, whole, whole.nbytes, samples)
            top, left, bottom, right = whole.margin
            if any(whole.margin):
                for n in range(samples):
                    words = (self._blocks[root].sample(n), top, whole.rows, bottom, left, whole.columns, right)
                    self.assembly.add(self.assembly.kernel(windows.clear_margin), words, whole.blocks)
        whole_map = self._blocks[root]
        offset = channel // layout.lanes * layout.plane * layout.lanes * 4
        self.maps[name] = Map(whole_map.start.plus(offset), layout, whole_map.step, whole_map.samples)
        return self.maps[name]

    def new_array(self, name: str) -> Address:
        """Memory for a tensor in C order: an output's own, or a block of the arena."""
        tensor = self.graph.tensors[name]
        if tensor.dtype.itemsize != 4:
            raise UnsupportedNodeError(f"elements of {tensor.dtype}")
        return self.any_array(name)

    def any_array(self, name: str) -> Address:
        """Memory as of `new_array`, for elements of any dtype."""
        nbytes = self.graph.tensors[name].nbytes
        address = self._outputs[name] if name in self._outputs else self.assembly.block(nbytes)
        self.arrays[name] = address
        return address

    def in_arena(self, name: str) -> Address | Array:
        """A tensor in C order where kernels may read beyond its end."""
        location = self.array(name)
        if isinstance(location, Address) and location.base < BLOCKS:
            nbytes = self.graph.tensors[name].nbytes
            block = self.assembly.block(nbytes)
            self.assembly.add(self.assembly.kernel(copied), (location, block, nbytes), -(-nbytes // BLOCK))
            return block
        return location
