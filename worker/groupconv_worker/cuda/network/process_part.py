"""One GPU's part of a network whose other parts are in other processes, on this node or on others.

The parts of a node see the memory that they share, page-locked by each process. It has their semaphores. Where CUDA
opens the landing area of a receiver in the process of the sender, boxes are copied there. Else they pass through a zone
of the shared memory; so do boxes from and to other nodes, which links carry from the one zone to the other.
"""

import logging
import os
import select
import threading
import time
import weakref
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from groupconv.errors import InternalError, InvalidArgumentError
from groupconv.gpu.driver import driver
from groupconv_worker.contract import Array
from groupconv_worker.cuda.device import Device
from groupconv_worker.cuda.engine import CudaEngine
from groupconv_worker.cuda.ipc import DeviceMemory
from groupconv_worker.cuda.network.part import DevicePart
from groupconv_worker.cuda.network.segments import WORD, Semaphores, check_values
from groupconv_worker.graph.graph import Graph
from groupconv_worker.graph.partition.part import RECEIVE, SEND
from groupconv_worker.graph.partition.zones import LINE, LandingHandle, zones
from groupconv_worker.job import Job

log = logging.getLogger(__name__)

GLANCE = 0.05
"""Seconds between two looks whether other processes have closed a landing area."""


class ProcessPart:
    """A part of a network, on the device of an engine.

    Args:
        graph: of the part, as `exchange.connected` makes it.
        engine: as of `DevicePart`.
        exchanges: of the whole network.

    Attributes:
        nbytes: of device memory.

    Raises:
        UnsupportedNodeError, ResourceExhaustedError, DeviceLostError: as of `DevicePart`.
        InternalError: streams do not wait for values.
    """

    def __init__(self, graph: Graph, engine: CudaEngine, exchanges: int) -> None:
        check_values([engine])
        self._program, self._device, self._exchanges = DevicePart(graph, engine), engine.gpu, exchanges
        self._sent, self._received = zones(graph, SEND), zones(graph, RECEIVE)
        self._meetings: _Meetings | None = None
        self.nbytes = self._program.nbytes

    def use(self, memory: Array, start: int) -> None:
        """Meet other parts in this memory from now on.

        Args:
            memory: (bytes,) uint8, as it was mapped; zeros behind `start`.
            start: where the semaphores begin.

        Raises:
            InternalError: it cannot be page-locked.
        """
        received = [zone.semaphore // LINE for several in self._received.values() for zone in several]
        semaphores = self._exchanges * LINE
        with self._device.current():
            self._meetings = _Meetings(self._device, memory, start, semaphores, received, self._program.landing)

    def export(self) -> LandingHandle | None:
        """The landing area, for other processes of this node; None if they cannot open it."""
        area = self._program.landing
        allocation = None if area is None else driver().allocation(area.data.ptr)
        handle = None if allocation is None else driver().handle(allocation)
        if handle is None or allocation is None:
            return None
        return LandingHandle(handle, allocation.size, int(area.data.ptr) - allocation.base)

    def reach(self, to: Mapping[int, LandingHandle]) -> None:
        """Copy what is sent to these parts of this node to their landing areas, if CUDA opens them here."""
        meetings = self._meetings
        assert meetings is not None, "use() comes first"
        for peer, handle in to.items():
            try:
                area = DeviceMemory(self._device.cupy, handle.handle, self._device.ordinal, handle.size)
            except InvalidArgumentError as error:
                log.info("boxes for worker %d pass through memory of the host: %s", peer, error)
                continue
            places = {zone.semaphore: area.address + handle.offset + zone.landing for zone in self._sent[peer]}
            meetings.opened(area, places)

    def run(self, inputs: Mapping[str, Array], number: int, job: Job) -> Mapping[str, Array]:
        """As of `DevicePart`. What is sent and received is known by now, and recorded in the first run."""
        meetings = self._meetings
        assert meetings is not None, "use() comes first"
        if not meetings.recorded:
            node = {
                zone.semaphore: meetings.start + zone.offset
                for several in (*self._sent.values(), *self._received.values())
                for zone in several
            }
            landed = meetings.landed()
            sources = {
                zone.semaphore: node[zone.semaphore]
                for several in self._received.values()
                for zone in several
                if zone.semaphore not in landed
            }
            self._program.connect(meetings.semaphores, node | meetings.targets, sources)
            self._program.record()
            meetings.recorded = True
        return self._program.run(inputs, number, job)

    def close(self) -> None:
        """Leave the other parts, once no run is under way. Memory that others may write into stays until they end."""
        self._meetings = None
        self._program.close()


class _Meetings:
    """The page-locked memory in which parts of a node meet, and what is open of other processes.

    Each line of the memory has an exchange's semaphore, and behind it the id of the process that has the receiver's
    landing area open for it; 0 if none has.

    Args:
        device: the current one.
        memory, start: as of `ProcessPart.use`.
        semaphores: bytes of all lines.
        received: numbers of the lines of what this part receives.
        landing: this part's landing area.

    Raises:
        InternalError: it cannot be page-locked.
    """

    def __init__(
        self, device: Device, memory: Array, start: int, semaphores: int, received: list[int], landing: Any
    ) -> None:
        unlock = device.page_locked.register(memory)
        if not device.page_locked.holds(memory):
            raise InternalError("cuda.page_locked: memory that workers share cannot be page-locked")
        lines = memory[start : start + semaphores].view(WORD).reshape(-1, LINE // WORD.itemsize)
        self._openers, self._received = lines[:, 1], received
        self._areas, self._mine = list[DeviceMemory](), list[int]()
        self.start = memory.ctypes.data + start
        self.semaphores = Semaphores(lines.reshape(-1), driver().on_device(self.start))
        self.targets = dict[int, int]()
        self.recorded = False
        end = weakref.finalize(self, _leave, self._openers, self._areas, self._mine, unlock, received, landing, memory)
        end.atexit = False

    def opened(self, area: DeviceMemory, targets: Mapping[int, int]) -> None:
        """Send by these targets, which lie in a landing area of another process."""
        self._areas.append(area)
        self._mine += [semaphore // LINE for semaphore in targets]
        self._openers[[semaphore // LINE for semaphore in targets]] = os.getpid()
        self.targets.update(targets)

    def landed(self) -> set[int]:
        """The semaphores of boxes that their senders copy to this part's landing area."""
        return {LINE * line for line in self._received if self._openers[line]}


def _leave(
    openers: Array,
    areas: list[DeviceMemory],
    mine: list[int],
    unlock: Callable[[], None],
    received: list[int],
    landing: Any,
    _memory: Array,
) -> None:
    """Close what is open of other processes, and keep the own landing area while they have it open.

    CUDA leaves it undefined what happens when memory is freed that another process has open.
    """
    areas.clear()
    openers[mine] = 0
    unlock()
    if any(openers[received]):
        threading.Thread(target=_keep, args=(landing, openers, received), name="landing-area", daemon=True).start()


def _keep(_landing: Any, openers: Array, received: list[int]) -> None:
    """Hold a landing area until no living process has it open."""
    while any(_lives(int(pid)) for pid in np.unique(openers[received]) if pid):
        time.sleep(GLANCE)


def _lives(pid: int) -> bool:
    """Whether a process has not ended yet."""
    try:
        descriptor = os.pidfd_open(pid)
    except ProcessLookupError:
        return False
    try:
        return not select.select([descriptor], [], [], 0)[0]
    finally:
        os.close(descriptor)
