"""Workers of another process: shards and networks reach them by lanes alone."""

import threading
import time
from dataclasses import replace

import numpy as np
import pytest
from networks import endless, sum_and_difference

from groupconv.errors import (
    CancelledError,
    DeadlineExceededError,
    InternalError,
    InvalidArgumentError,
    ResourceExhaustedError,
)
from groupconv_server.executors.lanes import network_dispatch
from groupconv_server.executors.lanes.connection import LaneConnection
from groupconv_server.executors.lanes.executor import LaneExecutor
from groupconv_server.executors.lanes.flights import WorkerLostError
from groupconv_server.executors.lanes.lane import Lane
from groupconv_server.executors.lanes.membership import Membership
from groupconv_server.executors.lanes.network_dispatch import NetworkFlight
from groupconv_server.executors.lanes.worker_slots import WorkerSlot, WorkerState
from groupconv_server.executors.placement import WorkerPlace
from groupconv_worker.actor import Worker
from groupconv_worker.graph.model import read_model
from groupconv_worker.job import Job
from groupconv_worker.lanes.handshake import new_key
from groupconv_worker.networks.runner import NetworkCall
from tasks import small_task
from waiting import until

KEY = new_key()
FACTS = {"node": "here", "engine": "reference", "device": "", "threads": 1}


class Owner:
    """Remembers what it was asked."""

    def __init__(self):
        self.asked = []

    def welcome(self, prepare):
        self.asked.append(prepare)

    def trouble(self):
        return ""

    def forget(self, layer, version):
        self.asked.append((layer, version))

    def run_cut(self, call, model, job):
        self.asked.append(call.cut)
        return "all", model


class Workers:
    """Workers with endpoints of their own in this process, and an executor that reaches them."""

    def __init__(self, host):
        self.members, self.owner = Membership(), Owner()
        self.workers, self.endpoints = [], []
        for i in range(2):
            worker = Worker("reference", 1)
            endpoint = worker.listen(KEY, host)
            slot = WorkerSlot(f"w{i}", WorkerPlace("", 1, 0, "reference", 1), facts=FACTS)
            slot.started(object())
            slot.reached(Lane(endpoint.address, KEY, limit=float("inf")), slot.actor)
            slot.state = WorkerState.READY
            self.members.slots.append(slot)
            self.workers.append(worker)
            self.endpoints.append(endpoint)
        self.executor = LaneExecutor("ray", self.members, self.owner, threading.RLock(), None)


@pytest.fixture(params=[None, "127.0.0.1"], ids=["unix", "tcp"])
def workers(request):
    found = Workers(request.param)
    yield found
    found.executor.close()
    for endpoint in found.endpoints:
        endpoint.close()


def call_of(data, outputs=(), into=None, cut="", **inputs):
    return NetworkCall("net", 1, inputs, outputs, into or {}, cut=cut), read_model(data.SerializeToString())


def test_shards_go_to_the_workers_that_are_there(workers):
    for worker in ("w0", "w1"):
        task = small_task(worker=worker)
        ((report,),) = workers.executor.run([task])
        assert (report.worker, report.attempts, task.out[0, 0, 0]) == (worker, 1, 3)
    assert [w.lane_limit for w in workers.executor.describe()] == [0, 0]


def test_a_network_is_sent_once_and_its_outputs_land_in_the_caller_s_arrays(workers):
    a = np.arange(6, dtype=np.float32).reshape(2, 3)
    into = {"difference": np.empty((2, 3), np.float32), "sum": np.empty((9, 9), np.float32)}
    call, model = call_of(sum_and_difference(), ("sum", "difference"), into, a=a, b=2 * a)
    for _ in range(2):
        workers.members.slots[1].shards = 99
        worker, ran = workers.executor.run_network(call, model, Job(time.monotonic() + 60))
        assert worker == "w0"
        assert ran.algorithm == "onnxruntime"
        np.testing.assert_array_equal(ran.outputs["sum"], 3 * a)
        np.testing.assert_array_equal(into["difference"], -a)
        assert ran.outputs["difference"] is into["difference"]
        assert ran.outputs["sum"] is not into["sum"]
    workers.workers[0].forget("net", 1)
    assert workers.executor.run_network(call, model, Job())[0] == "w0"
    lane = workers.members.slots[0].lane
    assert (lane.busy, len(lane._idle)) == (0, 1)


def test_a_refusal_of_a_network_is_the_caller_s_and_the_connection_goes_on(workers):
    call, model = call_of(sum_and_difference(), ("sum",), a=np.ones((1, 2), np.float32), b=np.ones((3, 4), np.float32))
    with pytest.raises(InvalidArgumentError):
        workers.executor.run_network(call, model, Job())
    slot = workers.members.slots[0]
    assert (slot.lane.busy, slot.flights, slot.ready) == (0, [], True)
    bad = replace(model, data=b"no model")
    with pytest.raises(InvalidArgumentError):
        workers.executor.prepare_network("bad", 1, bad)
    workers.executor.prepare_network("good", 1, model)


def test_a_network_ends_with_its_caller(workers):
    call, model = call_of(endless(), ("y",), x=np.ones(4, np.float32))
    with pytest.raises(DeadlineExceededError):
        workers.executor.run_network(call, model, Job(time.monotonic() + 0.2))
    here, calls = threading.Event(), []
    caller = threading.Thread(target=lambda: calls.append(_error_of(workers, call, model, here)))
    caller.start()
    until(lambda: any(slot.flights for slot in workers.members.slots))
    here.set()
    caller.join(60)
    assert isinstance(calls[0], CancelledError)
    until(lambda: not any(worker._runtime.budget.inside for worker in workers.workers))


def _error_of(workers, call, model, here):
    try:
        workers.executor.run_network(call, model, Job(None, lambda: not here.is_set()))
    except CancelledError as error:
        return error
    return None


def test_a_cut_network_is_the_owner_s(workers):
    call, model = call_of(sum_and_difference(), ("sum",), cut="rows")
    assert workers.executor.run_network(call, model, Job()) == ("all", model)
    assert workers.owner.asked == ["rows"]
    workers.executor.forget("net", 1)
    assert workers.owner.asked[1:] == [("net", 1)]


def test_a_worker_whose_endpoint_has_gone_is_lost_and_another_one_answers(workers):
    workers.endpoints[0].close()
    first = workers.members.slots[0]
    for connection in first.lane._idle:
        connection._sock.shutdown(2)
    ((report,),) = workers.executor.run([small_task(worker="w0")])
    assert (report.worker, report.attempts) == ("w1", 2)
    assert workers.executor.workers() == ("w1",)
    call, model = call_of(sum_and_difference(), ("sum",), a=np.ones((1, 1), np.float32), b=np.ones((1, 1), np.float32))
    assert workers.executor.run_network(call, model, Job())[0] == "w1"


@pytest.mark.parametrize("workers", [None], ids=["unix"], indirect=True)
def test_a_shard_without_shared_memory_is_refused_where_nothing_else_can_carry_it(workers, monkeypatch):
    def none(size):
        raise OSError("no space left")

    monkeypatch.setattr("groupconv_server.executors.lanes.connection.shared", none)
    with pytest.raises(ResourceExhaustedError, match=r"there is no shared memory for a shard of .* bytes"):
        workers.executor.run([small_task(worker="w0")])
    assert [slot.flights for slot in workers.members.slots] == [[], []]


def test_a_shard_under_which_every_connection_breaks_is_given_up(workers, monkeypatch):
    def broken(connection, out):
        raise ConnectionResetError("it broke")

    monkeypatch.setattr(LaneConnection, "receive", broken)
    with pytest.raises(InternalError, match="was given up: its connections broke"):
        workers.executor.run([small_task(worker="w0")])


@pytest.mark.parametrize("blamed", [True, False])
def test_a_call_is_given_up_after_losses_of_which_it_may_be_the_cause(workers, blamed):
    attempts, suspicion = [], threading.Lock()

    def lose(slot, flight):
        attempts.append(flight.alone)
        for away in workers.members.slots:
            if away.state is WorkerState.AWAY:
                away.started(object())
                away.state = WorkerState.READY
        if len(attempts) > 6:
            return "an answer"
        if not blamed:
            slot.sent(NetworkFlight(alone=True))  # another call, which was suspected before
        raise WorkerLostError("it was killed")

    if blamed:
        with pytest.raises(InternalError, match="given up: 4 workers were lost with it, in 4 attempts"):
            network_dispatch.run(workers.members, "net", Job(), lose, suspicion)
        assert attempts == [False, False, True, True]
    else:
        assert network_dispatch.run(workers.members, "net", Job(), lose, suspicion)[1] == "an answer"
        assert not any(attempts)
    assert suspicion.acquire(blocking=False)
