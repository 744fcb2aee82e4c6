"""A whole network compiled to one program, which runs on all threads without the interpreter."""

import functools
import sys
from collections.abc import Callable, Mapping, Sequence

import numpy as np

from groupconv_worker.contract import Array
from groupconv_worker.cpu.kernels.forms import Form
from groupconv_worker.cpu.network import arrays, convolutions, exchange, logic, maps, movement, normalization, volumes
from groupconv_worker.cpu.network.assembly import Assembly
from groupconv_worker.cpu.network.lowering import CpuLowering
from groupconv_worker.cpu.network.planning import plan
from groupconv_worker.cpu.network.pointwise import POINTWISE, lower_pointwise
from groupconv_worker.cpu.network.simplified import simplified
from groupconv_worker.cpu.network.timing import Stamped, owners
from groupconv_worker.cpu.program import Program, address
from groupconv_worker.cpu.stages import KernelStage, Scratch
from groupconv_worker.cpu.threads import Team
from groupconv_worker.cpu.workspace import BufferPool
from groupconv_worker.graph.graph import Graph, Node, UnsupportedNodeError, output_arrays

Lower = Callable[[CpuLowering, Node], None]
SAMPLES = 16
"""Samples of a call, at most: each has stages of its own."""


def by_axes(of_maps: Lower, of_volumes: Lower) -> Lower:
    """A function that lowers a node by one of two, for maps or for volumes, by the axes of its first input."""
    return lambda low, node: (of_volumes if len(low.shape(node.inputs[0])) == 5 else of_maps)(low, node)


LOWER: dict[str, Lower] = {
    **dict.fromkeys(POINTWISE, lower_pointwise),
    **dict.fromkeys(("Conv", "ConvTranspose"), by_axes(convolutions.lower_convolution, volumes.lower_convolution)),
    **dict.fromkeys(
        ("MaxPool", "AveragePool", "GlobalAveragePool", "GlobalMaxPool"),
        by_axes(maps.lower_pool, volumes.lower_pool),
    ),
    **dict.fromkeys(("ReduceMean", "ReduceMax", "ReduceSum"), maps.lower_mean),
    **dict.fromkeys(("Reshape", "Identity"), arrays.lower_reshape),
    "BatchNormalization": normalization.lower_batch_normalization,
    "AffineChannel": normalization.lower_affine,
    "LayerNormalization": normalization.lower_layer_normalization,
    **dict.fromkeys(("InstanceNormalization", "GroupNormalization"), normalization.lower_instance_normalization),
    "Pad": maps.lower_pad,
    "LRN": maps.lower_neighbors,
    "ChannelShuffle": maps.lower_shuffle,
    "Resize": by_axes(maps.lower_resize, volumes.lower_resize),
    "Concat": arrays.lower_concat,
    "Split": arrays.lower_split,
    "Slice": arrays.lower_slice,
    "Transpose": arrays.lower_transpose,
    "Gemm": arrays.lower_gemm,
    "MatMul": arrays.lower_matmul,
    **dict.fromkeys(("Softmax", "LogSoftmax"), arrays.lower_softmax),
    "Send": exchange.lower_send,
    "Receive": exchange.lower_receive,
    **dict.fromkeys(("ArgMax", "ArgMin"), arrays.lower_where_largest),
    **dict.fromkeys(logic.COMPARISONS, logic.lower_comparison),
    "Not": logic.lower_not,
    "Where": logic.lower_where,
    "Cast": logic.lower_cast,
    "Gather": movement.lower_gather,
    "Expand": movement.lower_expand,
    "Tile": movement.lower_tile,
    **dict.fromkeys(("DepthToSpace", "SpaceToDepth"), movement.lower_rearrangement),
}
"""By operator, what lowers a node of it."""


class KernelsMissingError(LookupError):
    """A network needs kernels that have to be compiled first.

    Attributes:
        forms: the kernels.
    """

    def __init__(self, forms: tuple[Form, ...]) -> None:
        super().__init__(f"{len(forms)} kernels are not compiled")
        self.forms = forms


class CompiledNetwork:
    """A graph as one program. Safe to call from several threads.

    Args:
        graph: with known shapes.
        team: the threads.

    Attributes:
        what: what it is, in reports.
        arena_bytes: memory of a run.

    Raises:
        UnsupportedNodeError: naming a node that has no lowering.
        KernelsMissingError: inside `forms.deferred`, if kernels are not compiled yet.

    Example:
        >>> from groupconv_worker.graph.graph import Tensor
        >>> x, y = (Tensor(name, np.dtype("float32"), (1, 3)) for name in "xy")
        >>> graph = Graph(("x",), ("y",), (Node("Relu", ("x",), ("y",)),), {"x": x, "y": y}, {})
        >>> team = Team(1)
        >>> CompiledNetwork(graph, team).run({"x": np.array([[-1, 0, 2]], np.float32)})["y"]
        array([[0., 0., 2.]], dtype=float32)
        >>> team.close()
    """

    what = "the whole network as one program"

    def __init__(self, graph: Graph, team: Team) -> None:
        check_samples(graph)
        graph = simplified(graph)
        tensors = graph.tensors
        self._inputs = [tensors[name] for name in graph.inputs]
        self._outputs = [tensors[name] for name in graph.outputs]
        assembly = Assembly()
        planned = plan(graph, POINTWISE, lambda node: convolutions.margin(graph, node))
        CpuLowering(graph, planned, assembly).run(LOWER)
        if assembly.missing:
            raise KernelsMissingError(tuple(assembly.missing))
        stages, self.arena_bytes = assembly.placed()
        self._stages, self._owners = stages, owners(assembly.ends, len(stages))
        self._program = self._made(team, stages)

    def _made(self, team: Team, stages: Sequence[KernelStage]) -> Program:
        arena = Scratch()
        arena.room(self.arena_bytes, np.dtype(np.uint8))
        return Program(team, BufferPool(sys.maxsize), stages, arena)

    @functools.cached_property  # each call asks
    def nbytes(self) -> int:
        """Bytes of packed weights, tables and one arena."""
        return self._program.nbytes + self._program.bytes

    def run(
        self,
        inputs: Mapping[str, Array],
        into: Mapping[str, Array] | None = None,
        shared: tuple[int, int] = (0, 0),
        program: Program | None = None,
    ) -> dict[str, Array]:
        """Run it once.

        Args:
            inputs: by name, of the graph's dtypes and shapes.
            into: contiguous arrays to be filled. The others are allocated, as are those that do not fit.
            shared: of a worker's part of a network that is cut: the address of the memory that the workers share, and
                the number of the run.
            program: of the same stages, in place of its own.

        Returns:
            All outputs by name.

        Raises:
            DeadlineExceededError, CancelledError: the job of this thread is over.
        """
        arrays_in = [np.ascontiguousarray(inputs[tensor.name]) for tensor in self._inputs]
        outputs = output_arrays(self._outputs, into)
        bases = [word for array in (*arrays_in, *outputs.values()) for word in (address(array), 0)]
        bases += [shared[0], 0, shared[1], 0]
        (program or self._program).start(bases)
        return outputs

    def node_seconds(self, inputs: Mapping[str, Array]) -> dict[str, float]:
        """Run it once, and say how long each node took, by its first output; not those of a network that is cut."""
        stamped = Stamped(self._stages, self._owners)
        self.run(inputs, program=self._made(self._program.team, stamped.stages))
        return stamped.seconds()


def check_samples(graph: Graph) -> None:
    """Refuse more samples than a program has stages for.

    Inputs of fewer axes than another one have none: they begin with channels, or with what is broadcast.
    """
    shapes = [graph.tensors[name].shape for name in graph.inputs]
    rank = max(map(len, shapes), default=0)
    if any(len(shape) == rank and shape[:1] > (SAMPLES,) for shape in shapes):
        raise UnsupportedNodeError(f"more than {SAMPLES} samples")
