"""Keeps a lane to every worker: opens it when the worker is there, and again when it broke."""

import logging
import threading
import time
from typing import TYPE_CHECKING

import ray
from ray.exceptions import RayError

from groupconv_server.executors.ray import probe
from groupconv_server.executors.ray.lanes import Lane
from groupconv_server.executors.ray.slots import WorkerSlot
from groupconv_worker.lanes.handshake import new_key

if TYPE_CHECKING:
    from groupconv_server.executors.ray.membership import Membership

log = logging.getLogger(__name__)

TICK = 0.1
"""Seconds between looks at the lanes."""
PATIENCE = 5.0
"""Seconds that a worker has to say where its lane is."""
PAUSES = (0.1, 30.0)
"""Seconds until a lane that cannot be opened is tried again, at first and at most."""


class Keeper:
    """Looks after the lanes of a cluster's workers."""

    def __init__(self) -> None:
        self._key = new_key()
        self._node = ray.get_runtime_context().get_node_id()
        self._members: Membership | None = None
        self._next: dict[WorkerSlot, tuple[float, float]] = {}  # when to try again, and the pause after that
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._watch, name="lanes", daemon=True)

    def open(self, slot: WorkerSlot) -> None:
        """Open the lane of a worker that has none, and measure what it is good for; without one Ray brings shards."""
        actor = slot.actor
        try:
            lane = Lane(ray.get(actor.lane.remote(self._key, self._node), timeout=PATIENCE), self._key)
            try:
                lane.limit = probe.limit(lane, actor)
            except BaseException:
                lane.close()
                raise
        except (OSError, RayError) as error:
            _, pause = self._next.get(slot, (0.0, PAUSES[0]))
            self._next[slot] = time.monotonic() + pause, min(2 * pause, PAUSES[1])
            log.warning("no lane to worker %s (%s): its shards go through Ray", slot.id, str(error).splitlines()[0])
            return
        self._next.pop(slot, None)
        log.info("worker %s: shards up to %d bytes go by its lane (%s)", slot.id, lane.limit, lane.kind)
        slot.reached(lane, actor)

    def watch(self, members: "Membership") -> None:
        """See from now on that every member that takes shards has a lane, and that those that lost theirs are there."""
        self._members = members
        self._thread.start()

    def close(self) -> None:
        """Close all."""
        self._stopping.set()
        if self._members is None:
            return
        self._thread.join(PATIENCE)
        for slot in self._members.ready():
            if slot.lane is not None:
                slot.lane.close()

    def _watch(self) -> None:
        while not self._stopping.wait(TICK):
            try:
                self._tend()
            except Exception:  # of one lane or one moment: the watch goes on
                log.exception("lanes were not looked after")

    def _tend(self) -> None:
        assert self._members is not None
        slots = self._members.ready()
        self._next = {slot: when for slot, when in self._next.items() if slot in slots}
        for slot in slots:
            lane, actor = slot.lane, slot.actor
            if lane is not None and lane.open and not lane.check():
                log.warning("worker %s has left its lane", slot.id)
                self._members.lost(slot, actor)
            elif (lane is None or not lane.open) and self._next.get(slot, (0.0,))[0] <= time.monotonic():
                self.open(slot)
