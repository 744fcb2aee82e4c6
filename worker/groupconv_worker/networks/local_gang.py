"""The workers of one process as a gang."""

from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

from groupconv.errors import InternalError, ResourceExhaustedError
from groupconv_worker.budget import ThreadBudget
from groupconv_worker.contract import Array
from groupconv_worker.cpu.compiler import COMPILER, Compiler
from groupconv_worker.cpu.compiler_tasks import NetworkTask, TaskResult
from groupconv_worker.cpu.kernels.forms import NotCompiledError, deferred
from groupconv_worker.cpu.threads import Team
from groupconv_worker.graph.graph import Graph
from groupconv_worker.graph.model import Model
from groupconv_worker.graph.partition.choice import CutChoice
from groupconv_worker.job import Job
from groupconv_worker.networks.gang import GangNetwork, Make, UncutError
from groupconv_worker.networks.runner import NetworkCall, acquire
from groupconv_worker.shard import PartRun

if TYPE_CHECKING:
    from groupconv_worker.cpu.network.cut import CutNetwork
    from groupconv_worker.cuda.engine import CudaEngine


class Member(NamedTuple):
    """A worker of this process.

    Attributes:
        id: of the worker.
        budget: of its threads.
        computes: its threads, or the engine of its GPU; all workers have the one or the other.
    """

    id: str
    budget: ThreadBudget
    computes: "Team | CudaEngine"


@dataclass(frozen=True, eq=False)
class LocalNetwork(GangNetwork):
    """A network over the workers of this process."""

    network: "CutNetwork"


class LocalGang:
    """The workers of this process.

    Args:
        members: the workers; those with GPUs have a different one each.
        compiler: what compiles, and binds graphs, in another process.
    """

    def __init__(self, members: Sequence[Member], compiler: Compiler = COMPILER) -> None:
        self.members, self._compiler = tuple(members), compiler
        self._engines = [m.computes for m in members if not isinstance(m.computes, Team)]
        self._teams = [m.computes for m in members if isinstance(m.computes, Team)]
        assert not self._engines or not self._teams, "workers with and without GPUs"
        self._order = ThreadBudget()
        self._threads = ThreadPoolExecutor(max(1, len(members) - 1), "gang")

    @property
    def idle(self) -> bool:
        """Whether no worker has anything to do."""
        return not any(member.budget.inside for member in self.members)

    @property
    def nodes(self) -> tuple[int, ...]:
        """All workers."""
        return (len(self.members),)

    def prepare(self, call: NetworkCall, model: Model, cuts: Sequence[CutChoice], then: Callable[[Make], None]) -> bool:
        """As of `Gang`."""
        shapes = {name: array.shape for name, array in call.inputs.items()}
        wanted = () if self._engines else tuple(cuts)  # kernels of GPUs are not compiled ahead
        task = NetworkTask(call.network, model.data, shapes, len(self.members), wanted, compiled=not self._engines)

        def compiled(result: TaskResult) -> None:
            then(lambda choice: self.make(result, choice))

        return self._compiler.submit(task, compiled, now=True) is not None

    def make(self, result: TaskResult, choice: CutChoice) -> LocalNetwork:
        """The programs of a cut, from the graph that the compiling process has bound.

        Raises:
            UncutError: there are none.
        """
        if result.graph is None:
            raise UncutError(result.reason or result.error)
        program = self._over_devices(result.graph, choice) if self._engines else self._over_teams(result.graph, choice)
        nodes = tuple(len(part.graph.nodes) for part in program.partition.parts)
        ids = tuple(member.id for member in self.members)
        return LocalNetwork(ids, nodes, program.nbytes, program.partition.exchanges, program)

    def _over_teams(self, graph: Graph, choice: CutChoice) -> "CutNetwork":
        # kept out of a server's start
        from groupconv_worker.cpu.network.network import KernelsMissingError
        from groupconv_worker.cpu.network.sharded import cut_network
        from groupconv_worker.graph.graph import UnsupportedNodeError

        try:
            with deferred(patient=True):
                return cut_network(graph, choice, self._teams)
        except (ValueError, UnsupportedNodeError, KernelsMissingError, NotCompiledError) as error:
            raise UncutError(str(error)) from None

    def _over_devices(self, graph: Graph, choice: CutChoice) -> "CutNetwork":
        from groupconv_worker.cuda.network.sharded import cut_over_devices
        from groupconv_worker.graph.graph import UnsupportedNodeError

        try:
            return cut_over_devices(graph, choice, self._engines)
        except (ValueError, UnsupportedNodeError, ResourceExhaustedError, InternalError) as error:
            raise UncutError(str(error)) from None

    def run(
        self, network: GangNetwork, inputs: Mapping[str, Array], job: Job, into: Mapping[str, Array] | None = None
    ) -> tuple[dict[str, Array], Sequence[PartRun]]:
        """As of `Gang`."""
        assert isinstance(network, LocalNetwork)
        held: list[tuple[ThreadBudget, int]] = []
        try:
            for budget in (self._order, *(member.budget for member in self.members)):
                got = acquire(budget, job, alone=budget is self._order)
                held.append((budget, got))
            return network.network.run(inputs, job, self._threads, [got for _, got in held[1:]], into)
        finally:
            for budget, got in reversed(held):
                budget.release(got)

    def drop(self, network: GangNetwork) -> None:
        """Do nothing: the network itself has all."""

    def close(self) -> None:
        """End its threads."""
        self._threads.shutdown()
