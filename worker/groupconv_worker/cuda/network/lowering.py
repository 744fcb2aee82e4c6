"""Lowers a graph to launches on a device: calls the function of each node's operator, and places tensors in memory."""

import math
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from groupconv_worker.contract import Array, Problem
from groupconv_worker.cpu.network.arena import Lifetime, place
from groupconv_worker.cuda.algorithms.base import DeviceKernel
from groupconv_worker.cuda.device import Device
from groupconv_worker.cuda.network.arguments import TooManyAxesError
from groupconv_worker.graph.graph import Graph, Node, Tensor, UnsupportedNodeError
from groupconv_worker.graph.partition.zones import Zone, landing_bytes

THREADS = 256
"""Threads of a block of the kernels in which each thread computes one element."""
Views = Mapping[str, Any]
"""Device arrays by the names of tensors."""
Convolve = Callable[[Problem, Array, Array | None], DeviceKernel]
"""Chooses the algorithm of a convolution and sends its weights to the device."""


class Meeting(NamedTuple):
    """Where a part of a network that is cut meets another part.

    Attributes:
        semaphore: of the exchange, as in its `Zone`.
        waits: whether this part waits until it is there; else it says so.
    """

    semaphore: int
    waits: bool


class Routes(NamedTuple):
    """Where the boxes of a part are put and found, by the exchanges' semaphores; filled before the first launch.

    Attributes:
        targets: addresses to which this part copies what it sends.
        sources: addresses of what it receives, where that does not come to its landing area.
    """

    targets: dict[int, int]
    sources: dict[int, int]


class DeviceWork(NamedTuple):
    """Work for the device: one kernel, or the few of a convolution.

    Attributes:
        node: the first output of the node that it is of.
        reads, writes: names of the tensors that it uses.
        run: puts it on the current stream.
        transforms: whether it runs plans of cuFFT.
        meeting: in place of other work.
    """

    node: str
    reads: tuple[str, ...]
    writes: tuple[str, ...]
    run: Callable[[Views], None]
    transforms: bool = False
    meeting: Meeting | None = None


class CudaLowering:
    """Lowers a graph, node by node.

    Args:
        graph: in its canonical form.
        device: where it will run; None only plans: nothing is sent to a device and nothing can be launched.
        convolve: as of `Convolve`.

    Attributes:
        tensors: of the graph, and those that lie between the launches of one node.
        launches: in order.
        kernels: of convolutions.
        constants: device arrays by name.
        weight_bytes: of the constants and weights that launches read.
        readers: how many nodes read each tensor, and one more for an output of the graph.
        chain: of elementwise operators that was launched last (elements.py).
        landing: of a part of a network that is cut: the memory into which other parts copy, in bytes.
        routes: of a part.
    """

    def __init__(self, graph: Graph, device: Device | None = None, convolve: Convolve | None = None) -> None:
        self.graph, self.device, self._convolve = graph, device, convolve
        self.tensors: dict[str, Tensor] = dict(graph.tensors)
        self.launches: list[DeviceWork] = []
        self.kernels: list[DeviceKernel] = []
        self.constants: dict[str, Any] = {}
        self.weight_bytes = 0
        self.readers = Counter([*graph.outputs, *(name for node in graph.nodes for name in set(node.inputs))])
        self.chain: Any = None
        self.landing: Any = None if device is None else self._landing(device)
        self.routes = Routes({}, {})
        self._roots: dict[str, str] = {}
        self._there = {*graph.inputs}
        self._node = ""

    def _landing(self, device: Device) -> Any:
        size = landing_bytes(self.graph)
        return device.empty((size,), np.dtype(np.uint8)) if size else None

    def run(self, lower: Mapping[str, Callable[["CudaLowering", Node], None]]) -> None:
        """Lower all nodes by their operators' functions.

        Raises:
            UnsupportedNodeError: naming the first node that has no kernel.
        """
        for node in self.graph.nodes:
            self._node = next(filter(None, (*node.outputs, *node.inputs)))
            try:
                self._check(node, lower)
                lower[node.op](self, node)
            except (UnsupportedNodeError, TooManyAxesError) as error:
                raise UnsupportedNodeError(f"{node.op} {node.name!r} does not run on the GPU: {error}") from None

    def _check(self, node: Node, lower: Mapping[str, Any]) -> None:
        """Refuse operators without a kernel, and tensors without elements, which no view of the arena can be."""
        if node.op not in lower:
            raise UnsupportedNodeError("no kernel of ours")
        if any(0 in self.shape(name) for name in (*node.inputs, *node.outputs) if name):
            raise UnsupportedNodeError("a tensor without elements")

    def shape(self, name: str) -> tuple[int, ...]:
        """The shape of a tensor."""
        return self.tensors[name].shape

    def dtype(self, name: str) -> np.dtype:
        """The dtype of a tensor."""
        return self.tensors[name].dtype

    def constant(self, name: str) -> Array | None:
        """The elements of a tensor that does not depend on the inputs."""
        return self.graph.constants.get(name) if name else None

    def floats(self, *names: str) -> None:
        """Refuse tensors whose elements are not float32."""
        for name in filter(None, names):
            if self.dtype(name) != np.float32:
                raise UnsupportedNodeError(f"elements of {self.dtype(name)}")

    def needed(self, name: str) -> str:
        """Declare that a launch reads a tensor, and return its name. Sends a constant to the device."""
        array = self.constant(name)
        if array is not None:
            return self.send(name, array)
        if name not in self._there and name not in self.constants:
            raise UnsupportedNodeError(f"{name!r} is made by no node")
        return name

    def send(self, name: str, array: Array) -> str:
        """Send an array to the device, under a name."""
        if name not in self.constants:
            self.tensors.setdefault(name, Tensor(name, array.dtype, array.shape))
            self.weight_bytes += array.nbytes
            self.constants[name] = None if self.device is None else self.device.upload(array)
        return name

    def made(self, name: str) -> str:
        """Declare that a launch writes a tensor, and return its name."""
        self._there.add(name)
        return name

    def between(self, shape: Sequence[int], dtype: Any = np.float32) -> str:
        """A new tensor, which one launch writes and a later one of the same node reads; returns its name."""
        name = f"{self._node}/{len(self.tensors)}"
        self.tensors[name] = Tensor(name, np.dtype(dtype), tuple(shape))
        return self.made(name)

    def alias(self, name: str, source: str) -> None:
        """Let a tensor share another one's memory, with the same elements in the same order."""
        self._there.add(name)
        self._roots[name] = self.root(self.needed(source))

    def root(self, name: str) -> str:
        """The tensor in whose memory another one lies: itself, if no node only gave it a new shape."""
        return self._roots.get(name, name)

    def add(
        self, reads: Sequence[str], writes: Sequence[str], run: Callable[[Views], None], *, transforms: bool = False
    ) -> None:
        """One more launch."""
        self.launches.append(DeviceWork(self._node, tuple(filter(None, reads)), tuple(writes), run, transforms))

    def landed(self, zone: Zone, tensor: str, like: Tensor) -> str:
        """A tensor in the landing area, which another part of a network that is cut writes between the launches.

        Args:
            zone: of the exchange that brings its elements.
            tensor: of the whole network, for the name.
            like: has its dtype and shape.
        """
        name = f"{tensor}/landed {zone.semaphore}"
        self.tensors[name] = Tensor(name, like.dtype, like.shape)
        self.weight_bytes += zone.nbytes
        self.constants[name] = None
        if self.landing is not None:
            elements = self.landing[zone.landing : zone.landing + like.nbytes]
            self.constants[name] = elements.view(like.dtype).reshape(like.shape)
        return name

    def meet(self, semaphore: int, *, waits: bool) -> None:
        """Add a launch that waits for an exchange's elements, or announces that they were sent."""
        self.launches.append(DeviceWork(self._node, (), (), _nothing, meeting=Meeting(semaphore, waits)))

    def kernel(
        self,
        instance: tuple[str, str],
        reads: Sequence[str],
        y: str,
        arguments: Callable[[Views], tuple[Any, ...]],
        *,
        blocks: int | None = None,
        threads: int = THREADS,
        shared: int = 0,
    ) -> None:
        """One launch of a kernel, a thread for each element of `y` unless `blocks` says otherwise."""
        count, device = -(-math.prod(self.shape(y)) // THREADS) if blocks is None else blocks, self.device

        def run(views: Views) -> None:  # it holds no weights on the host
            assert device is not None, "a plan alone cannot be launched"
            device.kernels.launch(*instance, count, threads, arguments(views), shared)

        self.add(reads, [y], run)

    def convolution(self, problem: Problem, weight: Array, bias: Array | None, x: str, y: str) -> None:
        """One convolution by the algorithm that is chosen for it."""
        self.weight_bytes += weight.nbytes + (0 if bias is None else bias.nbytes)
        if self.device is None or self._convolve is None:
            self.add([x], [y], _nothing)
            return
        kernel, budget = self._convolve(problem, weight, bias), self.device.options.workspace
        shapes = problem.geometry.input_shape, problem.geometry.output_shape
        self.kernels.append(kernel)

        def run(views: Views) -> None:
            kernel.run(views[x].reshape(shapes[0]), views[y].reshape(shapes[1]), 0, budget)

        self.add([x], [y], run, transforms=kernel.transforms)

    def placed(self) -> tuple[dict[str, int], int]:
        """Where each tensor that is no constant begins in the arena, and the arena's bytes.

        Inputs are there before the first launch, and outputs after the last one.
        """
        lives: dict[str, list[int]] = {name: [0] for name in self.graph.inputs}
        for number, launch in enumerate(self.launches, 1):
            for name in (*launch.reads, *launch.writes):
                if (root := self.root(name)) not in self.constants:
                    lives.setdefault(root, []).append(number)
        for name in self.graph.outputs:
            if (root := self.root(name)) in lives:
                lives[root].append(len(self.launches) + 1)
        names = list(lives)
        offsets, size = place([Lifetime(self.tensors[n].nbytes, lives[n][0], lives[n][-1]) for n in names])
        at = dict(zip(names, offsets, strict=True))
        return {name: at[root] for name in self.tensors if (root := self.root(name)) in at}, size


def _nothing(views: Views) -> None:
    """Do nothing: the launch of a lowering without a device, or one that only meets another part."""


def several(node: Node, name: str) -> tuple[Any, ...]:
    """An attribute of one or more numbers; none if it is left out."""
    value = node.attribute(name, ())
    return tuple(value) if isinstance(value, tuple) else (value,)
