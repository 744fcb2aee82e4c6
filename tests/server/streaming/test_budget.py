"""The memory of all streams."""

import threading

import pytest

from groupconv.errors import ResourceExhaustedError
from groupconv_server.streaming.budget import Budget


def test_bytes_are_taken_up_to_the_limit_and_returned():
    budget = Budget(100)
    budget.reserve(100)
    with pytest.raises(ResourceExhaustedError, match="--streams-mib") as caught:
        budget.reserve(1)
    assert caught.value.retry_after
    budget.release(60)
    budget.reserve(60)
    assert budget.held == 100


def test_the_end_of_the_last_stream_wakes_who_waits_for_it():
    budget = Budget(100)
    assert budget.wait_until_free(0)
    budget.reserve(10)
    assert not budget.wait_until_free(0)
    waiter = threading.Thread(target=lambda: woken.append(budget.wait_until_free(60)))
    woken: list[bool] = []
    waiter.start()
    budget.release(10)
    waiter.join(60)
    assert woken == [True]
