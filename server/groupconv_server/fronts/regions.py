"""Regions of shared memory: registered with one front, mapped by all."""

import os
from collections.abc import Sequence

from groupconv_server.fronts.link import Link
from groupconv_server.fronts.replica import Change, Replica, Staged
from groupconv_server.memory.shared_memory import HostRegion, RegionAbout, SharedMemory, mapped_region


class FrontMemory(SharedMemory):
    """The regions of all fronts, as this front has mapped them.

    The supervisor drops those whose clients have gone: only it knows when each front used a region.

    Args:
        kind: of its changes: clients of each protocol have a table of their own.
        replica: gets the regions of other fronts.
        supervisor: has every front map a region.
    """

    def __init__(self, kind: str, replica: Replica, supervisor: Link) -> None:
        super().__init__(gone=lambda _: set())
        self.kind, self._replica, self._supervisor = kind, replica, supervisor
        replica.register(kind, self._stage, super().unregister)

    def unregister(self, name: str) -> None:
        """Drop a region at every front."""
        if name in self:
            self._supervisor.call("remove_regions", self.kind, [name])

    def unregister_all(self, owner: str) -> None:
        """Drop every region of one owner at every front."""
        self._supervisor.call("remove_regions_of", self.kind, owner)

    def regions(self, name: str = "") -> Sequence[HostRegion]:
        """As of `Regions.regions`."""
        self._replica.catch_up()
        return super().regions(name)

    def __contains__(self, name: str) -> bool:
        self._replica.catch_up()
        return super().__contains__(name)

    def part(self, name: str, offset: int, size: int, *, owner: str | None = None) -> HostRegion:
        """As of `Regions.part`."""
        self._replica.catch_up()
        return super().part(name, offset, size, owner=owner)

    def uses(self) -> dict[str, tuple[str, float]]:
        """Owner and time of the last use here, by name."""
        return {region.name: (region.owner, region.used) for region in self.regions()}

    def _add_object(self, handle: int, about: RegionAbout) -> None:
        change = Change(self.kind, about.name, 0, about)
        self._supervisor.call("publish", change, handle=handle)

    def _stage(self, change: Change, handle: int) -> Staged:
        about: RegionAbout = change.about
        try:
            made = self._reserved(about.name, about.size, lambda: mapped_region(handle, about))
        finally:
            os.close(handle)
        return Staged(lambda: self._put(made), lambda: self._release(about.name))
