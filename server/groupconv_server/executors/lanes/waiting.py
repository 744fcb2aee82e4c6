"""Waits for the first shard of a request that is over, sent by a lane or by the carrier."""

import math
import select
import time
from collections.abc import Collection
from typing import Any

from groupconv_server.executors.lanes.connection import LaneConnection
from groupconv_server.executors.lanes.flights import Carrier, Flight

POLL = 0.002
"""Seconds between two looks at the carrier while the wait is for lanes, too."""


def first_done(flights: Collection[Flight], seconds: float | None, carrier: Carrier | None) -> Any:
    """The `done` of the first flight that is over; None if the time passes before.

    Args:
        flights: at least one.
        seconds: to wait; None waits without limit.
        carrier: of those that were not sent by a lane; None if all were.
    """
    connections = {f.done.fileno(): f.done for f in flights if isinstance(f.done, LaneConnection)}
    calls = [f.done for f in flights if f.lane is None]
    if len(connections) + len(calls) < len(flights):
        return next(f.done for f in flights if f.lane is not None and not isinstance(f.done, LaneConnection))
    if not connections and carrier is not None:
        return carrier.first_done(calls, seconds)
    poll = select.poll()
    for number in connections:
        poll.register(number, select.POLLIN)
    limit = math.inf if seconds is None else time.monotonic() + seconds
    while True:
        if calls and carrier is not None and (done := carrier.first_done(calls, 0)):
            return done
        wait = min(limit - time.monotonic(), POLL if calls else math.inf)
        if ready := poll.poll(None if math.isinf(wait) else math.ceil(max(0.0, wait) * 1e3)):
            return connections[ready[0][0]]
        if time.monotonic() >= limit:
            return None
