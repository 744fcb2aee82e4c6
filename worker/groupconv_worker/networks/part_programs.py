"""What computes a worker's part of a network that is cut over processes: its threads, or its GPU."""

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any, Protocol

from groupconv_worker.contract import Array
from groupconv_worker.cpu.kernels.forms import NotCompiledError, deferred
from groupconv_worker.graph.graph import Graph, UnsupportedNodeError
from groupconv_worker.graph.partition.partition import Partition
from groupconv_worker.graph.partition.zones import LandingHandle
from groupconv_worker.job import Job

if TYPE_CHECKING:
    from groupconv_worker.cpu.network.network import CompiledNetwork
    from groupconv_worker.cpu.threads import Team


class PartProgram(Protocol):
    """A part, which exchanges boxes with others. What is sent and where it lies is in `graph.partition.zones`.

    Attributes:
        nbytes: of memory.
    """

    nbytes: int

    def use(self, memory: Array, start: int) -> None:
        """Exchange boxes in this memory from now on, which the parts of a node share.

        Args:
            memory: (bytes,) uint8, as it was mapped.
            start: where the semaphores begin.

        Raises:
            InternalError: that cannot be.
        """

    def export(self) -> LandingHandle | None:
        """A handle by which parts on this node copy into this part's own memory; None if that cannot be."""

    def reach(self, to: Mapping[int, LandingHandle]) -> None:
        """Copy what is sent to some workers of this node into their memory, if that can be."""

    def run(self, inputs: Mapping[str, Array], number: int, job: Job) -> Mapping[str, Array]:
        """Run the part.

        Args:
            inputs: the part's, by name.
            number: of the run, the same on all workers, and more than that of the run before.
            job: that this is a part of.

        Returns:
            The part's outputs by name. They may be wrong if the job is over.
        """

    def close(self) -> None:
        """Leave the shared memory, once no run is under way."""


class PartPrograms(Protocol):
    """Makes the parts of a worker.

    Attributes:
        compiled: whether another process compiles kernels first.
        kind: of workers that can exchange boxes with each other.
        block: channels are cut at its multiples where there are enough.
        direct: whether parts of a node may reach each other's memory (`PartProgram.reach`).
    """

    compiled: bool
    kind: str
    block: int
    direct: bool

    def connected(self, partition: Partition) -> tuple[list[Graph], int]:
        """As of `graph.partition.zones`, with the sizes of these programs' zones."""

    def make(self, graph: Graph, exchanges: int) -> PartProgram:
        """The program of a part.

        Args:
            graph: of `connected`.
            exchanges: of the whole network.

        Raises:
            ValueError, UnsupportedNodeError, GroupconvError: there is none; the message says why.
        """

    def await_sent(self, semaphore: int, number: int) -> bool:
        """Block until the program has set a semaphore to the number of a run; False once `abandon` has been there."""


class ThreadPart:
    """A part on the threads of a worker.

    Args:
        program: of the part.
    """

    def __init__(self, program: "CompiledNetwork") -> None:
        self._program, self.nbytes = program, program.nbytes
        self._memory: Array | None = None

    def use(self, memory: Array, start: int) -> None:
        """As of `PartProgram`."""
        self._memory = memory[start:]

    def export(self) -> None:
        """None: all is sent to the shared memory."""

    def reach(self, to: Mapping[int, LandingHandle]) -> None:
        """Do nothing."""

    def run(self, inputs: Mapping[str, Array], number: int, job: Job) -> Mapping[str, Array]:  # noqa: ARG002 - this thread is in it
        """As of `PartProgram`."""
        memory = self._memory
        assert memory is not None, "use() comes first"
        return self._program.run(inputs, shared=(memory.ctypes.data, number))

    def close(self) -> None:
        """Do nothing: the memory is unmapped when nobody uses it."""


class ThreadParts:
    """Makes parts on the threads of a worker.

    Args:
        team: the threads.
    """

    compiled, direct = True, False

    def __init__(self, team: "Team") -> None:
        from groupconv_worker.cpu.blocked.kernels.blocks import LANES
        from groupconv_worker.cpu.network.kernels.exchange import await_published

        self._team, self.block, self.kind = team, LANES, f"processors with vectors of {LANES}"
        self.await_sent: Callable[[int, int], bool] = await_published

    def connected(self, partition: Partition) -> tuple[list[Graph], int]:
        """As of `PartPrograms`."""
        from groupconv_worker.cpu.network.sharded import connected

        return connected(partition)

    def make(self, graph: Graph, exchanges: int) -> ThreadPart:  # noqa: ARG002 - the graph has their places
        """As of `PartPrograms`."""
        from groupconv_worker.cpu.network.network import CompiledNetwork, KernelsMissingError

        try:
            with deferred(patient=True):
                return ThreadPart(CompiledNetwork(graph, self._team))
        except (KernelsMissingError, NotCompiledError) as error:
            raise UnsupportedNodeError(str(error)) from error


class GpuParts:
    """Makes parts on the GPU of a worker.

    Args:
        engine: a `CudaEngine`.
    """

    compiled, direct, kind = False, True, "GPUs"

    def __init__(self, engine: Any) -> None:
        from groupconv_worker.cpu.network.kernels.exchange import await_written
        from groupconv_worker.cuda.network.exchange import BLOCK

        self._engine, self.block = engine, BLOCK
        self.await_sent: Callable[[int, int], bool] = await_written

    def connected(self, partition: Partition) -> tuple[list[Graph], int]:
        """As of `PartPrograms`."""
        from groupconv_worker.cuda.network.exchange import connected

        return connected(partition)

    def make(self, graph: Graph, exchanges: int) -> PartProgram:
        """As of `PartPrograms`."""
        from groupconv_worker.cuda.network.process_part import ProcessPart

        return ProcessPart(graph, self._engine, exchanges)
