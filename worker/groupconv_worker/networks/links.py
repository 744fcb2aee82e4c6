"""Links: TCP connections by which a part of a network sends boxes to parts on other nodes.

The workers of a node share memory with a semaphore and a zone for each exchange (cpu/network/exchange.py). Each node
has its own. A program packs a box into a zone and goes on. A thread of the link sleeps until the semaphore has the
number of the run, then sends the zone. The receiver writes it into the same zone of its own node, then writes the
number into the semaphore, where its program waits.

A box that comes too late has the number of a run that is over, so no program takes it. A link ends if a box comes only
in part. It is not opened again: the network is prepared anew, with new links.
"""

import contextlib
import queue
import secrets
import socket
import struct
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager

import numpy as np
from numpy.typing import NDArray

from groupconv_worker.cpu.network.kernels.exchange import abandon, await_published, write_number
from groupconv_worker.graph.partition.zones import Zone
from groupconv_worker.job import Job
from groupconv_worker.lanes import frames
from groupconv_worker.lanes.frames import BrokenLaneError, FrameKind
from groupconv_worker.lanes.handshake import TIMEOUT
from groupconv_worker.lanes.sockets import connect
from groupconv_worker.networks.gang import GangLostError
from groupconv_worker.networks.part_info import PartAddress

Memory = NDArray[np.uint8]
"""What the workers of a node share, for one network."""
AwaitSent = Callable[[int, int], bool]
TICKET = 16
"""Bytes of the random name by which a worker knows which of its parts a link is for."""
HELLO = struct.Struct(f"<{TICKET}sI")  # the ticket, and which worker of the network sends
BOX = struct.Struct("<qq")  # the semaphore of its exchange, and the number of the run
GLANCE = 0.02
"""Seconds between two looks whether a run is over, while its boxes are sent."""


class BoxSender:
    """Sends the boxes of one part to one other part, in a thread of its own.

    Args:
        to: the receiver.
        key: that its endpoint knows.
        sender: which worker of the network this is.
        zones: to send in each run, in the order in which they are packed.
        memory: that has the zones.
        await_sent: as of `part_programs.PartPrograms`.

    Raises:
        OSError: nobody listens there, or the other side does not know the key or the part.
    """

    def __init__(
        self, to: PartAddress, key: bytes, sender: int, zones: Sequence[Zone], memory: Memory, await_sent: AwaitSent
    ) -> None:
        self._zones, self._memory, self._await_sent = tuple(zones), memory, await_sent
        self._semaphores = [memory.ctypes.data + zone.semaphore for zone in zones]
        self._runs: queue.SimpleQueue[int | None] = queue.SimpleQueue()
        self._sent = threading.Event()
        self._error = ""
        self._sock = connect(to.endpoint, key)
        try:
            self._sock.settimeout(TIMEOUT)
            frames.send(self._sock, FrameKind.LINK, HELLO.pack(to.ticket, sender))
            frames.receive(self._sock)
            self._sock.settimeout(None)
        except BaseException:
            self._sock.close()
            raise
        self._thread = threading.Thread(target=self._send_runs, name="part-link", daemon=True)
        self._thread.start()

    def begin(self, number: int) -> None:
        """Send each box of a run as soon as it is packed. The run before has ended."""
        self._sent.clear()
        self._runs.put(number)

    def end(self, number: int, job: Job) -> str:
        """Wait, after a program's end, until all boxes that it packed are sent. Close the link if the job is over.

        Returns:
            Why the link has ended; empty if it has not.
        """
        for semaphore in self._semaphores:
            abandon(semaphore, number)
        while not self._sent.wait(GLANCE) and self._thread.is_alive():
            if job.poll():
                self.close()
        return self._error

    def close(self) -> None:
        """End the link and its thread."""
        with contextlib.suppress(OSError):  # it was broken
            self._sock.shutdown(socket.SHUT_RDWR)
        self._runs.put(None)

    def _send_runs(self) -> None:
        with self._sock:
            try:
                while (number := self._runs.get()) is not None:
                    self._send(number)
                    self._sent.set()
                self._error = "a link to another worker was closed"
            except OSError as error:
                self._error = f"a link to another worker has ended: {error}"

    def _send(self, number: int) -> None:
        for zone, semaphore in zip(self._zones, self._semaphores, strict=True):
            if self._await_sent(semaphore, number):
                elements = self._memory[zone.offset :][: zone.nbytes]
                frames.send(self._sock, FrameKind.BOX, BOX.pack(zone.semaphore, number), [elements])


class PartLinks:
    """The links of one part, to and from all parts on other nodes.

    Args:
        worker: which worker of the network this is.
        sent, received: the zones of each run, by the other worker.
        memory: that has the zones.
        await_sent: as of `BoxSender`.

    Attributes:
        ticket: by which other workers name this part.
    """

    def __init__(
        self,
        worker: int,
        sent: Mapping[int, Sequence[Zone]],
        received: Mapping[int, Sequence[Zone]],
        memory: Memory,
        await_sent: AwaitSent = await_published,
    ) -> None:
        self.ticket, self._await_sent = secrets.token_bytes(TICKET), await_sent
        self._worker, self._sent, self._received, self._memory = worker, sent, received, memory
        self._links: list[BoxSender] = []
        self._sockets: dict[int, socket.socket] = {}
        self._lock = threading.Lock()
        self._lost = ""
        self._job: Job | None = None

    def open(self, to: Mapping[int, PartAddress], key: bytes) -> None:
        """Open a link to each of these parts that this one sends boxes to.

        Raises:
            OSError: as of `BoxSender`.
        """
        for peer, address in to.items():
            if peer in self._sent:
                link = BoxSender(address, key, self._worker, self._sent[peer], self._memory, self._await_sent)
                self._links.append(link)

    def receive(self, sock: socket.socket, sender: int) -> None:
        """Receive boxes of another part until its link ends. A run that is under way ends with it.

        Raises:
            OSError: the link has ended.
        """
        with self._lock:
            if sender in self._sockets or sender not in self._received or self._lost:
                raise BrokenLaneError(f"worker {sender} has a link already, or sends nothing to this part")
            self._sockets[sender] = sock
        try:
            _receive_boxes(sock, self._received[sender], self._memory)
        except OSError as error:
            self._lost = f"the link of another worker has ended: {error}"
            if (job := self._job) is not None:
                job.stop(GangLostError(self._lost))
            raise

    @contextmanager
    def sending(self, number: int, job: Job) -> Iterator[None]:
        """Send the boxes of a run whose program runs inside.

        Raises:
            GangLostError: a link has ended.
        """
        self._job = job  # before the look at what is lost: `receive` sets that first
        try:
            if self._lost:
                raise GangLostError(self._lost)
            for link in self._links:
                link.begin(number)
            try:
                yield
            finally:
                errors = [error for link in self._links if (error := link.end(number, job))]
                if errors:
                    raise GangLostError(errors[0])
        finally:
            self._job = None

    def close(self) -> None:
        """End all links."""
        with self._lock:
            self._lost = self._lost or "the part was dropped"
            sockets = list(self._sockets.values())
        for link in self._links:
            link.close()
        for sock in sockets:
            with contextlib.suppress(OSError):  # it has ended
                sock.shutdown(socket.SHUT_RDWR)


def _receive_boxes(sock: socket.socket, zones: Sequence[Zone], memory: Memory) -> None:
    """Receive what a `BoxSender` sends, until it ends.

    Args:
        sock: a connection, after its LINK frame.
        zones: that the sender may fill.
        memory: that has the zones.

    Raises:
        OSError: the link has ended.
    """
    known = {zone.semaphore: zone for zone in zones}
    frames.send(sock, FrameKind.DONE)
    while True:
        kind, body = frames.receive(sock)
        if kind is not FrameKind.BOX or len(body) != BOX.size:
            raise BrokenLaneError(f"the other worker sent an unexpected {kind.name}")
        semaphore, number = BOX.unpack(body)
        if semaphore not in known:
            raise BrokenLaneError(f"the other worker sent a box for {semaphore}, which it has no exchange for")
        frames.receive_arrays(sock, [memory[known[semaphore].offset :][: known[semaphore].nbytes]])
        write_number(memory.ctypes.data + semaphore, number)
