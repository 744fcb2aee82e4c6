"""When a network is cut over the workers of a process, and what becomes of a part that fails."""

import numpy as np
import pytest
from networks import towers

from groupconv.errors import CancelledError
from groupconv_worker.budget import ThreadBudget
from groupconv_worker.cpu.compiler import Done
from groupconv_worker.cpu.network.sharded import cut_network
from groupconv_worker.cpu.threads import Team
from groupconv_worker.graph.importing import Optimized
from groupconv_worker.graph.model import read_model
from groupconv_worker.graph.partition.uniform import CUTS
from groupconv_worker.job import Job
from groupconv_worker.networks.local_gang import LocalGang, Member
from groupconv_worker.networks.runner import NetworkCall, NetworkRan, NetworkRunner
from groupconv_worker.networks.sharding import Sharder

X = np.random.default_rng(0).standard_normal((2, 4, 40, 9)).astype(np.float32)
MODEL = read_model(towers().SerializeToString())
MUCH = 2**40


@pytest.fixture
def teams():
    teams = [Team(1), Team(1)]
    yield teams
    for team in teams:
        team.close()


@pytest.fixture
def gang(teams):
    return LocalGang([Member(f"w{i}", ThreadBudget(1), team) for i, team in enumerate(teams)])


@pytest.fixture
def sharder(gang):
    runner = NetworkRunner(gang.members[0].budget, 1)
    sharder = Sharder(gang, lambda call, model, job: runner.run(call, lambda: model, job))
    yield sharder
    sharder.close()


def call(cut="", spare=MUCH, x=X):
    return NetworkCall("towers", 1, {"x": x}, ("y",), spare=spare, cut=cut)


def given(sharder, teams, cut="rows", x=X):
    """A cut that calls take, as if it had been measured."""
    found = sharder._find(call(x=x))
    graph = Optimized(MODEL).canonical({"x": x.shape})
    cut_network(graph, cut, teams)  # as another process would, it compiles the kernels
    made = sharder._gang.make(Done(graph=graph), cut)
    found.networks[cut], found.best, found.started = made, cut, True
    return found


def whole(sharder):
    return sharder._whole(call("nothing"), MODEL, Job()).outputs["y"]


@pytest.mark.parametrize("cut", CUTS)
def test_the_outputs_are_those_of_one_worker(sharder, teams, cut):
    given(sharder, teams, cut)
    ids, ran = sharder.run(call(), MODEL, Job())
    assert (ids, ran.cut) == ("w0,w1", cut)
    np.testing.assert_allclose(ran.outputs["y"], whole(sharder), rtol=1e-5, atol=1e-6)
    apart = cut in ("samples", "channels")  # towers do not meet
    assert {(e.source, e.target) for e in ran.exchanges} == (set() if apart else {("w0", "w1"), ("w1", "w0")})
    assert ran.coordinator_bytes <= 1.15 * (X.nbytes + ran.outputs["y"].nbytes)  # halos of a narrow image
    assert len(ran.parts) == 2
    assert ran.program_bytes == sharder.bytes_of("towers", 1) > 0


def test_a_network_is_cut_only_while_all_workers_are_idle(sharder, teams, gang):
    given(sharder, teams)
    assert sharder.run(call(), MODEL, Job()) is not None
    assert sharder.run(call("nothing"), MODEL, Job()) is None
    assert sharder.run(call(spare=-1), MODEL, Job()) is None  # windows of a stream
    assert sharder.run(call(x=X[:1]), MODEL, Job()) is None  # nothing is known of these shapes
    for member in gang.members:
        held = member.budget.acquire()
        assert sharder.run(call(), MODEL, Job()) is None
        member.budget.release(held)
    sharder.forget("towers", 1)
    assert sharder.run(call(), MODEL, Job()) is None


@pytest.mark.parametrize("worker", [0, 1])
def test_one_worker_runs_what_a_part_failed_at(sharder, teams, monkeypatch, worker):
    network = given(sharder, teams).networks["rows"].network

    def fail(*_args, **_kwargs):
        raise MemoryError("no memory for a part")

    with monkeypatch.context() as patch:
        patch.setattr(network._programs[worker], "run", fail)
        assert sharder.run(call(), MODEL, Job()) is None
        over = Job()
        over.stop(CancelledError("the caller has gone"))
        with pytest.raises(CancelledError):
            sharder.run(call(), MODEL, over)
    assert sharder.run(call(), MODEL, Job()) is not None  # all threads are free again


def test_programs_that_do_not_fit_are_not_kept(sharder, teams, gang):
    given(sharder, teams)  # compiles the kernels
    found = sharder._find(call(x=X[:1]))
    graph = Optimized(MODEL).canonical({"x": X[:1].shape})
    assert sharder._make(found, "rows", lambda cut: gang.make(Done(graph=graph), cut), spare=1) is None
    assert "do not fit" in found.reasons["rows"]


def test_cuts_are_measured_beside_one_worker(sharder, teams, gang, monkeypatch):
    """Whichever is faster here: what is kept is what answers."""
    monkeypatch.setenv("GROUPCONV_TUNE", "on")
    given(sharder, teams)  # compiles the kernels
    sharder.forget("towers", 1)
    found = sharder._find(call())
    came = Done(graph=Optimized(MODEL).canonical({"x": X.shape}))
    sharder._try(found, call("nothing"), MODEL, lambda cut: gang.make(came, cut))
    assert "measured at" in found.reason
    assert list(found.networks) == ([found.best] if found.best else [])
    assert found.best in ("", *CUTS)
    unsettled = NetworkRan({}, 0.0, settled=False)
    assert sharder.run(call(x=X[:1]), MODEL, Job()) is None
    sharder.answered(call(x=X[:1]), MODEL, unsettled)
    assert not sharder._find(call(x=X[:1])).started


def test_nothing_is_cut_of_a_version_that_was_unloaded_during_a_call(sharder, monkeypatch):
    monkeypatch.setenv("GROUPCONV_TUNE", "on")
    assert sharder.run(call(), MODEL, Job()) is None
    sharder.forget("towers", 1)
    sharder.answered(call(), MODEL, NetworkRan({}, 0.0))
    assert not sharder._known
