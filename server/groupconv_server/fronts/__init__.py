"""Several processes behind one port: a supervisor holds what must be one, and each front serves requests.

supervisor.py          puts them together; processes.py starts fronts and replaces lost ones
child.py link.py       a process that was started, and a connection to it
front.py               a front: a server with the parts below
ledger.py replica.py   changes that hold for all at the same moment; layers.py regions.py have them
counters.py limits.py  counts and limits in shared memory
owner.py roster.py     workers that all fronts share, as supervisor and fronts see them
worker_processes.py    starts local workers that they share
status.py metrics.py   sums over all fronts
disk.py sweeper.py     the supervisor's folder of layers, and regions whose clients have gone
"""

import os

MOST = 64
"""Fronts, at most."""


def automatic() -> int:
    """How many fronts `--processes auto` means: one for each two cores, and at most eight.

    A front keeps about a core busy with messages, and its engine needs another one.
    """
    return max(1, min(8, len(os.sched_getaffinity(0)) // 2))
