"""Parts that a worker makes: what becomes of one that cannot be made."""

import threading

import numpy as np
import pytest
from networks import towers

from groupconv_worker.budget import ThreadBudget
from groupconv_worker.cpu.compiler import NICENESS, Compiler
from groupconv_worker.cpu.threads import Team
from groupconv_worker.graph.partition.choice import CutChoice
from groupconv_worker.job import Job
from groupconv_worker.networks.part import NO_COMPILER, PartRunner
from groupconv_worker.networks.part_info import PartInfo, PartKey
from groupconv_worker.networks.part_programs import ThreadParts
from waiting import until

DATA = towers().SerializeToString()
X = np.random.default_rng(0).standard_normal((1, 4, 40, 40)).astype(np.float32)
ROWS = CutChoice("rows")


@pytest.fixture(scope="module")
def team():
    team = Team(1)
    yield team
    team.close()


@pytest.fixture
def compiler(monkeypatch):
    monkeypatch.setenv(NICENESS, "0")  # a machine that is never idle compiles nothing
    compiler = Compiler()
    yield compiler
    compiler.close()


def key_of(worker, network="towers"):
    return PartKey(network, 1, (("x", X.shape),), ROWS.key, 2, worker)


def prepared(parts, key):
    """What a part is, or why there is none, once that is known."""
    found = [parts.prepare(key, ROWS, DATA)]
    until(lambda: found.append(parts.prepare(key, ROWS, None)) or found[-1] is not None, 120)
    return found[-1]


def test_a_part_that_cannot_be_made_says_why_and_the_next_one_is_made(team, compiler):
    """There are two workers, so there is no part of a third one."""
    parts = PartRunner(ThreadBudget(1), ThreadParts(team), compiler)
    assert prepared(parts, key_of(2)) == "worker 2 of the cut failed: IndexError: list index out of range"
    assert isinstance(prepared(parts, key_of(0)), PartInfo)
    assert parts.run(key_of(2), 1, [], Job()) is None


def test_a_part_whose_compiler_ends_says_so(team, compiler):
    """The compiler closes while the part waits behind another task."""
    parts, taken, closed = (
        PartRunner(ThreadBudget(1), ThreadParts(team), compiler),
        threading.Event(),
        threading.Event(),
    )

    def waits(*_):
        taken.set()
        assert closed.wait(60)

    first = PartRunner(ThreadBudget(1), ThreadParts(team), compiler)
    first._made = waits
    first.prepare(key_of(0, "first"), ROWS, DATA)
    assert taken.wait(60)
    assert parts.prepare(key_of(1), ROWS, DATA) is None
    compiler.close()
    closed.set()
    assert parts.prepare(key_of(1), ROWS, None) == NO_COMPILER
