"""Networks of a worker with a GPU, which is emulated: its program beside the session, and the session without it."""

from contextlib import closing

import numpy as np
import pytest
from networks import towers

from emulation import emulated_engine, needs_compiler
from emulation.stand_in import as_cupy
from groupconv_server.executors import create_executor
from groupconv_worker.budget import ThreadBudget
from groupconv_worker.cpu.compiler import COMPILER, Compiler
from groupconv_worker.cpu.compiler_tasks import TaskResult
from groupconv_worker.cuda.network.network import DeviceNetwork
from groupconv_worker.graph.importing import Optimized
from groupconv_worker.graph.model import ALGORITHM, read_model
from groupconv_worker.job import Job
from groupconv_worker.networks.candidate import Candidate
from groupconv_worker.networks.programs import GpuPrograms, NoProgramError, programs_of
from groupconv_worker.networks.runner import OURS, NetworkCall, NetworkRunner
from groupconv_worker.networks.session import NetworkSession
from groupconv_worker.networks.takeover import Takeover

pytestmark = needs_compiler
MUCH = 2**40
X = np.random.default_rng(0).standard_normal((1, 4, 9, 9)).astype(np.float32)
DATA = towers(size=9).SerializeToString()
CALL = NetworkCall("towers", 1, {"x": X}, ("y",), spare=MUCH)


def graph():
    return Optimized(read_model(DATA)).canonical({"x": X.shape})


@pytest.fixture
def engine():
    with emulated_engine() as engine:
        yield engine


def runner_on(engine):
    """A runner whose network has a program on the GPU already."""
    takeover = Takeover(ThreadBudget(1), GpuPrograms(engine), Compiler())
    found = takeover.candidate("towers", 1, {"x": X})
    found.program, found.reason = DeviceNetwork(graph(), engine), "measured"
    return NetworkRunner(ThreadBudget(1), 1, takeover)


def test_a_program_on_the_gpu_is_measured_beside_the_session(engine):
    """Whichever is faster: the emulation says nothing of that."""
    takeover = Takeover(ThreadBudget(1), GpuPrograms(engine), Compiler())
    found = Candidate("towers", (("x", X.shape),), MUCH)
    takeover._try(found, TaskResult(graph=graph()), NetworkSession(read_model(DATA), 1), {"x": X}, ["y"])
    assert "× its time" in found.reason or "onnxruntime's time" in found.reason
    assert isinstance(found.program, DeviceNetwork | None)


def test_a_report_says_that_the_gpu_answered(engine):
    runner = runner_on(engine)
    ran = runner.run(CALL, lambda: read_model(DATA), Job())
    assert ran.algorithm == OURS
    assert ran.reason.startswith("the whole network on the GPU, 2 launches as one graph, measured")
    assert ran.program_bytes == runner.takeover.bytes_of("towers", 1) > 0
    wanted = NetworkSession(read_model(DATA), 1).run({"x": X}, ["y"], Job())
    np.testing.assert_allclose(ran.outputs["y"], wanted["y"], rtol=1e-4, atol=1e-5)


def test_without_memory_for_a_run_the_session_answers():
    with emulated_engine(memory_limit=2**20) as engine:
        runner = runner_on(engine)
        held = engine.gpu.empty((engine.gpu.free_bytes() - 100,), np.dtype(np.uint8))
        ran = runner.run(CALL, lambda: read_model(DATA), Job())
        assert ran.algorithm == ALGORITHM
        assert "no program: cuda:" in ran.reason
        del held


def test_what_makes_no_program_says_why(engine):
    with pytest.raises(NoProgramError, match="do not fit"):
        GpuPrograms(engine).make(graph(), 100)
    with emulated_engine(memory_limit=2000) as small, pytest.raises(NoProgramError, match=r"cuda\.memory_limit"):
        GpuPrograms(small).make(graph(), MUCH)


def test_an_engine_on_a_gpu_makes_its_programs_there(engine):
    made = programs_of(engine)
    assert isinstance(made, GpuPrograms)
    assert not made.compiled


@pytest.mark.slow
def test_a_worker_with_a_gpu_tries_its_networks_there(monkeypatch):
    """From the first call to the second, with another process that binds the graph."""
    monkeypatch.setenv("GROUPCONV_TUNE", "on")
    monkeypatch.setenv("GROUPCONV_CUDA_ALGORITHM", "direct")  # nothing to measure among convolutions
    with as_cupy(), closing(create_executor("local", workers=1, threads=1, engine="cuda")) as executor:
        model = read_model(DATA)
        _, first = executor.run_network(CALL, model, Job())
        assert "being compiled" in first.reason
        assert COMPILER.wait(120)
        (worker,) = executor._workers.values()
        worker.networks.takeover.wait()
        _, second = executor.run_network(CALL, model, Job())
    assert "× its time" in second.reason or "the whole network on the GPU" in second.reason
    np.testing.assert_allclose(second.outputs["y"], first.outputs["y"], rtol=1e-4, atol=1e-5)
