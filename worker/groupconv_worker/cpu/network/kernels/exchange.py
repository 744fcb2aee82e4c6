"""Meeting another worker in the middle of a program: a semaphore in memory that both have mapped says what is there."""

from typing import Any

import numpy as np
from numba import njit, types

from groupconv_worker.cpu.kernels.atomic import array, give_way, job, load, nap, once, stopped, store
from groupconv_worker.cpu.kernels.cache import compiled
from groupconv_worker.cpu.kernels.futex import sleep, wake

SPINS, YIELDS = 2_000, 500
"""Looks at the semaphore before others get the processor, and before the thread sleeps between looks."""
NAP = 50
"""Microseconds of sleep between looks."""

_I = types.int64


@njit(inline="always")
def _write(semaphore, number):
    """Write a number into a semaphore, and wake the thread of this process that sleeps at it."""
    store(semaphore, number)
    wake(semaphore)


@compiled(types.void(_I, _I))
def write_number(semaphore, number):
    """Write the number of a run into a semaphore, as `publish` does for what a program has packed. Releases the GIL."""
    _write(semaphore, number)


@compiled(types.void(_I, _I))
def abandon(semaphore, number):
    """Write `-number` into a semaphore without the run's number, as no program will publish it. Releases the GIL."""
    if load(semaphore) != number:
        _write(semaphore, -number)


@compiled(types.boolean(_I, _I))
def await_published(semaphore, number):
    """Sleep until a program of this process has published `number`; False if it was abandoned. Releases the GIL."""
    while True:
        found = load(semaphore)
        if found == number or found == -number:
            return found == number
        sleep(semaphore, found)


@compiled(types.boolean(_I, _I))
def await_written(semaphore, number):
    """As `await_published`, for a semaphore that a device writes, which wakes nobody. Releases the GIL."""
    while True:
        found = load(semaphore)
        if found == number or found == -number:
            return found == number
        nap(NAP)


@once
def publish() -> Any:
    """Says that what was written before this stage is there.

    Returns:
        A job with the arguments (address of the semaphore, number of the run); there is one task.
    """

    @job()
    def publish(at, _first, _last):
        w = array(at, np.int64)
        _write(w[0], w[1])

    return publish.address


@once
def await_number() -> Any:
    """Waits until another worker has published this run's number, or the job is over.

    Returns:
        A job with the arguments (address of the semaphore, number of the run); there is one task.
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
