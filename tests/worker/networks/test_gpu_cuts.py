"""Networks over several GPUs of one process, which are emulated, as the local executor runs them."""

from contextlib import closing

import numpy as np
import pytest
from networks import mixed_cuts, towers

from emulation import emulated_engines, needs_compiler
from emulation.libcuda import as_libcuda
from emulation.stand_in import as_cupy
from groupconv.errors import InvalidArgumentError
from groupconv.gpu import driver
from groupconv_server.executors import create_executor
from groupconv_worker.budget import ThreadBudget
from groupconv_worker.contract import DeviceLostError
from groupconv_worker.cpu.compiler_tasks import TaskResult
from groupconv_worker.graph.importing import Optimized
from groupconv_worker.graph.model import read_model
from groupconv_worker.graph.partition.choice import CUTS, PLANNED, CutChoice
from groupconv_worker.job import Job
from groupconv_worker.networks.gang import UncutError
from groupconv_worker.networks.local_gang import LocalGang, Member
from groupconv_worker.networks.runner import NetworkCall, NetworkRunner
from groupconv_worker.networks.session import NetworkSession
from groupconv_worker.networks.sharding import Sharder

pytestmark = needs_compiler
X = np.random.default_rng(0).standard_normal((2, 4, 12, 9)).astype(np.float32)
MODEL = read_model(towers().SerializeToString())
WANTED = NetworkSession(MODEL, 1).run({"x": X}, ["y"], Job())["y"]
MUCH = 2**40


def graph():
    return Optimized(MODEL).canonical({"x": X.shape})


def planner(given, nodes):
    return mixed_cuts(graph(), sum(nodes)) | dict(given)


def call(cut=""):
    return NetworkCall("towers", 1, {"x": X}, ("y",), spare=MUCH, cut=cut, planner=planner)


@pytest.fixture
def gang():
    with emulated_engines(2, algorithm="direct") as engines:
        yield LocalGang([Member(f"gpu{i}", ThreadBudget(1), engine) for i, engine in enumerate(engines)])


def given(gang, cut):
    """What runs calls, as if this cut had been measured."""
    runner = NetworkRunner(gang.members[0].budget, 1)
    sharder = Sharder(gang, lambda call, model, job: runner.run(call, lambda: model, job))
    choice, found = CutChoice(cut, planner({}, (2,)) if cut == PLANNED else {}), sharder._find(call())
    found.networks[choice.key], found.best = gang.make(TaskResult(graph=graph()), choice), choice
    found.started = True
    return sharder


@pytest.mark.parametrize("cut", CUTS)
def test_the_outputs_are_those_of_one_worker(gang, cut):
    with closing(given(gang, cut)) as sharder:
        ids, ran = sharder.run(call(), MODEL, Job())
        assert (ids, ran.cut) == ("gpu0,gpu1", cut)
        np.testing.assert_allclose(ran.outputs["y"], WANTED, rtol=1e-4, atol=1e-5)
        apart = cut in ("samples", "channels")  # towers do not meet
        assert {(e.source, e.target) for e in ran.exchanges} == (
            set() if apart else {("gpu0", "gpu1"), ("gpu1", "gpu0")}
        )
        assert len(ran.parts) == 2


def test_a_lost_device_is_told(gang, monkeypatch):
    """Nothing in this process brings it back, so the call is not tried on one worker."""
    with closing(given(gang, "rows")) as sharder:
        (network,) = sharder._find(call()).networks.values()

        def lost(*_args, **_kwargs):
            raise DeviceLostError("the context is lost")

        monkeypatch.setattr(network.network._parts[1], "run", lost)
        with pytest.raises(DeviceLostError):
            sharder.run(call(), MODEL, Job())


def test_what_cannot_be_cut_says_why(gang, monkeypatch):
    for member in gang.members:
        monkeypatch.setattr(member.computes.gpu, "free_bytes", lambda: 100)
    with pytest.raises(UncutError, match=r"cuda\.memory_limit: the network needs"):
        gang.make(TaskResult(graph=graph()), CutChoice("rows"))
    monkeypatch.undo()
    with monkeypatch.context() as patch:
        patch.delattr(type(driver.driver()._library), "cuStreamWaitValue64_v2")
        with pytest.raises(UncutError, match="older than CUDA"):
            gang.make(TaskResult(graph=graph()), CutChoice("rows"))
    gang.close()


@pytest.mark.parametrize(("workers", "why"), [(1, "as one worker runs networks"), (2, "as workers share a GPU")])
def test_one_gpu_is_not_cut_over(workers, why):
    with (
        as_cupy(),
        closing(create_executor("local", workers=workers, threads=1, engine="cuda")) as executor,
        pytest.raises(InvalidArgumentError, match=why),
    ):
        executor.run_network(call("rows"), MODEL, Job())


@pytest.mark.slow
def test_an_executor_with_two_gpus_cuts_a_network(monkeypatch):
    """From the call on, with another process that binds the graph."""
    monkeypatch.setenv("GROUPCONV_CUDA_ALGORITHM", "direct")  # nothing to measure among convolutions
    with (
        as_cupy(devices=2) as cupy,
        as_libcuda(cupy.ipc),
        closing(create_executor("local", threads=1, engine="cuda")) as executor,
    ):
        for cut in ("rows", "planned", "rows"):
            ids, ran = executor.run_network(call(cut), MODEL, Job())
            assert (ids, ran.cut) == ("local-0,local-1", cut)
            assert ran.exchanges
            np.testing.assert_allclose(ran.outputs["y"], WANTED, rtol=1e-4, atol=1e-5)
