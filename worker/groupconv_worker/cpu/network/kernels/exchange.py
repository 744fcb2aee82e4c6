"""Meeting another worker in the middle of a program: a word in memory that both have mapped says what is there."""

from typing import Any

import numpy as np

from groupconv_worker.cpu.kernels.atomic import array, give_way, job, load, nap, once, stopped, store

SPINS, YIELDS = 2_000, 500
"""Looks at the word before others get the processor, and before the thread sleeps between looks."""
NAP = 50
"""Microseconds of sleep between looks."""


@once
def publish() -> Any:
    """Says that what was written before this stage is there.

    Returns:
        A job with the words (address of the word, number of the run); there is one task.
    """

    @job()
    def publish(at, _first, _last):
        w = array(at, np.int64)
        store(w[0], w[1])

    return publish.address


@once
def await_number() -> Any:
    """Waits until another worker has published this run's number, or the job is over.

    Returns:
        A job with the words (address of the word, number of the run); there is one task.
    """

    @job()
    def await_number(at, _first, _last):
        w = array(at, np.int64)
        turns = 0
        while load(w[0]) != w[1]:
            if stopped(at):
                return
            turns += 1
            if turns > SPINS + YIELDS:
                nap(NAP)
            elif turns > SPINS:
                give_way()

    return await_number.address
