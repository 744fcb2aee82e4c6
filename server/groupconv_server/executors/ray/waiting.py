"""Which of a request's shards is over first, whether it went by a lane or through Ray."""

import math
import select
import time
from collections.abc import Collection
from typing import Any

import ray

from groupconv_server.executors.ray.calls import Flight
from groupconv_server.executors.ray.lanes import Line

TURN = 0.002
"""Seconds between looks at Ray while lanes are waited for, too."""


def first_done(flights: Collection[Flight], seconds: float | None) -> Any:
    """The `done` of the first flight that is over; None if none is in time.

    Args:
        flights: at least one.
        seconds: to wait; None waits as long as it takes.
    """
    lines = {f.done.fileno(): f.done for f in flights if isinstance(f.done, Line)}
    calls = [f.done for f in flights if f.lane is None]
    if len(lines) + len(calls) < len(flights):
        return next(f.done for f in flights if f.lane is not None and not isinstance(f.done, Line))
    if not lines:
        done, _ = ray.wait(calls, num_returns=1, timeout=seconds)
        return done[0] if done else None
    poll = select.poll()
    for number in lines:
        poll.register(number, select.POLLIN)
    limit = math.inf if seconds is None else time.monotonic() + seconds
    while True:
        if calls and (done := ray.wait(calls, num_returns=1, timeout=0)[0]):
            return done[0]
        wait = min(limit - time.monotonic(), TURN if calls else math.inf)
        if found := poll.poll(None if math.isinf(wait) else math.ceil(max(0.0, wait) * 1e3)):
            return lines[found[0][0]]
        if time.monotonic() >= limit:
            return None
