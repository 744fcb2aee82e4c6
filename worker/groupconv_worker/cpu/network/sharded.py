"""A network that is cut over several workers of one process: a program for each, which run at the same time."""

from collections.abc import Mapping, Sequence

import numpy as np

from groupconv_worker.contract import Array
from groupconv_worker.cpu.blocked.kernels.blocks import LANES
from groupconv_worker.cpu.blocked.layout import aligned
from groupconv_worker.cpu.kernels.forms import Form
from groupconv_worker.cpu.network.cut import CutNetwork
from groupconv_worker.cpu.network.exchange import is_blocked, zone_bytes
from groupconv_worker.cpu.network.network import CompiledNetwork, KernelsMissingError
from groupconv_worker.cpu.program import address
from groupconv_worker.cpu.threads import Team
from groupconv_worker.graph.graph import Graph, Tensor, UnsupportedNodeError
from groupconv_worker.graph.needed.box import Box
from groupconv_worker.graph.partition import zones
from groupconv_worker.graph.partition.choice import CutChoice
from groupconv_worker.graph.partition.partition import Partition
from groupconv_worker.job import Job

ITEM = 4
"""Bytes of the elements that are exchanged."""


def cut_network(graph: Graph, choice: CutChoice, teams: Sequence[Team]) -> "ShardedNetwork":
    """A network that is cut over as many workers as there are teams.

    Raises:
        ValueError: it cannot be cut so.
        UnsupportedNodeError, KernelsMissingError: as of `ShardedNetwork`.
    """
    return ShardedNetwork(choice.partition(graph, len(teams), LANES), teams)


def connected(partition: Partition) -> tuple[list[Graph], int]:
    """The graph of each part for its program, and the bytes of the memory that the parts share (see `zones`).

    Raises:
        UnsupportedNodeError: elements that cannot be exchanged.
    """
    return zones.connected(partition, _zone_bytes, blocked=is_blocked)


def _zone_bytes(tensor: Tensor, box: Box) -> int:
    if tensor.dtype.itemsize != ITEM:
        raise UnsupportedNodeError(f"{tensor.dtype} of {tensor.name!r} between workers")
    return zone_bytes(box, blocked=is_blocked(tensor))


class ShardedNetwork(CutNetwork):
    """The programs of all workers, and the memory by which they exchange boxes. One run at a time.

    Args:
        made: what each worker does.
        teams: the workers' threads.

    Attributes:
        partition: as given.

    Raises:
        UnsupportedNodeError, KernelsMissingError: as of `CompiledNetwork`.
    """

    def __init__(self, partition: Partition, teams: Sequence[Team]) -> None:
        super().__init__(partition)
        graphs, shared_bytes = connected(partition)
        self._programs: list[CompiledNetwork] = []
        missing: list[Form] = []
        for graph, team in zip(graphs, teams, strict=True):
            try:
                self._programs.append(CompiledNetwork(graph, team))
            except KernelsMissingError as error:
                missing += error.forms
        if missing:
            raise KernelsMissingError(tuple(dict.fromkeys(missing)))
        self._memory = aligned(-(-shared_bytes // ITEM))
        self._memory[:] = 0

    @property
    def nbytes(self) -> int:
        """Bytes of all programs, with an arena for each, and of the shared memory."""
        return sum(program.nbytes for program in self._programs) + self._memory.nbytes

    def compute(self, worker: int, inputs: Mapping[str, Array], number: int, job: Job) -> Mapping[str, Array]:  # noqa: ARG002 - this thread is in it
        """As of `CutNetwork`."""
        return self._programs[worker].run(inputs, shared=(address(self._memory), number))

    def run_alone(self, worker: int, inputs: Mapping[str, Array]) -> float:
        """Seconds of a part that waits for nobody: it takes what the last run has left in the shared memory."""
        tensors = self.partition.graph.tensors
        outputs = {name: np.empty(tensors[name].shape, tensors[name].dtype) for name in self.partition.outputs}
        return self._run_part(worker, inputs, outputs, Job(), self.number, 1).seconds
