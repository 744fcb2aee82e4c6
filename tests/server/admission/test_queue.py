"""Whose turn it is."""

from hypothesis import given
from hypothesis import strategies as st

from groupconv_server.admission.queue import FairQueue


@given(tasks=st.lists(st.sampled_from("abc")))
def test_callers_take_turns_and_each_keeps_its_order(tasks):
    queue = FairQueue()
    for number, caller in enumerate(tasks):
        queue.push(caller, (caller, number))
    assert queue.count == len(tasks)
    taken = [queue.pop() for _ in tasks]
    for caller in "abc":
        assert [n for c, n in taken if c == caller] == [n for n, c in enumerate(tasks) if c == caller]
    waiting = dict.fromkeys("abc", 0) | {c: tasks.count(c) for c in tasks}
    for i, (caller, _) in enumerate(taken):  # nobody is served twice while another waits for its first turn
        others = {c for c, n in waiting.items() if n and c != caller}
        since = taken[max(0, i - len(others)) : i]
        assert len(others) == 0 or sum(c == caller for c, _ in since) <= 1
        waiting[caller] -= 1
