"""The makers of our own programs of networks: for the threads of a worker, or for its GPU."""

from typing import TYPE_CHECKING, Any, Protocol

from groupconv.errors import ResourceExhaustedError
from groupconv.text import human_bytes
from groupconv_worker.cpu.kernels.forms import NotCompiledError, deferred
from groupconv_worker.cpu.threads import Team
from groupconv_worker.graph.graph import Graph

if TYPE_CHECKING:
    from groupconv_worker.networks.candidate import OurNetwork


class NoProgramError(Exception):
    """A graph has no program here; the message says why."""


class Programs(Protocol):
    """Makes programs.

    Attributes:
        compiled: whether they need kernels of the CPU, which another process compiles first.
    """

    compiled: bool

    def make(self, graph: Graph, spare: int) -> "OurNetwork":
        """The program of a bound graph.

        Args:
            graph: in its canonical form.
            spare: bytes that it may take.

        Raises:
            NoProgramError: a node has no kernel, kernels are not compiled, or the program does not fit.
        """


class ThreadPrograms:
    """Programs for the threads of a worker.

    Args:
        team: the threads.
    """

    compiled = True

    def __init__(self, team: Team) -> None:
        self._team = team

    def make(self, graph: Graph, spare: int) -> "OurNetwork":
        """As of `Programs`."""
        # kept out of a server's start
        from groupconv_worker.cpu.network.fragments import compiled_network
        from groupconv_worker.cpu.network.network import KernelsMissingError
        from groupconv_worker.graph.graph import UnsupportedNodeError

        try:
            with deferred():
                program = compiled_network(graph, self._team)
        except (UnsupportedNodeError, KernelsMissingError, NotCompiledError) as error:
            raise NoProgramError(str(error)) from error
        check_bytes(program.nbytes, spare)
        return program


class GpuPrograms:
    """Programs for the GPU of a worker, each recorded as one CUDA graph.

    Args:
        engine: a `CudaEngine`.
    """

    compiled = False

    def __init__(self, engine: Any) -> None:
        self._engine = engine

    def make(self, graph: Graph, spare: int) -> "OurNetwork":
        """As of `Programs`. All bytes are counted before any is taken."""
        from groupconv_worker.cuda.network.network import DeviceNetwork, planned
        from groupconv_worker.graph.graph import UnsupportedNodeError

        try:
            plan = planned(graph)
            check_bytes(plan.weight_bytes + plan.placed()[1], spare)
            return DeviceNetwork(graph, self._engine, plan)
        except (UnsupportedNodeError, ResourceExhaustedError) as error:
            raise NoProgramError(str(error)) from error


def check_bytes(nbytes: int, spare: int) -> None:
    """Refuse a program that takes more than it may.

    Example:
        >>> check_bytes(2**20, 2**10)
        Traceback (most recent call last):
            ...
        groupconv_worker.networks.programs.NoProgramError: 1 MiB of it do not fit
    """
    if nbytes > spare:
        raise NoProgramError(f"{human_bytes(nbytes)} of it do not fit")


def programs_of(engine: Any) -> Programs | None:
    """The maker of programs for a worker's engine; None if there is none."""
    if isinstance(team := getattr(engine, "team", None), Team):
        return ThreadPrograms(team)
    return None if engine.gpu is None else GpuPrograms(engine)
