"""The folder of layers and networks, which the supervisor has for all fronts."""

import logging
import os
from collections.abc import Iterator
from pathlib import Path

from groupconv_server.coordinator.limits import Limits
from groupconv_server.fronts.replica import Change
from groupconv_server.fronts.weights import mapped, memory_of, share
from groupconv_server.layers.store import LayerStore, Stored
from groupconv_server.networks.store import NetworkStore, StoredNetwork

log = logging.getLogger(__name__)


class Disk:
    """A folder of layers and networks as changes that fronts take.

    Args:
        folder: see `LayerStore`.
        limits: of layers.
        address: of this server, for the errors of others.

    Attributes:
        damaged: what could not be loaded, and why.

    Raises:
        FailedPreconditionError: another server holds the folder, or it cannot be created or listed.
    """

    def __init__(self, folder: Path, limits: Limits, address: str) -> None:
        self._layers = LayerStore(folder, limits, address)
        self._layers.held.record(address)
        self._networks = NetworkStore(self._layers)
        self.damaged: dict[str, str] = {}

    def close(self) -> None:
        """Release the folder."""
        self._layers.close()

    def all(self) -> Iterator[tuple[Change, int]]:
        """Everything in the folder, each with a descriptor that the caller closes. Damaged files are logged."""
        for found in (*self._layers.all(), *self._networks.all()):
            if isinstance(found, Stored):
                yield _layer(found)
            elif isinstance(found, StoredNetwork):
                yield Change("network", found.name, found.version, None), _memory_with(found.data)
            else:
                self.damaged[found[0]] = str(found[1])
                log.error("%s was not loaded: %s", *found)

    def read(self, name: str, deadline: float | None) -> tuple[Change, int]:
        """A layer, with a descriptor that the caller closes.

        Raises:
            NotFoundError, DataLossError: as of `LayerStore.read`.
        """
        return _layer(self._layers.read(name), deadline)

    def save(self, change: Change, handle: int) -> None:
        """Keep a layer or network, in place of an older version.

        Raises:
            FailedPreconditionError: it cannot be kept; the older version stays.
        """
        if change.kind == "network":
            self._networks.save(change.name, change.version, os.pread(handle, os.fstat(handle).st_size, 0))
            return
        self._layers.save(change.name, change.version, mapped(change.about, handle), change.about.inputs)
        self.damaged.pop(change.name, None)

    def remove(self, kind: str, name: str) -> None:
        """Remove a layer or network.

        Raises:
            FailedPreconditionError: it cannot be removed.
        """
        (self._networks if kind == "network" else self._layers).remove(name)

    def others(self, loaded: set[str]) -> dict[str, str]:
        """Layers on disk that are not among those loaded, and the reason for each."""
        names = {*self._layers.names(), *self.damaged} - loaded
        return {name: self.damaged.get(name, "unloaded") for name in sorted(names)}


def _layer(stored: Stored, deadline: float | None = None) -> tuple[Change, int]:
    about, handle = share(stored.steps, stored.inputs)
    return Change("layer", stored.name, stored.version, about, deadline), handle


def _memory_with(data: bytes) -> int:
    handle = memory_of(len(data))
    os.pwrite(handle, data, 0)
    return handle
