"""Workers that several fronts share: what the supervisor tells the fronts, and what they report."""

import os
import socket
import subprocess
import sys
from dataclasses import replace

import numpy as np
import pytest
from networks import sum_and_difference

from groupconv.errors import UnavailableError
from groupconv_server.executors.lanes.lane import Lane
from groupconv_server.executors.lanes.membership import Membership
from groupconv_server.executors.lanes.worker_slots import WorkerSlot, WorkerState
from groupconv_server.executors.placement import WorkerPlace
from groupconv_server.fronts.limits import SharedLock
from groupconv_server.fronts.link import Link
from groupconv_server.fronts.owner import WorkerOwner
from groupconv_server.fronts.roster import FrontWorkers
from groupconv_worker.actor import Worker
from groupconv_worker.graph.model import read_model
from groupconv_worker.graph.partition.cut import Cut
from groupconv_worker.job import Job
from groupconv_worker.lanes.handshake import new_key
from groupconv_worker.networks.runner import NetworkCall, NetworkRun
from waiting import until

KEY = new_key()
FACTS = {"node": "here", "engine": "reference", "device": "", "threads": 1}


class Started:
    """One worker in this process, as whoever has started it sees it."""

    name = "local"

    def __init__(self):
        self.membership, self.asked, self.prepare = Membership(), [], None
        self.endpoint = Worker("reference", 1).listen(KEY)
        self.slot = self.add("w", "")

    def add(self, name, node):
        slot = WorkerSlot(name, WorkerPlace(node, 1, 0, "reference", 1), facts=FACTS)
        self.membership.slots.append(slot)
        self._reach(slot)
        return slot

    def start(self):
        self.endpoint = Worker("reference", 1).listen(KEY)
        self._reach(self.slot)

    def _reach(self, slot):
        slot.started(object())
        slot.reached(Lane(self.endpoint.address, KEY), slot.actor)
        slot.state = WorkerState.READY

    def welcome(self, prepare):
        self.prepare = prepare

    def trouble(self):
        return "" if self.slot.ready else "not there: w"

    def forget(self, layer, version):
        self.asked.append((layer, version))

    def run_network(self, call, model, job):
        return "w", NetworkRun({"bytes": len(model.data), "left": job.deadline}, 0.0, cut=call.cut)

    def close(self):
        self.membership.close()
        self.endpoint.close()


class Everything:
    """A supervisor with a worker, and two fronts."""

    def __init__(self):
        self.workers = Started()
        self.owner = WorkerOwner(self.workers)
        self.links, self.fronts = [], []
        for index in range(2):
            ours, theirs = socket.socketpair()
            link = Link(ours, {})
            link.handlers |= self.owner.handlers(index, link)
            there = Link(theirs, {})
            self.links += [link, there]
            self.fronts.append(FrontWorkers(there, 2))

    def close(self):
        for front in self.fronts:
            front.close()
        self.owner.close()
        for link in self.links:
            link.close()


@pytest.fixture
def everything():
    found = Everything()
    yield found
    found.close()


def slots_of(everything):
    return [slot for front in everything.fronts for slot in front.slots]


def test_fronts_have_lanes_of_their_own_and_follow_what_happens(everything):
    first, second = slots_of(everything)
    assert first.ready
    assert second.ready
    assert first.lane is not second.lane
    assert first.lane._kept == second.lane._kept == 2**27  # of 256 MiB for both
    everything.workers.membership.lost(everything.workers.slot, everything.workers.slot.actor)
    until(lambda: all(front.ready() == [] and front.trouble() == "not there: w" for front in everything.fronts))
    everything.fronts[0].close()
    with pytest.raises(UnavailableError):
        everything.fronts[0].wait(None)


def test_what_one_front_loses_is_lost_for_all_and_back_once_it_is_started_again(everything):
    slot, (first, second) = everything.workers.slot, slots_of(everything)
    everything.fronts[1].lost(second, second.actor)
    until(lambda: slot.state is WorkerState.AWAY and not everything.fronts[0].ready())
    before = first.actor
    everything.workers.start()
    until(lambda: all(front.ready() for front in everything.fronts))
    assert [slot.restarts for slot in slots_of(everything)] == [1, 1]
    everything.links[1].call("worker_lost", "w", before)  # a late report of the start before
    assert slot.ready
    assert slot.ran == 0
    everything.links[1].call("worker_ran", "w", everything.fronts[0].slots[0].actor)
    assert slot.ran == 1


def test_one_front_prepares_a_worker_before_any_sends_it_shards(everything):
    prepared = []
    for number, front in enumerate(everything.fronts):
        front.welcome(lambda worker, number=number: prepared.append((number, worker)))
    slot = everything.workers.slot
    slot.state = WorkerState.PREPARING
    everything.workers.prepare("w")
    assert prepared == [(0, "w")]
    assert [front.ready() for front in everything.fronts] == [[], []]
    assert everything.fronts[0].get("w", None).state is WorkerState.PREPARING
    everything.owner.leave(0)
    everything.workers.prepare("w")
    assert prepared[1:] == [(1, "w")]


def test_a_worker_that_leaves_stays_until_no_front_waits_for_it(everything):
    first, _ = slots_of(everything)
    flight = object()
    first.flights.append(flight)
    everything.workers.slot.state = WorkerState.DRAINING
    assert everything.workers.membership.busy(everything.workers.slot)
    assert [front.ready() for front in everything.fronts] == [[], []]
    first.flights.remove(flight)
    assert not everything.workers.membership.busy(everything.workers.slot)


def test_every_front_forgets_and_the_workers_are_told_each_time(everything):
    for front in everything.fronts:
        front.forget("edge", 3)
    until(lambda: everything.workers.asked == [("edge", 3)] * 2)


def test_the_supervisor_is_sent_the_model_of_a_cut_call_once(everything):
    model, sent = read_model(sum_and_difference().SerializeToString()), []
    for link in everything.links[::2]:
        run = link.handlers["run_cut"]
        link.handlers["run_cut"] = lambda *given, run=run: sent.append(given[1]) or run(*given)
    call = NetworkCall("both", 1, {}, ("sum",), cut="rows")
    for front in everything.fronts:
        worker, ran = front.run_cut(call, model, Job(7e9))
        assert (worker, ran.cut, ran.outputs) == ("w", "rows", {"bytes": len(model.data), "left": 7e9})
    assert sent == [None, model.data, None]


def test_cuts_are_planned_once_for_the_nodes_of_the_workers(everything):
    for name in ("x", "y"):
        everything.workers.add(name, "there")
    until(lambda: all(len(front.ready()) == 3 for front in everything.fronts))
    model, planned, received = read_model(sum_and_difference().SerializeToString()), [], []
    cuts, given = {"sum": Cut.along((2, 3), 1, (0, 1, 2, 3))}, {"sum": Cut.on((2, 3), 3)}
    run = everything.workers.run_network
    everything.workers.run_network = lambda call, *rest: received.append(call.given) or run(call, *rest)

    def planner(*asked):
        planned.append(asked)
        return cuts

    call = NetworkCall("both", 1, {"a": np.ones((2, 3))}, ("sum",), cut="planned", planner=planner)
    front = everything.fronts[0]
    for asked in (call, call, replace(call, version=2)):
        front.run_cut(asked, model, Job())
    front.run_cut(replace(call, given=given), model, Job())
    front.forget("both", 1)
    front.run_cut(call, model, Job())
    assert planned == [({}, (2, 1))] * 2 + [(given, (2, 1)), ({}, (2, 1))]
    assert received == [cuts] * 5


def test_a_lock_is_held_by_one_process_and_free_when_that_is_killed():
    handle = os.memfd_create("lock")
    program = "import fcntl, sys; fcntl.lockf(int(sys.argv[1]), fcntl.LOCK_EX); print(flush=True); sys.stdin.read()"
    command = [sys.executable, "-c", program, str(handle)]
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE}
    with subprocess.Popen(command, pass_fds=[handle], **pipes) as other:
        assert other.stdout.readline() == b"\n"
        lock = SharedLock(handle)
        assert not lock.acquire(timeout=0.05)
        other.kill()
        assert lock.acquire(timeout=60)
        lock.release()
    os.close(handle)
