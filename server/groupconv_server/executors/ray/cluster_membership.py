"""Cluster membership: one actor for every place, which is started, prepared, watched and started again.

One thread watches. Only this thread asks Ray about nodes and actors, and never under a lock: a head that does not
answer keeps this thread waiting, and no request.
"""

import itertools
import logging
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import ray
from ray.autoscaler.sdk import request_resources
from ray.exceptions import RayError, RayTaskError

from groupconv.errors import GroupconvError, UnavailableError
from groupconv_server.executors.lanes.membership import Membership
from groupconv_server.executors.lanes.worker_slots import WorkerSlot, WorkerState
from groupconv_server.executors.placement import Node, WorkerPlaces
from groupconv_server.executors.ray.node_states import NodeStates
from groupconv_server.executors.ray.ray_internals import has_resources
from groupconv_server.executors.ray.spares import Spares, start_actor

log = logging.getLogger(__name__)

TICK = 0.1
"""Seconds between two looks at the cluster."""
SILENCE = 2.0
"""Seconds without an answer after which the cluster's head is reported as away."""
PLACING = 5.0
"""Seconds after which a worker that has not started may be waiting for resources."""
JOINING = 5.0
"""Seconds after which the server of a cluster starts without a worker, if none is about to be ready."""


class ClusterMembership(Membership):
    """The workers of a cluster.

    Args:
        places: that should have a worker.
        capacity: bytes of resident layers' weights each keeps prepared.
        reach: called with each worker that answers, before it takes shards, to open its lane.
        spares: started workers that wait to replace a lost one, on each node (spares.py).
    """

    def __init__(
        self, places: WorkerPlaces, capacity: int, reach: Callable[[WorkerSlot], None], spares: int = 0
    ) -> None:
        super().__init__()
        self._places, self._capacity, self._reach = places, capacity, reach
        self.spares = Spares(spares, places.placement, capacity)
        self._states = NodeStates()
        self._numbers = itertools.count()
        self._answered = time.monotonic()
        self._welcome: Callable[[str], None] | None = None
        self._preparing = ThreadPoolExecutor(1, thread_name_prefix="ray-welcome")
        self._why = ""  # the reason why the last worker did not start
        self._shortage = ""  # why workers have no place, or wait for theirs
        self._waiting: frozenset[WorkerSlot] = frozenset()  # those that have a place and wait for its resources
        self._watcher = threading.Thread(target=self._watch, name="ray-membership", daemon=True)

    def start(self, seconds: float, *, partly: bool = False) -> None:
        """Start the workers, and wait until as many are ready as were asked for, or the first.

        Args:
            seconds: that they may take.
            partly: whether those that fit are enough, and none after JOINING seconds. The others come when they can.

        Raises:
            UnavailableError: they did not come up in time.
        """
        begun = time.monotonic()
        count, limit = self._places.workers or 1, begun + seconds
        self._watcher.start()
        with self._changed:
            while (present := len(self.ready())) < count:
                if partly and self._settled() and (present or time.monotonic() - begun > JOINING):
                    log.warning("starting with %d of %d workers; %s", present, count, self.trouble())
                    return
                left = limit - time.monotonic()
                if left <= 0:
                    raise UnavailableError(f"{present} of {count} workers came up in time; {self.trouble()}")
                self._changed.wait(min(left, TICK if partly else 1.0))

    def _settled(self) -> bool:
        """Whether no worker is about to be ready: each is, or lacks resources, or could not start."""
        return all(slot.ready or slot.restarts or slot in self._waiting for slot in self.slots)

    def welcome(self, prepare: Callable[[str], None]) -> None:
        """Have `prepare` called with each worker that joins or returns, before it takes shards."""
        self._welcome = prepare

    def trouble(self) -> str:
        """What is wrong with the cluster, for people; empty if nothing is wrong."""
        silent = time.monotonic() - self._answered
        if silent > SILENCE:
            return f"the head of the Ray cluster has not answered for {silent:.0f} s; lost workers cannot be replaced"
        with self._changed:
            away = [slot.id for slot in self.slots if slot.state not in (WorkerState.READY, WorkerState.DRAINING)]
            failed = f" ({self._why})" if self._why else ""
        return "; ".join(filter(None, [f"not there: {', '.join(away)}{failed}" * bool(away), self._shortage]))

    def close(self) -> None:
        """End the watch and the actors."""
        self._stopping.set()
        with self._changed:
            self._changed.notify_all()
        self._preparing.shutdown(wait=False, cancel_futures=True)
        self._watcher.join(SILENCE)  # it may wait for a head that is away
        for slot in self.slots:
            if slot.actor is not None:
                ray.kill(slot.actor)
        self.spares.leave()
        self.slots.clear()

    def _watch(self) -> None:
        logged = demanded = False
        while not self._stopping.is_set():
            try:
                if not demanded:
                    self._demand()
                    demanded = True
                self._reconcile()
                self._answered = time.monotonic()
                if not self.slots and not logged:
                    logged = True
                    log.info("waiting for the first worker to join the cluster")
                self._restart()
                self._admit()
            except (RayError, OSError, RuntimeError) as error:  # a transient error: the watch goes on
                log.warning("the cluster does not answer: %s", error)
                demanded = False  # a head that was started again may not know it
                self._stopping.wait(TICK)

    def _demand(self) -> None:
        """Tell a cluster that adds nodes by demand what a given number of workers needs; others do nothing with it."""
        if bundles := self._places.demand():
            request_resources(
                bundles=bundles, bundle_label_selectors=[dict(self._places.placement.labels)] * len(bundles)
            )

    def _reconcile(self) -> None:
        """Start missing workers, remove those of nodes that are gone, and drain those of nodes that leave."""
        alive = {n["NodeID"]: Node.of(n) for n in ray.nodes() if n["Alive"]}
        self._states.look()
        leaving = self._states.draining
        for slot in list(self.slots):
            if slot.place.node_id not in alive:
                log.warning("node of worker %s is gone", slot.id)
                self.lost(slot, slot.actor)
                self._remove(slot)
            elif slot.place.node_id in leaving:
                self._drain(slot)
        staying = [node for node in alive.values() if node.id not in leaving]
        for place in self._places.missing(
            staying, [s.place for s in self.slots if s.state is not WorkerState.DRAINING]
        ):
            slot = WorkerSlot(f"ray-{next(self._numbers)}", place)
            self._started(slot, self._new_actor(slot))
            with self._changed:
                self.slots.append(slot)
        self.spares.leave([node.id for node in staying])
        if all(slot.ready for slot in self.slots):  # workers start before spares
            self.spares.fill([slot.place for slot in self.slots])
        self._shortage = "; ".join(filter(None, [self._unplaced(staying), self._lacking(alive)]))

    def _unplaced(self, nodes: Sequence[Node]) -> str:
        """Which workers have no place, and what they wait for."""
        return self._places.shortage(nodes, [s.place for s in self.slots if s.state is not WorkerState.DRAINING])

    def _lacking(self, nodes: Mapping[str, Node]) -> str:
        """Which workers wait for resources of their node that somebody else holds."""
        late = [s for s in self.slots if s.state is WorkerState.STARTING and s.starting_for > PLACING]
        waiting = {
            s: f"{s.id} waits for {s.place} on {nodes[s.place.node_id].name}, which has {free} free"
            for s in late
            if (free := self._states.lacking(s.place, self._places.placement.resources)) and not has_resources(s.actor)
        }
        self._waiting = frozenset(waiting)
        return "; ".join(waiting.values())

    def _drain(self, slot: WorkerSlot) -> None:
        """Send it no more shards; end its actor once its shards are done, which lets its node go."""
        with self._changed:
            if slot.state is not WorkerState.DRAINING:
                log.info("worker %s is leaving with its node", slot.id)
                slot.state = WorkerState.DRAINING
        if not self.busy(slot):
            ray.kill(slot.actor)
            self._remove(slot)

    def _remove(self, slot: WorkerSlot) -> None:
        with self._changed:
            self.slots.remove(slot)
            self._changed.notify_all()

    def _restart(self) -> None:
        """Replace each lost worker by a spare, or start a new actor, after its pause."""
        for slot in self.slots:
            if slot.due:
                ray.kill(slot.actor)  # an actor that is out of reach must free its resources
                spare = self.spares.take(slot.place)
                self._started(slot, self._new_actor(slot) if spare is None else spare)

    def _started(self, slot: WorkerSlot, actor: Any) -> None:
        slot.started(actor, actor.describe.remote())

    def _new_actor(self, slot: WorkerSlot) -> Any:
        return start_actor(slot.place, self._places.placement, self._capacity)

    def _admit(self) -> None:
        """Prepare every worker that answers; waits a tick for those that start."""
        waiting = {s.ping: s for s in self.slots if s.state is WorkerState.STARTING}
        if not waiting:
            self._stopping.wait(TICK)
            return
        for ref in ray.wait(list(waiting), num_returns=1, timeout=TICK)[0]:
            slot = waiting[ref]
            try:
                slot.facts = ray.get(ref)
            except RayError as error:
                self._why = str(error.cause if isinstance(error, RayTaskError) else error).strip()
                log.warning("worker %s did not start: %s", slot.id, self._why)
                self.lost(slot, slot.actor)
                continue
            slot.state = WorkerState.PREPARING
            self._preparing.submit(self._prepare, slot, slot.actor)

    def _prepare(self, slot: WorkerSlot, actor: Any) -> None:
        try:
            self._reach(slot)
            if self._welcome is not None:
                self._welcome(slot.id)
        except GroupconvError as error:  # it takes shards nevertheless, and asks for weights that it lacks
            log.warning("worker %s was not prepared: %s", slot.id, error)
        except Exception:
            log.exception("worker %s was not prepared", slot.id)
        self._ready(slot, actor)

    def _ready(self, slot: WorkerSlot, actor: Any) -> None:
        with self._changed:
            if slot.actor is actor and slot.state is WorkerState.PREPARING:
                slot.state, self._why = WorkerState.READY, ""
                self._changed.notify_all()
                log.info("worker %s is ready on %s: %s", slot.id, slot.facts["node"], slot.facts["device"])
