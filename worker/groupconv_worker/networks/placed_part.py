"""A part of a network, and the memory in which it exchanges boxes with the other parts.

The first worker of each node makes the memory by which the parts there exchange boxes: a memfd, which the others open
under the first one's /proc/PID/fd. So nothing has a name, and nothing is left when they end. Parts on other nodes are
sent boxes by links (links.py).
"""

import mmap
import os
import secrets
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np

from groupconv.errors import InternalError
from groupconv_worker.graph.needed.box import Box
from groupconv_worker.graph.partition.zones import Zone
from groupconv_worker.lanes.memory import fitting, shared
from groupconv_worker.networks.part_info import MemoryHandle, PartInfo, PartKey

if TYPE_CHECKING:
    from groupconv_worker.networks.links import PartLinks
    from groupconv_worker.networks.part_programs import PartProgram, PartPrograms

NONCE = 64
"""Bytes before the semaphores, which show that a mapping is the right one."""
UNMAPPED = "workers cannot map each other's memory"


@dataclass(eq=False)
class PlacedPart:
    """A part as its worker knows it.

    Attributes:
        key: of the part.
        programs: makes it.
        program: that runs it, once it is compiled.
        info: what it is, once it is compiled.
        reason: why there is none.
        own: for each output, the box that it makes.
        sent, received: the zones of each run, by the other worker.
        descriptor: of the memory, if this worker made it.
        links: to and from parts on other nodes, once it has its memory.
    """

    key: PartKey
    programs: "PartPrograms"
    program: "PartProgram | None" = None
    info: PartInfo | None = None
    reason: str = ""
    own: dict[str, Box] = field(default_factory=dict)
    sent: Mapping[int, Sequence[Zone]] = field(default_factory=dict)
    received: Mapping[int, Sequence[Zone]] = field(default_factory=dict)
    descriptor: int = -1
    links: "PartLinks | None" = None

    def share(self) -> MemoryHandle | str:
        """Make the memory that all parts of a node share, and map it; says why the part cannot use it.

        Raises:
            OSError: there is no memory.
        """
        assert self.info is not None
        size, nonce = fitting(NONCE + self.info.shared_bytes), secrets.token_bytes(NONCE)
        self.close()
        self.descriptor = shared(size)
        try:
            mapped = self._map(self.descriptor, size)
        except InternalError as error:
            return str(error)
        mapped[:NONCE] = nonce
        return MemoryHandle(os.getpid(), self.descriptor, size, nonce)

    def open(self, handle: MemoryHandle) -> str:
        """Map the memory that another worker made; says why it cannot be."""
        try:
            descriptor = os.open(f"/proc/{handle.pid}/fd/{handle.descriptor}", os.O_RDWR)
        except OSError as error:
            return f"{UNMAPPED} ({error})"
        try:
            if os.fstat(descriptor).st_size != handle.size:
                return UNMAPPED
            self.close()
            mapped = self._map(descriptor, handle.size)
        except InternalError as error:
            return str(error)
        finally:
            os.close(descriptor)
        return "" if mapped[:NONCE] == handle.nonce else UNMAPPED

    def close(self) -> None:
        """End its links, and close the descriptor; the memory stays mapped while a run uses the part."""
        if self.program is not None:
            self.program.close()
        if self.links is not None:
            self.links.close()
        if self.descriptor >= 0:
            os.close(self.descriptor)
            self.descriptor = -1

    def _map(self, descriptor: int, size: int) -> mmap.mmap:
        from groupconv_worker.networks.links import PartLinks  # with Numba, kept out of a worker's start

        assert self.program is not None
        mapped = mmap.mmap(descriptor, size)
        memory = np.frombuffer(mapped, np.uint8)
        self.program.use(memory, NONCE)
        self.links = PartLinks(self.key.worker, self.sent, self.received, memory[NONCE:], self.programs.await_sent)
        return mapped
