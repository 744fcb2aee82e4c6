"""Turns at a budget of threads: never more than there are, in the order in which they were asked for."""

import threading

import pytest
from hypothesis import given
from hypothesis import strategies as st

from groupconv_worker.budget import LENT, PATIENCE, ThreadBudget
from waiting import until


@given(
    threads=st.integers(1, 20),
    asked=st.lists(st.tuples(st.floats(0.1, 30), st.booleans(), st.booleans()), max_size=30),
)
def test_who_comes_gets_a_share_or_at_least_half_of_it(threads, asked):
    budget, held = ThreadBudget(threads), []
    for among, whole, give_back in asked:
        free = threads - sum(held)
        share = max(1, int(threads / max(1, among)))
        got = budget.acquire(timeout=0, among=among, whole=whole)
        if whole:
            assert got == (threads if free == threads else 0)
        else:
            assert got == (min(share, free) if 2 * free >= share else 0)
        held += [got] if got else []
        if held and give_back:
            budget.release(held.pop(0))
        assert budget.inside == len(held)
    for got in held:
        budget.release(got)
    assert budget.acquire(whole=True) == threads


def test_all_of_it_is_got_though_a_share_would_be_less():
    budget = ThreadBudget(4)
    assert budget.acquire(among=4) == 1
    assert budget.acquire(timeout=0, among=4, whole=True) == 0
    budget.release(1)
    assert budget.acquire(timeout=0, among=4, whole=True) == 4


@pytest.mark.parametrize("threads", [1, 4])
def test_turns_come_in_the_order_they_were_asked_for(threads):
    budget, order = ThreadBudget(threads), []

    def ask(number):
        got = budget.acquire(alone=True)
        order.append(number)
        budget.release(got)

    held = budget.acquire()
    asking = []
    for number in range(6):
        asking.append(threading.Thread(target=ask, args=(number,)))
        asking[-1].start()
        until(lambda so_far=number: len(budget._waiting) == so_far + 1)
    assert budget.acquire(timeout=0, among=100) == 0  # behind them
    budget.release(held)
    for thread in asking:
        thread.join(60)
    assert order == list(range(6))


def test_who_gives_up_does_not_stand_in_the_way():
    budget, got = ThreadBudget(4), []
    assert budget.acquire(among=1.3) == 3
    first = threading.Thread(target=lambda: got.append(budget.acquire(timeout=0.9, whole=True)))
    first.start()
    until(lambda: len(budget._waiting) == 1)
    assert budget.acquire(timeout=60, among=4) == 1
    first.join(60)
    assert got == [0]


def test_nobody_waits_for_somebody_who_takes_long():
    budget = ThreadBudget(4)
    assert budget.acquire(whole=True) == 4
    assert budget.acquire(timeout=60) == 1  # beyond the budget
    assert budget.acquire(timeout=60, among=2) == 1
    assert budget.inside == 3
    budget.release(1)
    budget.release(1)
    assert budget.acquire(timeout=0) == 0  # taken back
    budget.release(4)
    assert budget.acquire(timeout=0, whole=True) == 4


def test_what_is_lent_goes_to_the_next_who_waits():
    budget, got = ThreadBudget(1), []
    assert budget.acquire() == 1
    assert budget.acquire(timeout=60) == 1
    budget.STUBBORN = 10**6
    waiting = threading.Thread(target=lambda: got.append(budget.acquire(whole=True)))
    waiting.start()
    until(lambda: len(budget._waiting) == 1)
    budget.release(1)
    waiting.join(60)
    assert got == [1]


def test_who_is_to_be_alone_waits_for_those_with_a_lent_thread_too():
    budget = ThreadBudget(1)
    assert budget.acquire() == 1
    assert budget.acquire(timeout=60) == 1
    budget.release(1)
    assert budget.acquire(timeout=0.1, alone=True) == 0
    budget.release(1)
    assert budget.acquire(timeout=0, alone=True) == 1
    assert budget.acquire(timeout=0.1) == 0  # nor does anybody come in then


def test_who_need_not_wait_any_more_is_sent_away():
    budget, over = ThreadBudget(1), threading.Event()
    budget.acquire()
    over.set()
    assert budget.acquire(over=over.is_set, whole=True) == 0
    assert budget.inside == 1


def test_so_many_threads_are_lent_and_no_more(monkeypatch):
    monkeypatch.setattr("groupconv_worker.budget.PATIENCE", 1e-4)
    budget = ThreadBudget(2)
    budget.acquire(whole=True)
    assert [budget.acquire(timeout=60) for _ in range(LENT)] == [1] * LENT
    assert budget.acquire(timeout=0.05) == 0


def test_a_stubborn_run_gets_no_thread_beyond_the_budget_at_once():
    budget = ThreadBudget(1)
    assert budget.acquire() == 1
    assert budget.acquire(timeout=5 * PATIENCE, stubborn=True) == 0
    assert budget.acquire() == 1  # lent
