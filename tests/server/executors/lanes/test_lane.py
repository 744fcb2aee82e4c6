"""Lanes: what they bring is what Ray brings, whoever dies, lies or stalls at either end."""

import contextlib
import socket
import subprocess
import sys
import threading
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings

from groupconv import ConvSpec
from groupconv.errors import InvalidArgumentError
from groupconv_server.executors import Task
from groupconv_server.executors.lanes.connection import LaneConnection
from groupconv_server.executors.lanes.failures import WorkerError
from groupconv_server.executors.lanes.lane import Lane
from groupconv_worker.engines import create_engine
from groupconv_worker.lanes import endpoint as endpoints
from groupconv_worker.lanes.endpoint import LaneEndpoint
from groupconv_worker.lanes.frames import BrokenLaneError
from groupconv_worker.lanes.handshake import NONCE, new_key
from groupconv_worker.lanes.shards import NUMBERS, ShardHeader
from groupconv_worker.resident import ResidentKernels, ResidentKey, WeightsMissingError
from groupconv_worker.runtime import run_shard
from strategies import FLOATS, Case, cases
from tasks import small_task, task_of
from waiting import until

PAIRS = tuple((f, f) for f in FLOATS) + (("uint8", "int8"), ("int32", "int32"), ("uint8", "float32"))
KEY = new_key()
MEMFD = "/memfd:groupconv-lane"


class Worker:
    """A worker's endpoint in this process, with the reference engine."""

    def __init__(self, host=None):
        self.engine, self.resident, self.asked = create_engine("reference"), ResidentKernels(), []
        self.hold = threading.Event()
        self.hold.set()
        self.endpoint = LaneEndpoint(self.run, KEY, host)

    def run(self, stages, x, out, expires, *, dropped, borrowed):
        assert borrowed
        self.hold.wait()
        self.asked.append((dropped(), expires))
        try:
            return run_shard(self.engine, stages, x, out, self.resident)
        except WeightsMissingError:
            return None


@pytest.fixture(params=[None, "127.0.0.1"], ids=["unix", "tcp"])
def worker(request):
    worker = Worker(request.param)
    yield worker
    worker.hold.set()
    worker.endpoint.close()


@pytest.fixture
def line(worker):
    line = LaneConnection(worker.endpoint.address, KEY)
    yield line
    line.close()


def test_every_variant_comes_back_bit_for_bit():
    both = [Worker(), Worker("127.0.0.1")]
    lines = [LaneConnection(worker.endpoint.address, KEY) for worker in both]

    @settings(max_examples=40)
    @given(case=cases(dtypes=PAIRS))
    def compare(case: Case):
        here = task_of(case.x, case.weight, case.bias, case.spec)
        run_shard(both[0].engine, here.stages, here.x, here.out)
        assert ShardHeader.from_json(ShardHeader.of(here.x, here.stages).to_json()) == ShardHeader.of(
            here.x, here.stages
        )
        for line in lines:
            there = task_of(case.x, case.weight, case.bias, case.spec)
            whole = np.zeros((2, *there.out.shape), there.out.dtype)
            line.send(there, None, full=False)
            (ran,) = line.receive(whole[1])
            assert ran.algorithm == "reference"
            np.testing.assert_array_equal(whole[1], here.out)

    compare()
    for line, worker in zip(lines, both, strict=True):
        line.close()
        worker.endpoint.close()


def test_results_land_in_slices_of_any_strides(line):
    x, w = np.arange(96.0).reshape(2, 2, 24)[:, :, ::2], np.ones((2, 1, 3))
    whole = np.zeros((2, 4, 10))
    task = task_of(x, w, spec=ConvSpec(groups=2))
    line.send(task, None, full=False)
    line.receive(whole[:, ::2])
    run_shard(create_engine("reference"), task.stages, task.x, task.out)
    np.testing.assert_array_equal(whole[:, ::2], task.out)
    assert not whole[:, 1::2].any()


def test_weights_are_asked_for_and_kept_apart_from_the_memory_they_came_in(line):
    task = small_task(ResidentKey("edge", 1, 0, ((0, 2), (0, 1), (0, 3))))
    line.send(task, None, full=False)
    assert line.receive(task.out) is None
    line.send(task, None, full=True)
    assert line.receive(task.out)
    first = task.out.copy()
    other = small_task(size=64)  # lies where the weights lay
    line.send(other, None, full=False)
    line.receive(other.out)
    task.out[...] = 0
    line.send(task, None, full=False)
    assert line.receive(task.out)
    np.testing.assert_array_equal(task.out, first)


def test_more_shards_than_a_connection_remembers(line):
    for size in [*range(3, NUMBERS + 20), 3]:
        task = small_task(size=size)
        line.send(task, None, full=False)
        line.receive(task.out)
        assert task.out[0, 1, 0] == 3 * size + 3


def test_memory_is_made_once_and_again_when_a_larger_shard_comes():
    worker = Worker()
    before = memory()
    line = LaneConnection(worker.endpoint.address, KEY)
    for size, count in ((100, 2), (50, 2), (100_000, 2), (100, 2)):  # both ends are this process
        task = small_task(size=size)
        line.send(task, None, full=False)
        line.receive(task.out)
        assert others_than(before) == count
    line.close()
    until(lambda: others_than(before) <= 1)  # this line's own mapping goes with it
    del line
    until(lambda: not others_than(before))
    worker.endpoint.close()


def test_the_worker_s_refusals_and_failures_leave_the_connection_good(line, worker, monkeypatch):
    task = small_task()
    bad = Task(0, "w", task.stages, task.x[:, :1], task.out)
    line.send(bad, None, full=False)
    with pytest.raises(WorkerError) as caught:
        line.receive(bad.out)
    assert "Traceback" in caught.value.text

    def refuse(*_, **__):
        raise InvalidArgumentError("groups", "a divisor of 2", 3)

    run, worker.endpoint._run = worker.endpoint._run, refuse
    refused = LaneConnection(worker.endpoint.address, KEY)
    refused.send(task, None, full=False)
    with pytest.raises(InvalidArgumentError, match="groups: expected a divisor of 2, got 3"):
        refused.receive(task.out)
    refused.close()
    worker.endpoint._run = run
    line.send(task, None, full=False)
    assert line.receive(task.out)


def test_the_deadline_travels_and_a_dropped_shard_says_so(line, worker):
    task = small_task()
    line.send(task, 1234.5, full=False)
    line.receive(task.out)
    worker.hold.clear()
    line.send(task, None, full=False)
    line.close()
    worker.hold.set()
    until(lambda: len(worker.asked) == 2)
    assert worker.asked == [(False, 1234.5), (True, None)]


@pytest.mark.parametrize("said", [b"", bytes(2 * NONCE), b"\x80\x04" * NONCE, b"\x03\xff\xff\xff\xff" * 40])
def test_who_does_not_know_the_key_is_not_answered(worker, said):
    address = worker.endpoint.address
    stranger = socket.socket(socket.AF_UNIX if isinstance(address, str) else socket.AF_INET)
    stranger.settimeout(30)
    stranger.connect(raw(address))
    assert len(stranger.recv(NONCE, socket.MSG_WAITALL)) == NONCE
    with contextlib.suppress(OSError):  # it may have been hung up on by then
        stranger.sendall(said)
        stranger.shutdown(socket.SHUT_WR)
        assert stranger.recv(1) == b""
    with pytest.raises((BrokenLaneError, ConnectionResetError)):
        LaneConnection(address, new_key())
    assert not worker.asked
    LaneConnection(address, KEY).close()


def test_a_key_is_not_shown_to_a_worker_that_does_not_know_it():
    with socket.create_server(("127.0.0.1", 0)) as fake:

        def serve():
            sock, _ = fake.accept()
            with sock:
                sock.sendall(bytes(NONCE))
                sock.recv(2 * NONCE, socket.MSG_WAITALL)
                sock.sendall(bytes(NONCE))

        threading.Thread(target=serve).start()
        with pytest.raises(BrokenLaneError, match="the worker does not know the key"):
            LaneConnection(fake.getsockname(), KEY)


def test_callers_that_never_finish_the_handshake_are_dropped(worker, monkeypatch):
    monkeypatch.setattr(endpoints, "TIMEOUT", 0.2)
    address = worker.endpoint.address
    kind = socket.AF_UNIX if isinstance(address, str) else socket.AF_INET
    silent = [socket.socket(kind) for _ in range(2 * endpoints.HANDSHAKES)]
    for sock in silent:
        sock.settimeout(60)
        sock.connect(raw(address))
    for sock in silent:
        while sock.recv(NONCE):  # until it is hung up on
            pass
        sock.close()
    monkeypatch.undo()
    LaneConnection(address, KEY).close()


def test_a_lane_uses_its_connections_again_and_knows_when_nobody_is_there(worker):
    lane = Lane(worker.endpoint.address, KEY)
    one, two = lane.take(), lane.take()
    assert lane.busy == 2
    lane.give(one)
    lane.give(two)
    assert lane.take() is two
    lane.broke(two)
    assert lane.busy == 0
    assert lane.check()
    assert lane.open
    lane.give(lane.take())
    worker.endpoint.close()
    assert not lane.answers()  # the idle connection is good, a new one cannot be had
    assert not lane.open


HALF = """
import os, sys, time
from groupconv_server.executors.lanes.connection import LaneConnection
import numpy as np
line = LaneConnection(sys.argv[1], bytes.fromhex(sys.argv[2]))
x = np.zeros(2**20, np.uint8)
line.echo(x, x)
print("mapped", flush=True)
time.sleep(60)
"""


def test_a_coordinator_that_is_killed_leaves_nothing_behind():
    worker = Worker()
    before = memory()
    command = [sys.executable, "-c", HALF, worker.endpoint.address, KEY.hex()]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout.readline() == "mapped\n"
        assert others_than(before) == 1
        process.kill()
    until(lambda: not others_than(before))
    worker.endpoint.close()


def raw(address):
    """As the socket module has it: names of the abstract namespace begin with a zero byte."""
    return f"\0{address}" if isinstance(address, str) else address


def memory():
    """How often each piece of lanes' memory is mapped here, by its inode."""
    return Counter(line.split()[4] for line in Path("/proc/self/maps").read_text().splitlines() if MEMFD in line)


def others_than(before):
    """How many mappings there are of other memory, since that of another test may go at any moment."""
    return sum(count for inode, count in memory().items() if inode not in before)
