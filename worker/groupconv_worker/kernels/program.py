"""Stages of compiled work that several threads run without the interpreter: announced, shared, waited for.

A job is one block of 64-bit words:

    stages, shares                                          a line of 8 words
    per stage: function, its words, tasks, parts per share  a line
               parts that are done                          a line
               per share: parts that are taken              a line each
    the words of each function

A stage begins when every part of the one before is done. Who has finished its share takes parts from the others', so
nobody waits for a thread that has not come.
"""

import numpy as np
from numba import njit, types

from groupconv_worker.kernels.atomic import add, array, call, exchange, give_way, load, store

LINE = 8
"""Words of a cache line: what two threads write lies on two of them."""
STAGES, SHARES = 0, 1
FUNCTION, WORDS, TASKS, PARTS, DONE, TAKEN = 0, 1, 2, 3, LINE, 2 * LINE
"""Where things are, in words, from the start of a job and of a stage."""
JOB, SHARE = 0, LINE
"""Where a helper finds, in its own words, the address of a job, and which share is its."""
NONE, BUSY, INTERPRETER = 0, 1, 2
"""A helper's job, if it is no address: none; one it has taken; one that wants the interpreter."""
PATIENCE = 2_000
"""Turns to spin on another thread's last part before giving way to whatever holds that thread up."""

_I, _WORDS = types.int64, types.Array(types.int64, 1, "C", readonly=True)


@njit(types.void(_I, _I), nogil=True, cache=True, error_model="numpy")
def _await(address, value):
    """Return when the word has this value."""
    turns = 0
    while load(address) != value:
        turns += 1
        if turns > PATIENCE:
            give_way()


@njit(types.void(_I, _I), nogil=True, cache=True, error_model="numpy")
def _pass(address, turns):
    """Let some turns pass."""
    for _ in range(turns):
        load(address)


@njit(types.void(_I, _I), nogil=True, cache=True, error_model="numpy")
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
                if first < last:
                    call(function, given, first, last)
                add(job + 8 * (at + DONE), 1)
        _await(job + 8 * (at + DONE), parts * shares)


@njit(types.void(_WORDS, _WORDS, types.UniTuple(_I, 5), _WORDS), nogil=True, cache=True, error_model="numpy")
def launch(template, places, bases, helpers):
    """Run a job with these helpers. Releases the GIL.

    Args:
        template: the job's words.
        places: pairs (which word, which base): to that word is added that base.
        bases: addresses; the first is of room for the job's words and whatever its stages write between.
        helpers: addresses of the helpers' words; no job is announced to them yet.
    """
    scratch = bases[0]
    words = array(scratch, np.int64)
    for i in range(len(template)):
        words[i] = template[i]
    for i in range(0, len(places), 2):
        words[places[i]] += bases[places[i + 1]]
    for i in range(len(helpers)):
        store(helpers[i] + 8 * SHARE, i + 1)
        store(helpers[i] + 8 * JOB, scratch)
    _join_in(scratch, 0)
    for i in range(len(helpers)):
        # one that has not come does not get it any more; one that has still reads the words
        if not exchange(helpers[i] + 8 * JOB, scratch, NONE):
            _await(helpers[i] + 8 * JOB, NONE)


@njit(types.boolean(_I, _I, _I), nogil=True, cache=True, error_model="numpy")
def attend(helper, turns, after):
    """Join in what is announced, until nothing was for `turns` turns (False) or something wants the interpreter.

    A turn takes about a nanosecond; `after` more pass before True is returned. Releases the GIL.
    """
    idle = 0
    while idle < turns:
        job = load(helper + 8 * JOB)
        if job == INTERPRETER:
            _pass(helper, after)
            return True
        if job != NONE and exchange(helper + 8 * JOB, job, BUSY):
            _join_in(job, load(helper + 8 * SHARE))
            store(helper + 8 * JOB, NONE)
            idle = 0
        idle += 1
    return False


@njit(types.boolean(_I, _I, _I), nogil=True, cache=True, error_model="numpy")
def await_word(address, turns, after):
    """Spin until the word is not 0, then for `after` turns more; False if it stayed 0 for `turns`. Releases the GIL."""
    for _ in range(turns):
        if load(address) != 0:
            _pass(address, after)
            return True
    return False
