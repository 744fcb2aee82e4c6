"""The threads of requests: few at work, others in place of those that are held up."""

import threading

import grpc
import numpy as np
import pytest

import groupconv
from groupconv_server.admission.pool import RequestPool, step_aside, wait_for_client
from groupconv_server.config import Config
from groupconv_server.server import Server
from waiting import until

NEVER, SOON = 1000.0, 0.01
CONVOLVE = "/groupconv.v1.ConvolutionService/Convolve"


class Work:
    """Tasks that begin and wait to be let go."""

    def __init__(self):
        self.begun, self.go = [], threading.Event()

    def task(self, name, how=lambda wait: wait()):
        self.begun.append(name)
        assert how(lambda: self.go.wait(60))
        return name


@pytest.fixture
def work():
    work = Work()
    yield work
    work.go.set()


@pytest.fixture
def pool_of():
    made = []

    def make(*args):
        made.append(RequestPool(*args))
        return made[-1]

    yield make
    for pool in made:
        pool.shutdown()


def test_few_are_at_work_and_the_others_follow_in_order(pool_of, work):
    few = pool_of(2, 64, NEVER)
    futures = [few.submit(work.task, i) for i in range(10)]
    until(lambda: len(work.begun) == 2)
    assert few.waiting == 8
    work.go.set()
    assert [f.result(60) for f in futures] == list(range(10))
    assert sorted(work.begun[:2]) == [0, 1]
    assert few.waiting == 0
    assert few.threads == 2


def test_who_waits_for_a_client_is_replaced(pool_of, work):
    one = pool_of(1, 64, SOON)
    slow = [one.submit(work.task, i, wait_for_client) for i in range(3)]
    assert one.submit(pow, 2, 5).result(60) == 32
    assert not any(f.done() for f in slow)
    work.go.set()
    assert [f.result(60) for f in slow] == [0, 1, 2]
    until(lambda: one.threads == 1)


def test_who_was_replaced_goes_on_at_once_where_another_rests(pool_of, work):
    one = pool_of(1, 64, SOON)
    slow = one.submit(work.task, 0, wait_for_client)
    assert one.submit(pow, 2, 5).result(60) == 32
    until(lambda: one._idle)
    one._patience = NEVER  # nobody is relieved any more
    work.go.set()
    assert slow.result(60) == 0
    until(lambda: one.threads == 1)


def test_a_stream_is_replaced_at_once(pool_of, work):
    def stream(wait):
        step_aside()
        return wait()

    one = pool_of(1, 64, NEVER)
    streams = [one.submit(work.task, i, stream) for i in range(3)]
    assert one.submit(pow, 2, 5).result(60) == 32
    work.go.set()
    assert [f.result(60) for f in streams] == [0, 1, 2]
    until(lambda: one.threads == 1)


def test_where_nothing_is_begun_one_more_tries_up_to_the_most(pool_of, work):
    one = pool_of(1, 3, SOON)
    futures = [one.submit(work.task, i) for i in range(6)]
    until(lambda: len(work.begun) == 3)
    work.go.set()
    assert [f.result(60) for f in futures] == list(range(6))
    assert one.threads <= 3


def test_it_is_told_what_failed_and_goes_on(pool_of):
    one = pool_of(1, 1)
    with pytest.raises(ZeroDivisionError):
        one.submit(divmod, 1, 0).result(60)
    assert one.submit(divmod, 7, 2).result(60) == (3, 1)


def test_what_waits_is_done_before_it_goes_home(pool_of, work):
    one = pool_of(1, 1, NEVER)
    futures = [one.submit(work.task, i) for i in range(3)]
    one.shutdown()
    with pytest.raises(RuntimeError):
        one.submit(print)
    work.go.set()
    assert [f.result(60) for f in futures] == [0, 1, 2]
    until(lambda: one.threads == 0)


def test_outside_of_a_crew_both_do_nothing():
    step_aside()
    assert wait_for_client(divmod, 7, 2) == (3, 1)


def test_clients_that_do_not_send_hold_nobody_up():
    """More calls without a message than there are threads at work, of a unary method and of a stream."""
    over = threading.Event()

    def nothing():
        over.wait()
        yield from ()

    x, w = np.ones((1, 1, 4), np.float32), np.ones((1, 1, 2), np.float32)
    with (
        Server(Config(port=0, executor="local", workers=1, threads=1)) as server,
        grpc.insecure_channel(server.address) as channel,
        groupconv.connect(server.address, timeout=60) as client,
    ):
        methods = (CONVOLVE, "/groupconv.v1.LayerService/LoadLayer")
        held = [channel.stream_unary(method).future(nothing()) for method in methods for _ in range(4)]
        for _ in range(3):
            assert client.conv1d(x, w).tolist() == [[[2.0, 2.0, 2.0]]]
        over.set()
        assert {call.code() for call in held} == {grpc.StatusCode.INVALID_ARGUMENT}
