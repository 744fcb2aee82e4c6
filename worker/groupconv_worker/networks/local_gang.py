"""The workers of one process as a gang."""

from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

from groupconv_worker.budget import ThreadBudget
from groupconv_worker.contract import Array
from groupconv_worker.cpu.compiler import COMPILER, Compiler, Done, NetworkJob
from groupconv_worker.cpu.kernels.forms import NotCompiledError, deferred
from groupconv_worker.graph.model import Model
from groupconv_worker.graph.partition.choice import CutChoice
from groupconv_worker.job import Job
from groupconv_worker.networks.gang import GangNetwork, Make, UncutError
from groupconv_worker.networks.runner import NetworkCall, acquire
from groupconv_worker.shard import PartRun

if TYPE_CHECKING:
    from groupconv_worker.cpu.network.sharded import ShardedNetwork
    from groupconv_worker.cpu.threads import Team


class Member(NamedTuple):
    """A worker of this process.

    Attributes:
        id: of the worker.
        budget: of its threads.
        team: the threads.
    """

    id: str
    budget: ThreadBudget
    team: "Team"


@dataclass(frozen=True, eq=False)
class LocalNetwork(GangNetwork):
    """A network over the workers of this process."""

    network: "ShardedNetwork"


class LocalGang:
    """The workers of this process.

    Args:
        members: the workers.
        compiler: what compiles in another process.
    """

    def __init__(self, members: Sequence[Member], compiler: Compiler = COMPILER) -> None:
        self.members, self._compiler = tuple(members), compiler
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
        task = NetworkJob(call.network, model.data, shapes, len(self.members), tuple(cuts))
        return self._compiler.ask(task, lambda came: then(lambda choice: self.make(came, choice)), now=True) is not None

    def make(self, came: Done, choice: CutChoice) -> LocalNetwork:
        """The programs of a cut, from what the other process has made of the network.

        Raises:
            UncutError: there are none.
        """
        # kept out of a server's start
        from groupconv_worker.cpu.network.lowering import UnsupportedNodeError
        from groupconv_worker.cpu.network.network import KernelsMissingError
        from groupconv_worker.cpu.network.sharded import cut_network

        if came.graph is None:
            raise UncutError(came.reason or came.error)
        try:
            with deferred(patient=True):
                made = cut_network(came.graph, choice, [member.team for member in self.members])
        except (ValueError, UnsupportedNodeError, KernelsMissingError, NotCompiledError) as error:
            raise UncutError(str(error)) from None
        nodes = tuple(len(part.graph.nodes) for part in made.partition.parts)
        ids = tuple(member.id for member in self.members)
        return LocalNetwork(ids, nodes, made.nbytes, made.partition.exchanges, made)

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
