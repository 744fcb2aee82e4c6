"""Waiting for the state of another process or thread, which tells nobody when it changes."""

import time


def until(holds, seconds=60, every=0.02):
    """Return once `holds()`; fail if it does not within so many seconds."""
    limit = time.monotonic() + seconds
    while not holds():
        assert time.monotonic() < limit, "it did not come to be in time"
        time.sleep(every)
