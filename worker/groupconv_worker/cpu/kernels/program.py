"""Stages of compiled work that several threads run without the interpreter: announced, shared, waited for.

A job is one block of 64-bit words:

    stages, shares                                          a line of 8 words
    per stage: function, its words, tasks, parts per share  a line
               parts that are done                          a line
               per share: parts that are taken              a line each
    the words of each function, behind the address of the word of the caller's job (job.py)

A stage begins when every part of the one before is done. Who has finished its share takes parts from the others', so
nobody waits for a thread that has not come.
"""

import numpy as np
from numba import types

from groupconv_worker.cpu.kernels.atomic import add, array, call, exchange, fence, give_way, load, stopped, store
from groupconv_worker.cpu.kernels.cache import compiled
from groupconv_worker.cpu.kernels.futex import sleep, wake

LINE = 8
"""Words of a cache line: what two threads write lies on two of them."""
STAGES, SHARES = 0, 1
FUNCTION, WORDS, TASKS, PARTS, DONE, TAKEN = 0, 1, 2, 3, LINE, 2 * LINE
"""Offsets in words from the start of a job, and from that of a stage."""
JOB, SHARE, ASLEEP, OVER = 0, LINE, 2 * LINE, 3 * LINE
"""Where a helper finds, in its own words, the address of a job, which share is its, whether it sleeps; and where who
waits for a job in Python sees that it is over."""
NONE, BUSY, INTERPRETER = 0, 1, 2
"""A helper's job, if it is no address: none; one it has taken; one that wants the interpreter."""
PATIENCE = 2_000
"""Turns to spin on another thread's last part before giving way to whatever holds that thread up."""

_I, _WORDS = types.int64, types.Array(types.int64, 1, "C", readonly=True)


@compiled(types.void(_I, _I))
def _await(address, value):
    """Return when the word has this value."""
    turns = 0
    while load(address) != value:
        turns += 1
        if turns > PATIENCE:
            give_way()


@compiled(types.void(_I, _I))
def _pass(address, turns):
    """Let some turns pass."""
    for _ in range(turns):
        load(address)


@compiled(types.void(_I, _I))
def _join_in(job, share):
    """Do the parts of this share of each stage, and those of others that nobody has begun."""
    words = array(job, np.int64)
    stages, shares = words[STAGES], words[SHARES]
    for number in range(stages):
        at = LINE + number * (TAKEN + shares * LINE)
        function, given, tasks, parts = words[at + FUNCTION], words[at + WORDS], words[at + TASKS], words[at + PARTS]
        for other in range(shares):
            whose = (share + other) % shares
            taken = job + 8 * (at + TAKEN + whose * LINE)
            while load(taken) < parts:
                part = add(taken, 1)
                if part >= parts:
                    break
                part += whose * parts
                first, last = tasks * part // (parts * shares), tasks * (part + 1) // (parts * shares)
                if first < last and not stopped(given):
                    call(function, given, first, last)
                add(job + 8 * (at + DONE), 1)
        _await(job + 8 * (at + DONE), parts * shares)


@compiled(types.void(_I))
def rouse(helper):
    """Have a helper look out again, if it sleeps."""
    if exchange(helper + 8 * ASLEEP, 1, 0):
        wake(helper + 8 * ASLEEP)


@compiled(types.void(_I, _I))
def announce(helper, job):
    """Give a helper a job, awake or asleep."""
    store(helper + 8 * JOB, job)
    fence()  # before the look at whether it sleeps, as it looks for a job once it said that it does
    rouse(helper)


@compiled(types.void(_WORDS, _WORDS, _WORDS, _I, _WORDS))
def launch(template, places, bases, samples, helpers):
    """Run a job for each sample with these helpers. Releases the GIL.

    Args:
        template: the job's words.
        places: pairs (which word, which base): to that word is added that base.
        bases: pairs (address, bytes from sample to sample). The first is of room for the job's words and whatever its
            stages write between, the second of the word that is not 0 once nobody wants the result any more: what is
            left is not computed. The others are whatever the stages read and write.
        samples: how many.
        helpers: addresses of the helpers' words; no job is announced to them yet.
    """
    scratch, over = bases[0], bases[2]
    words = array(scratch, np.int64)
    for sample in range(samples):
        if load(over):
            return
        for i in range(len(template)):
            words[i] = template[i]
        for i in range(0, len(places), 2):
            base = 2 * places[i + 1]
            words[places[i]] += bases[base] + sample * bases[base + 1]
        for i in range(len(helpers)):
            store(helpers[i] + 8 * SHARE, i + 1)
            announce(helpers[i], scratch)
        _join_in(scratch, 0)
        for i in range(len(helpers)):
            # one that has not come does not get it any more; one that has still reads the words
            if not exchange(helpers[i] + 8 * JOB, scratch, NONE):
                _await(helpers[i] + 8 * JOB, NONE)


@compiled(types.void(_I, _I, _I, _I))
def attend(helper, over, turns, after):
    """Join in what is announced, until something wants the interpreter; sleep while nothing was for `turns` turns.

    Releases the GIL, and says so first, at the address `over` (0 for none): who waits there will find it free. Before
    it returns, `after` turns pass, in which who announced the work lets go of it.
    """
    if over and not exchange(over, 0, 1):  # who waits went to sleep
        store(over, 1)
        wake(over)
    idle = 0
    while True:
        job = load(helper + 8 * JOB)
        if job == INTERPRETER:
            _pass(helper, after)
            return
        if job != NONE and exchange(helper + 8 * JOB, job, BUSY):
            _join_in(job, load(helper + 8 * SHARE))
            store(helper + 8 * JOB, NONE)
            idle = 0
        idle += 1
        if idle >= turns:
            store(helper + 8 * ASLEEP, 1)
            fence()
            while load(helper + 8 * JOB) == NONE and load(helper + 8 * ASLEEP):
                sleep(helper + 8 * ASLEEP, 1)
            store(helper + 8 * ASLEEP, 0)
            idle = 0


@compiled(types.void(_I, _I))
def await_word(address, turns):
    """Return when the word is 1: look out for `turns` turns, then sleep. Releases the GIL."""
    for _ in range(turns):
        if load(address) == 1:
            return
    if exchange(address, 0, 2):
        while load(address) == 2:
            sleep(address, 2)
