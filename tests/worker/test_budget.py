"""Turns at a budget of threads: never more than there are, in the order in which they were asked for."""

import threading

import pytest
from hypothesis import given
from hypothesis import strategies as st

from groupconv_worker.budget import Turn
from waiting import until


@given(
    threads=st.integers(1, 20),
    asked=st.lists(st.tuples(st.floats(0.1, 30), st.booleans(), st.booleans()), max_size=30),
)
def test_who_comes_gets_a_share_or_at_least_half_of_it(threads, asked):
    turn, held = Turn(threads), []
    for among, whole, give_back in asked:
        free = threads - sum(held)
        share = max(1, int(threads / max(1, among)))
        got = turn.acquire(timeout=0, among=among, whole=whole)
        if whole:
            assert got == (threads if free == threads else 0)
        else:
            assert got == (min(share, free) if 2 * free >= share else 0)
        held += [got] if got else []
        if held and give_back:
            turn.release(held.pop(0))
        assert turn.inside == len(held)
    for got in held:
        turn.release(got)
    assert turn.acquire(whole=True) == threads


def test_all_of_it_is_got_though_a_share_would_be_less():
    turn = Turn(4)
    assert turn.acquire(among=4) == 1
    assert turn.acquire(timeout=0, among=4, whole=True) == 0
    turn.release(1)
    assert turn.acquire(timeout=0, among=4, whole=True) == 4


@pytest.mark.parametrize("threads", [1, 4])
def test_turns_come_in_the_order_they_were_asked_for(threads):
    turn, order = Turn(threads), []

    def ask(number):
        got = turn.acquire(whole=True)
        order.append(number)
        turn.release(got)

    held = turn.acquire()
    asking = []
    for number in range(6):
        asking.append(threading.Thread(target=ask, args=(number,)))
        asking[-1].start()
        until(lambda so_far=number: len(turn._waiting) == so_far + 1)
    assert turn.acquire(timeout=0, among=100) == 0  # behind them
    turn.release(held)
    for thread in asking:
        thread.join(60)
    assert order == list(range(6))


def test_who_gives_up_does_not_stand_in_the_way():
    turn, got = Turn(4), []
    assert turn.acquire(among=1.3) == 3
    first = threading.Thread(target=lambda: got.append(turn.acquire(timeout=0.2, whole=True)))
    first.start()
    until(lambda: len(turn._waiting) == 1)
    assert turn.acquire(timeout=60, among=4) == 1
    first.join(60)
    assert got == [0]
