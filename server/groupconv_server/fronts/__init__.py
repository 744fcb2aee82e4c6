"""Several processes behind one port: a supervisor holds what must be one, and each front serves requests."""

import os

MOST = 64
"""Fronts, at most."""


def automatic() -> int:
    """How many fronts `--processes auto` means: one for each two cores, and at most eight.

    A front keeps about a core busy with messages, and its engine needs another one.
    """
    return max(1, min(8, len(os.sched_getaffinity(0)) // 2))
