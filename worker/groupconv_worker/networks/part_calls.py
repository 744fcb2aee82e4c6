"""What a coordinator asks of a worker's parts of networks, as methods of its actor."""

from collections.abc import Mapping

from groupconv_worker.contract import Array, DeviceLostError
from groupconv_worker.graph.partition.choice import CutChoice
from groupconv_worker.graph.partition.zones import LandingHandle
from groupconv_worker.networks.part import PartRunner
from groupconv_worker.networks.part_info import MemoryHandle, PartAddress, PartInfo, PartKey
from groupconv_worker.networks.worker_process import expiring, leave


class PartCalls:
    """The methods of `groupconv_worker.actor.Worker` that are about parts of networks.

    Args:
        parts: of the worker; None if its engine runs no programs.

    Attributes:
        parts: as given.
        dropped: numbers of calls that nobody waits for any more.
    """

    def __init__(self, parts: PartRunner | None) -> None:
        self.parts, self.dropped = parts, set[int]()

    def prepare_part(self, key: PartKey, choice: CutChoice, data: bytes | None) -> PartInfo | str | None:
        """Have this worker's part of a network that is cut compiled (see `PartRunner.prepare`).

        Args:
            key: of the part.
            choice: how the network is cut.
            data: the model; None if this worker should have it, or was given it before.
        """
        if self.parts is None:
            return "a worker's engine runs no programs"
        return self.parts.prepare(key, choice, data)

    def share_part(self, key: PartKey) -> MemoryHandle | str:
        """Make the memory that the workers of a cut share; says why that cannot be."""
        assert self.parts is not None  # it was prepared
        return self.parts.share(key)

    def open_part(self, key: PartKey, handle: MemoryHandle) -> str:
        """Map it on another worker; says why that cannot be."""
        assert self.parts is not None
        return self.parts.open(key, handle)

    def export_part(self, key: PartKey) -> LandingHandle | None:
        """A handle by which workers on this node open a part's own memory (see `PartProgram.export`)."""
        assert self.parts is not None
        return self.parts.export(key)

    def reach_part(self, key: PartKey, to: Mapping[int, LandingHandle]) -> None:
        """Have a part reach the memory of others of this node, if it can."""
        assert self.parts is not None
        self.parts.reach(key, to)

    def link_part(self, key: PartKey, to: Mapping[int, PartAddress], secret: bytes) -> str:
        """Open links to parts on other nodes; says why that cannot be."""
        assert self.parts is not None
        return self.parts.link(key, to, secret)

    def run_part(
        self, key: PartKey, number: int, expires: float | None, flight: int, *arrays: Array
    ) -> tuple[list[Array], float] | None:
        """Run this worker's part of a network that is cut.

        Args:
            key: of the part.
            number: of the run.
            expires: as of `Worker.run`.
            flight: what `Worker.drop` calls it.
            arrays: its parts of the inputs, in the order of their names.

        Returns:
            As of `PartRunner.run`.
        """
        job = expiring(expires, lambda: flight not in self.dropped)
        try:
            return None if self.parts is None else self.parts.run(key, number, arrays, job)
        except DeviceLostError as error:
            leave(error)

    def drop_part(self, key: PartKey) -> None:
        """Drop a part, as a worker beside this one was lost."""
        if self.parts is not None:
            self.parts.drop(key)
