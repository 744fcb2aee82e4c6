"""The parts of several processes that need no processes to be tested."""

import os
import pickle
import socket
import struct
import threading
from contextlib import closing

import numpy as np
import pytest
from prometheus_client import CollectorRegistry, Counter, Gauge

from groupconv import Step
from groupconv.errors import InvalidArgumentError, ResourceExhaustedError, UnavailableError
from groupconv_server.access.rates import CallerLimits
from groupconv_server.admission.gate import Gate
from groupconv_server.coordinator.limits import Limits
from groupconv_server.fronts.counters import Counters
from groupconv_server.fronts.disk import Disk
from groupconv_server.fronts.ledger import Ledger
from groupconv_server.fronts.limits import Allowances, SharedAllowance, SharedBudget, SharedGate, SharedThreads
from groupconv_server.fronts.link import Link
from groupconv_server.fronts.metrics import SummedMetrics
from groupconv_server.fronts.replica import Change, Replica, Staged
from groupconv_server.fronts.weights import share
from groupconv_server.telemetry.series import MAX_LAYERS, OTHER


@pytest.fixture
def counters():
    """Those of two processes, as each of them has mapped them."""
    first = Counters(2)
    return first, Counters(2, 1, first.handle)


def test_an_error_crosses_a_link_with_its_field():
    def refuse():
        raise InvalidArgumentError("groups", "a divisor of 96", 5)

    ends = socket.socketpair()
    with Link(ends[0], {}) as here, Link(ends[1], {"refuse": refuse}), pytest.raises(InvalidArgumentError) as caught:
        here.call("refuse")
    assert str(caught.value) == "groups: expected a divisor of 96, got 5"
    assert caught.value.field == "groups"


def test_a_descriptor_crosses_a_link():
    handle = os.memfd_create("sent")
    os.write(handle, b"weights")

    def read(handle):
        try:
            return os.pread(handle, 7, 0)
        finally:
            os.close(handle)

    ends = socket.socketpair()
    with Link(ends[0], {}) as here, Link(ends[1], {"read": read}):
        assert here.call("read", handle=handle) == b"weights"
    os.close(handle)


def test_calls_of_a_process_that_goes_end():
    begun, never = threading.Event(), threading.Event()
    ends = socket.socketpair()
    there = Link(ends[1], {"wait": lambda: begun.set() or never.wait()})
    with Link(ends[0], {}) as here:
        answer = here.start("wait")
        begun.wait()
        there.close()
        with pytest.raises(UnavailableError):
            answer.result()
        with pytest.raises(UnavailableError):
            here.call("wait")
    never.set()


def test_an_answer_that_cannot_be_sent_is_an_error():
    ends = socket.socketpair()
    with (
        Link(ends[0], {}) as here,
        Link(ends[1], {"lock": threading.Lock}),
        pytest.raises(RuntimeError, match="lock: TypeError: cannot pickle"),
    ):
        here.start("lock").result(60)


def test_what_one_front_fails_to_stage_is_dropped_by_the_others_after_they_staged_it():
    failed, order = threading.Event(), []

    def fail(number, change, handle):
        os.close(handle)
        failed.set()
        raise ValueError

    def stage(number, change, handle):
        os.close(handle)
        failed.wait()
        order.append("staged")

    ends = [*socket.socketpair(), *socket.socketpair()]
    ledger = Ledger(Counters(2), None)
    with (
        Link(ends[0], {}) as first,
        Link(ends[1], {"stage": fail, "drop": lambda number: None}),
        Link(ends[2], {}) as second,
        Link(ends[3], {"stage": stage, "drop": lambda number: order.append("dropped")}),
    ):
        ledger.join(0, first)
        ledger.join(1, second)
        with pytest.raises(RuntimeError, match="stage: ValueError"):
            ledger.publish(Change("region", "r", 0, None), os.memfd_create("bytes"))
    assert order == ["staged", "dropped"]


def test_an_answer_that_comes_after_all_calls_have_ended_is_no_harm():
    ends, lost = socket.socketpair(), threading.Event()
    link = Link(ends[0], {}, lost.set)
    first = link.start("first")
    ends[1].shutdown(socket.SHUT_RD)
    with pytest.raises(UnavailableError):
        link.call("second")  # it cannot be sent
    with pytest.raises(UnavailableError):
        first.result()
    answer = pickle.dumps((1, 0, "late"))
    ends[1].sendall(struct.pack("!Q", len(answer)) + answer)
    ends[1].close()
    assert lost.wait(30)


def test_a_change_holds_for_all_when_its_number_is_written(counters):
    replicas = [Replica(c) for c in counters]
    tables = [{}, {}]
    for replica, table in zip(replicas, tables, strict=True):

        def stage(change, handle, table=table):
            return Staged(lambda: table.update({change.name: change.version}), lambda: None)

        replica.register("layer", stage, table.pop)
        replica.stage(1, Change("layer", "edge", 7, None), -1)
        replica.commit(1, epoch=1)
        replica.catch_up()
    assert tables == [{}, {}]
    counters[0].epoch = 1
    for replica in replicas:
        replica.catch_up()
        replica.commit_removal("layer", "edge", epoch=2)
        replica.catch_up()
    assert tables == [{"edge": 7}] * 2
    counters[0].epoch = 2
    replicas[1].catch_up()
    assert tables == [{"edge": 7}, {}]


def test_a_region_does_not_hide_an_unloaded_layer_of_its_name(tmp_path):
    with closing(Disk(tmp_path, Limits(), "here")) as disk:
        about, handle = share([Step(np.ones((1, 1, 3), np.float32))], ())
        ledger = Ledger(Counters(1), disk)
        ledger.publish(Change("layer", "edge", 1, about), handle)
        assert ledger.unloaded() == {}
        ledger.remove("layer", "edge", keep=True)
        ledger.publish(Change("region", "edge", 0, None), os.memfd_create("region"))
        assert ledger.unloaded() == {"edge": "unloaded"}


def test_two_gates_admit_as_many_as_one(counters):
    first, second = (SharedGate(2, 1, 100, c) for c in counters)
    tickets = [first.enter(), second.enter(), second.enter()]
    for gate in (first, second):
        with pytest.raises(ResourceExhaustedError, match="2 requests run and 1 wait"):
            gate.enter()
    assert first.everywhere()() == 3
    tickets[0].hold(60)
    with pytest.raises(ResourceExhaustedError, match="requests hold 60 B"):
        tickets[1].hold(60)
    tickets[0].leave()
    tickets[1].hold(60)
    second.enter()  # in the place that was left


def test_a_gate_of_one_process_is_not_shared():
    gate = Gate(1, 0, 100)
    gate.enter().leave()
    gate.enter()
    with pytest.raises(ResourceExhaustedError):
        gate.enter()


def test_streams_of_all_processes_have_one_budget(counters):
    first, second = (SharedBudget(100, c) for c in counters)
    first.reserve(60)
    with pytest.raises(ResourceExhaustedError, match="streams hold 60 B of 100 B"):
        second.reserve(60)
    second.reserve(40)
    counters[0].clear(0)  # a process that was lost
    second.reserve(60)


def test_an_engine_takes_the_threads_that_others_leave_idle(counters):
    first, second = (SharedThreads(4, processes=2, counters=c) for c in counters)
    assert first.acquire() == 4
    assert second.acquire() == 2  # its share, whatever the first one has
    second.release(2)
    first.release(4)
    assert second.acquire(among=4) == 1
    assert first.acquire() == 3


def test_a_token_has_one_allowance_at_all_processes():
    first = Allowances(2)
    second = Allowances(2, 1, first.handle)
    rates = CallerLimits(requests_per_second=2, bytes_per_second=1000, concurrent=2)
    here, there = (SharedAllowance("alice", rates, a, 3) for a in (first, second))
    here.enter()
    there.enter()
    with pytest.raises(ResourceExhaustedError, match="2 requests at a time"):
        here.enter()
    there.leave()
    with pytest.raises(ResourceExhaustedError, match="2 requests per second"):
        there.enter()
    assert there.spend(5000) > 3
    with pytest.raises(ResourceExhaustedError, match="1000 bytes per second"):
        here.enter()
    first.clear(0)
    assert first.running(3 * (4 + 2)) == (0, 0)


def test_counters_of_lost_processes_stay_in_the_sums():
    def front():
        registry = CollectorRegistry()
        counter = Counter("seen", "Seen.", registry=registry)
        Gauge("held", "Held.", registry=registry).set(5)
        return registry, counter

    fronts = {0: front(), 1: front()}
    fronts[0][1].inc(2)
    fronts[1][1].inc(3)
    summed = SummedMetrics(lambda: {i: list(registry.collect()) for i, (registry, _) in fronts.items()})
    registry = summed.registry()
    assert (registry.get_sample_value("seen_total"), registry.get_sample_value("held")) == (5, 10)
    del fronts[0]
    summed.lose(0)
    fronts[1][1].inc()
    assert (registry.get_sample_value("seen_total"), registry.get_sample_value("held")) == (6, 5)


def test_layers_that_one_process_counts_keep_their_series():
    """The other process has all layers, too, and no request for any."""
    layers = [f"many/{i}" for i in reversed(range(MAX_LAYERS + 20))]
    registries = [CollectorRegistry(), CollectorRegistry()]
    used = Counter("used", "Used.", ["layer"], registry=registries[0])
    for i, layer in enumerate(layers):
        used.labels(layer if i < MAX_LAYERS else OTHER).inc()
    held = Gauge("held", "Held.", ["layer"], registry=registries[1])
    for layer in sorted(layers):
        held.labels(layer).set(1)
    fronts = {i: list(registry.collect()) for i, registry in enumerate(registries)}
    found = {family.name: family for family in SummedMetrics(lambda: fronts).collect()}
    series = {s.labels["layer"]: s.value for s in found["used"].samples if s.name == "used_total"}
    assert series == dict.fromkeys(layers[:MAX_LAYERS], 1) | {OTHER: 20}
    assert len(found["held"].samples) == MAX_LAYERS + 1


def test_layers_of_all_processes_have_as_many_series_as_those_of_one():
    fronts = {}
    for front in range(2):
        registry = CollectorRegistry()
        used = Counter("used", "Used.", ["layer"], registry=registry)
        for i in range(MAX_LAYERS):
            used.labels(f"{front}/{i}").inc()
        fronts[front] = list(registry.collect())
    [family] = SummedMetrics(lambda: fronts).collect()
    series = {s.labels["layer"]: s.value for s in family.samples if s.name == "used_total"}
    assert len(series) == MAX_LAYERS + 1
    assert series[OTHER] == MAX_LAYERS
    assert sum(series.values()) == 2 * MAX_LAYERS
