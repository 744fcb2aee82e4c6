"""Several workers as a gang: a network that is cut runs on all of them at the same time."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

from groupconv.errors import InternalError, InvalidArgumentError
from groupconv_worker.contract import Array
from groupconv_worker.graph.model import Model
from groupconv_worker.graph.partition.choice import CUTS, CutChoice
from groupconv_worker.graph.partition.partition import Exchange
from groupconv_worker.job import Job
from groupconv_worker.networks.runner import WHOLE, NetworkCall
from groupconv_worker.shard import PartRun

ALONE = "one worker runs networks"
"""Why no network is cut."""


class UncutError(ValueError):
    """A network cannot be cut so; the message says why."""


class GangLostError(InternalError):
    """A worker was lost, or does not answer. The network has to be prepared again."""


@dataclass(frozen=True, eq=False)
class GangNetwork:
    """A network that a gang has prepared.

    Attributes:
        ids: of the workers.
        nodes: of each worker's part.
        nbytes: of all programs.
        exchanges: what the workers send each other in a run.
    """

    ids: tuple[str, ...]
    nodes: tuple[int, ...]
    nbytes: int
    exchanges: tuple[Exchange, ...]


Make = Callable[[CutChoice], GangNetwork]
"""Makes the network of a cut.

Raises:
    UncutError: there is none.
"""


class Gang(Protocol):
    """Workers on which a network runs at the same time.

    There is one such run at a time: two would each hold workers that the other one waits for.
    """

    @property
    def idle(self) -> bool:
        """Whether no worker has anything to do, and there are several."""

    @property
    def nodes(self) -> tuple[int, ...]:
        """How many workers of each node would share a network now, in the order in which they do."""

    def prepare(self, call: NetworkCall, model: Model, cuts: Sequence[CutChoice], then: Callable[[Make], None]) -> bool:
        """Have the kernels of some cuts compiled, then call `then`, in another thread. False if nothing compiles."""

    def run(
        self, network: GangNetwork, inputs: Mapping[str, Array], job: Job, into: Mapping[str, Array] | None = None
    ) -> tuple[dict[str, Array], Sequence[PartRun]]:
        """Wait for all workers, and run a network on them.

        Returns:
            The outputs by name, and the runs of the workers' parts.

        Raises:
            DeadlineExceededError, CancelledError: the job was over first.
            InternalError, MemoryError: a part failed.
            GangLostError: a worker was lost.
        """

    def drop(self, network: GangNetwork) -> None:
        """Have the workers drop what they keep of a network that is not run any more."""

    def close(self) -> None:
        """End its threads."""


def check_cut(cut: str, workers: int, why: str = ALONE) -> None:
    """Check what a call asks for.

    Args:
        cut: along what the network is to be cut.
        workers: over how many it could be.
        why: if that is one.

    Raises:
        InvalidArgumentError: it cannot be cut so.

    Example:
        >>> check_cut("nothing", 1)
        >>> check_cut("rows", 1)
        Traceback (most recent call last):
            ...
        groupconv.errors.InvalidArgumentError: cut: expected nothing, as one worker runs networks, got 'rows'
    """
    if cut not in ("", WHOLE, *CUTS):
        raise InvalidArgumentError("cut", f"one of {', '.join((WHOLE, *CUTS))}", cut)
    if cut not in ("", WHOLE) and workers < 2:
        raise InvalidArgumentError("cut", f"{WHOLE}, as {why}", cut)
