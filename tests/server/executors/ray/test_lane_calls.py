"""Lanes to Ray's actors: shards go by them, and again where one breaks or its worker dies."""

import os
import signal
import socket
import time

import numpy as np
import pytest
import ray

from groupconv import ConvSpec
from groupconv.errors import DeadlineExceededError
from groupconv_server.executors import Task
from groupconv_server.executors.lanes import lane_calls
from groupconv_server.executors.lanes.connection import LaneConnection
from groupconv_server.executors.lanes.flights import Flight, ShardAttempt
from groupconv_worker.job import Job
from groupconv_worker.lanes import frames
from tasks import small_task, task_of
from waiting import until

pytestmark = pytest.mark.ray


@pytest.fixture(autouse=True)
def idle_workers(ray_executor):
    """A shard that an earlier test gave up counts until a later one of its actor lands, as calls of an actor run in
    order. Which shards go through Ray is measured, so whether one is left depends on the machine."""
    for slot in ray_executor.membership.ready():
        ray.get(slot.actor.echo.remote(np.ones(1, np.uint8)))
        slot.flights.clear()


def test_shards_ride_lanes_and_status_says_so(ray_executor):
    for worker in ray_executor.describe():
        assert worker.lane == "unix"
        assert worker.lane_limit > 2**16


def test_a_broken_connection_costs_nothing_and_a_closed_lane_is_opened_again(ray_executor):
    slot = ray_executor.membership.ready()[0]
    task = small_task(worker=slot.id)
    lane = slot.lane
    line = lane.take()
    line._sock.shutdown(socket.SHUT_RDWR)  # as an idle connection that broke
    lane.give(line)
    ((report,),) = ray_executor.run([task])
    assert (report.worker, report.attempts) == (slot.id, 1)
    lane.close()
    ((report,),) = ray_executor.run([task])  # through Ray
    assert report.attempts == 1
    until(lambda: slot.lane is not lane and slot.lane.open)
    assert slot.restarts == 0 or slot.ready
    ((report,),) = ray_executor.run([task])
    assert slot.lane.check()


def test_a_connection_that_breaks_under_a_shard_sends_it_again_to_the_same_worker(ray_executor, monkeypatch):
    slot = ray_executor.membership.ready()[0]
    restarts = slot.restarts
    task = small_task(worker=slot.id)
    sent = LaneConnection.send

    def broken(line, *arguments, **keywords):
        sent(line, *arguments, **keywords)
        frames.receive(line._sock)  # the answer is lost with the connection
        line._sock.shutdown(socket.SHUT_RDWR)

    monkeypatch.setattr(LaneConnection, "send", broken)
    ((report,),) = ray_executor.run([task])
    assert (report.worker, report.attempts, slot.restarts) == (slot.id, 2, restarts)
    assert task.out[0, 0].tolist() == [3, 6, 9, 12, 15, 18]


def test_a_shard_for_which_there_is_no_shared_memory_goes_through_ray(ray_executor, monkeypatch):
    slot = ray_executor.membership.ready()[0]
    slot.lane.broke(slot.lane.take())  # a new connection has no memory yet

    def none(size):
        raise OSError("no space left")

    monkeypatch.setattr("groupconv_server.executors.lanes.connection.shared", none)
    task = small_task(worker=slot.id)
    ((report,),) = ray_executor.run([task])
    assert (report.worker, report.attempts, slot.lane.busy) == (slot.id, 1, 0)
    assert task.out[0, 0, 0] == 3
    monkeypatch.undo()
    ray_executor.run([task])
    assert slot.lane.check()


def test_a_killed_worker_is_known_by_its_lane_at_once(ray_executor):
    slot = ray_executor.membership.ready()[0]
    actor, pid = slot.actor, slot.facts["pid"]
    os.kill(pid, signal.SIGKILL)
    until(lambda: slot.actor is not actor or not slot.ready)
    until(lambda: slot.ready and slot.lane is not None and slot.lane.open)
    assert slot.facts["pid"] != pid


def test_a_shard_past_its_deadline_is_not_started(ray_executor):
    slot = ray_executor.membership.ready()[0]
    task = small_task(worker=slot.id)
    for _ in range(20):  # it is dropped here, or refused there, whichever is first
        with pytest.raises(DeadlineExceededError):
            ray_executor.run([task], job=Job(time.monotonic() - 1))
        assert not slot.flights
        assert slot.lane.busy == 0
    ((report,),) = ray_executor.run([task])
    assert report.attempts == 1


def test_a_worker_s_refusal_is_not_taken_for_a_broken_lane(ray_executor):
    """Some errors of this package are of OSError's kind, as a broken connection is."""
    slot = ray_executor.membership.ready()[0]
    task, lane = small_task(worker=slot.id), slot.lane
    line = lane.take()
    line.send(task, time.time() - 1, full=False)
    flight = Flight(ShardAttempt(task), slot, slot.actor, time.perf_counter(), line, lane=lane)
    with pytest.raises(DeadlineExceededError):
        lane_calls.land(flight)
    assert lane.busy == 0
    assert lane.take() is line
    lane.give(line)


def test_what_several_shards_read_goes_to_ray_s_store_once(ray_executor, monkeypatch):
    slots = ray_executor.membership.ready()
    x, w = np.ones((1, 2, 40_000)), np.ones((2, 1, 3))
    tasks = [
        Task(i, slot.id, task_of(x, w, spec=ConvSpec(groups=2)).stages, x, np.empty((1, 2, 39_998)))
        for i, slot in enumerate(slots)
    ]
    puts, put = [], ray.put
    monkeypatch.setattr(ray, "put", lambda value: puts.append(value.nbytes) or put(value))
    for slot in slots:
        monkeypatch.setattr(slot.lane, "limit", x.nbytes)
    ray_executor.run(tasks)
    assert puts == [x.nbytes]
    assert all((task.out == 3).all() for task in tasks)
