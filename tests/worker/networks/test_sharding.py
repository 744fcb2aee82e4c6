"""When a network is cut over the workers of a process, and what becomes of a part that fails."""

import time
from dataclasses import replace

import numpy as np
import pytest
from networks import mixed_cuts, towers

from groupconv.errors import CancelledError
from groupconv_worker.budget import ThreadBudget
from groupconv_worker.cpu.compiler_tasks import TaskResult
from groupconv_worker.cpu.network.sharded import cut_network
from groupconv_worker.cpu.threads import Team
from groupconv_worker.graph.importing import Optimized
from groupconv_worker.graph.model import read_model
from groupconv_worker.graph.partition.choice import CUTS, PLANNED, CutChoice
from groupconv_worker.graph.partition.cut import AXES, Cut
from groupconv_worker.graph.partition.partition import partition
from groupconv_worker.job import Job
from groupconv_worker.networks.known_cuts import GIVEN, KnownCuts
from groupconv_worker.networks.local_gang import LocalGang, Member
from groupconv_worker.networks.runner import NetworkCall, NetworkRun, NetworkRunner
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


def graph_of(x):
    return Optimized(MODEL).canonical({"x": x.shape})


def planner(given, nodes):
    return mixed_cuts(graph_of(X), sum(nodes)) | dict(given)


def call(cut="", spare=MUCH, x=X, given=None):
    return NetworkCall("towers", 1, {"x": x}, ("y",), spare=spare, cut=cut, given=given or {}, planner=planner)


def chosen(cut):
    return CutChoice(cut, planner({}, (2,)) if cut == PLANNED else {})


def given(sharder, teams, cut="rows", x=X):
    """A cut that calls take, as if it had been measured."""
    found, choice = sharder._find(call(x=x)), chosen(cut)
    graph = graph_of(x)
    cut_network(graph, choice, teams)  # as another process would, it compiles the kernels
    made = sharder._gang.make(TaskResult(graph=graph), choice)
    found.networks[choice.key], found.best, found.started = made, choice, True
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
    graph = graph_of(X[:1])
    assert sharder._make(found, CutChoice("rows"), lambda cut: gang.make(TaskResult(graph=graph), cut), spare=1) is None
    assert "do not fit" in found.reasons["rows"]


def test_cuts_are_measured_beside_one_worker(sharder, teams, gang, monkeypatch):
    """Whichever is faster here: what is kept is what answers."""
    monkeypatch.setenv("GROUPCONV_TUNE", "on")
    given(sharder, teams)  # compiles the kernels
    sharder.forget("towers", 1)
    found = sharder._find(call())
    came = TaskResult(graph=graph_of(X))
    sharder._try(found, [chosen(cut) for cut in CUTS], call("nothing"), MODEL, lambda cut: gang.make(came, cut))
    assert "measured at" in found.reason
    assert list(found.networks) == ([found.best.key] if found.best else [])
    unsettled = NetworkRun({}, 0.0, settled=False)
    assert sharder.run(call(x=X[:1]), MODEL, Job()) is None
    sharder.answered(call(x=X[:1]), MODEL, unsettled)
    assert not sharder._find(call(x=X[:1])).started


def test_nothing_is_cut_of_a_version_that_was_unloaded_during_a_call(sharder, monkeypatch):
    monkeypatch.setenv("GROUPCONV_TUNE", "on")
    assert sharder.run(call(), MODEL, Job()) is None
    sharder.forget("towers", 1)
    sharder.answered(call(), MODEL, NetworkRun({}, 0.0))
    assert not sharder._known.versions()


def test_a_call_is_cut_as_its_plan_says(sharder):
    ids, ran = sharder.run(call(PLANNED), MODEL, Job(time.monotonic() + 300))
    assert (ids, ran.cut) == ("w0,w1", PLANNED)
    np.testing.assert_allclose(ran.outputs["y"], whole(sharder), rtol=1e-5, atol=1e-6)
    assert "cut as planned (" in ran.parts[0].reason
    assert "by channels" in ran.parts[0].reason
    assert "by rows" in ran.parts[0].reason
    graph = graph_of(X)
    made = partition(graph, planner({}, (2,)), 2)
    assert [(e.tensor, e.bytes) for e in ran.exchanges] == [(e.tensor, e.nbytes) for e in made.exchanges]
    name = next(iter(graph.makers))
    other = {name: Cut.replicated(graph.tensors[name].shape, 2)}
    _, again = sharder.run(call(PLANNED, given=other), MODEL, Job(time.monotonic() + 300))
    assert name in {e.tensor for e in ran.exchanges}
    assert name not in {e.tensor for e in again.exchanges}
    assert len(sharder._find(call()).networks) == 2


def test_networks_of_given_cuts_are_dropped_where_they_are_many():
    known = KnownCuts(best=CutChoice("rows"))
    known.networks = dict.fromkeys(["rows", *(f"planned {i}" for i in range(20))])
    assert known.superfluous() == [f"planned {i}" for i in range(20 - len(AXES) - GIVEN)]


def test_given_cuts_do_not_push_out_the_plan_of_the_planner():
    asked = []

    def planned(given, workers):
        asked.append(len(given))
        return {"y": Cut.replicated((1, 4 + asked[-1]), 2)}

    known = KnownCuts()
    own = replace(call(PLANNED), planner=planned)
    known.requested(own, (2,))
    for size in range(3 * GIVEN):
        known.requested(replace(own, given={"y": Cut.replicated((1, size + 1), 2)}), (2,))
    known.requested(own, (2,))
    assert asked == [0, *[1] * 3 * GIVEN]
    assert len(known._planned) == 1 + GIVEN


def test_one_worker_runs_what_the_planner_does_not_cut(sharder):
    alone = replace(call(PLANNED), planner=lambda given, workers: {})
    assert sharder.run(alone, MODEL, Job()) is None
