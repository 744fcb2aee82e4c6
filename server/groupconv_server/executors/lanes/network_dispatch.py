"""Which worker runs a call of a network, by a lane or through Ray; another one does if that is lost."""

import logging
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from groupconv.errors import InternalError
from groupconv_server.executors.lanes.dispatch import MAX_ATTEMPTS, MAX_LOSSES
from groupconv_server.executors.lanes.flights import NUMBERS, SUSPICIOUS, WorkerLostError, take
from groupconv_server.executors.lanes.lane import Lane
from groupconv_server.executors.lanes.lane_calls import LaneBrokenError
from groupconv_server.executors.lanes.membership import Membership
from groupconv_server.executors.lanes.worker_slots import WorkerSlot
from groupconv_worker.job import Job
from groupconv_worker.networks.runner import NetworkRun

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True, eq=False)
class NetworkFlight:
    """A call on its way to a worker, as the worker's slot counts it."""

    lane: Lane | None = None
    alone: bool = False
    number: int = field(default_factory=NUMBERS.__next__)


Attempt = Callable[[WorkerSlot, NetworkFlight], NetworkRun]
"""Has one worker run a call; raises WorkerLostError or LaneBrokenError if another one should."""


def run(
    membership: Membership, network: str, job: Job, attempt: Attempt, suspicion: Any, *, lanes: bool = True
) -> tuple[str, NetworkRun]:
    """Run a call on the worker with least to do; again on another one where that is lost.

    Args:
        membership: the workers.
        network: its name, for the log.
        job: the deadline and cancellation of the call.
        attempt: has one of them run it.
        suspicion: as of `Dispatch`, for calls that may have killed workers.
        lanes: whether it does so by the worker's lane.

    Returns:
        The worker's id, and how it answered.

    Raises:
        DeadlineExceededError, CancelledError: the job was over first.
        GroupconvError: what the worker raised.
        InternalError: too many workers were lost with it.
    """
    slot, losses, attempts = membership.any(job.deadline), 0, 0
    while True:
        attempts += 1
        alone = losses >= SUSPICIOUS
        if alone:
            take(suspicion, job.deadline)
        actor, flight = slot.actor, NetworkFlight(slot.lane if lanes else None, alone=alone)
        slot.sent(flight)
        try:
            ran = attempt(slot, flight)
        except (WorkerLostError, LaneBrokenError) as lost:
            if isinstance(lost, WorkerLostError):
                membership.lost(slot, actor)
                losses += flight.number in slot.suspects
            slot.dropped(flight)
            log.warning("a call of network %s was lost on worker %s (%s); it runs again", network, slot.id, lost)
            if losses >= MAX_LOSSES or attempts >= MAX_ATTEMPTS:
                what = f"a call of network {network} was given up"
                raise InternalError(f"{what}: {losses} workers were lost with it, in {attempts} attempts") from None
        except BaseException:
            slot.dropped(flight)
            raise
        else:
            slot.landed(flight)
            return slot.id, ran
        finally:
            if alone:
                suspicion.release()
        slot = membership.any(job.deadline, but=slot)
