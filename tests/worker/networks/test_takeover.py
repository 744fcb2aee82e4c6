"""Programs that take over from sessions: where they are faster, agree, and fit."""

import logging
import math
import sys
import threading
from dataclasses import replace

import numpy as np
import pytest
from compiled_networks import model
from onnx import helper

from groupconv.errors import CancelledError
from groupconv.networks.state import NetworkState, Phase
from groupconv_worker.budget import ThreadBudget
from groupconv_worker.cpu.compiler import Compiler
from groupconv_worker.cpu.compiler_tasks import TaskResult
from groupconv_worker.cpu.network.fragments import compiled_network
from groupconv_worker.cpu.network.network import CompiledNetwork
from groupconv_worker.cpu.threads import Team
from groupconv_worker.graph.importing import Optimized
from groupconv_worker.graph.model import ALGORITHM, read_model
from groupconv_worker.job import Job
from groupconv_worker.networks.candidate import Candidate
from groupconv_worker.networks.judgement import computed_by_onnxruntime, times_of_model
from groupconv_worker.networks.programs import ThreadPrograms
from groupconv_worker.networks.runner import OURS, NetworkCall, NetworkRunner
from groupconv_worker.networks.session import NetworkSession
from groupconv_worker.networks.takeover import Takeover

X = np.random.default_rng(0).standard_normal((1, 64, 56, 56)).astype(np.float32)
LRN = model([helper.make_node("LRN", ["x"], ["y"], size=5)], {"x": X.shape})
MUCH = 2**40


@pytest.fixture
def team():
    team = Team(1)
    yield team
    team.close()


@pytest.fixture
def compiler(monkeypatch):
    monkeypatch.setenv("GROUPCONV_TUNE", "on")
    compiler = Compiler()
    yield compiler
    compiler.close()


@pytest.mark.slow
def test_a_faster_program_answers_after_the_session(team, compiler):
    """onnxruntime's LRN takes several times as long."""
    runner = NetworkRunner(ThreadBudget(1), 1, Takeover(ThreadBudget(1), ThreadPrograms(team), compiler))
    call = NetworkCall("lrn", 1, {"x": X}, ("y",), spare=MUCH)
    first = runner.run(call, lambda: read_model(LRN), Job())
    assert first.algorithm == ALGORITHM
    assert "being compiled" in first.reason
    assert state_of(runner, "lrn").phase in (Phase.COMPILING, Phase.MEASURING, Phase.PROGRAM)
    assert compiler.wait(240)
    runner.takeover.wait()
    state = state_of(runner, "lrn")
    assert (state.phase, state.shapes) == (Phase.PROGRAM, {"x": X.shape})
    assert "onnxruntime's time" in state.reason
    second = runner.run(call, lambda: read_model(LRN), Job())
    assert second.algorithm == OURS, second.reason
    assert second.program_bytes > X.nbytes
    np.testing.assert_allclose(second.outputs["y"], first.outputs["y"], rtol=1e-4, atol=1e-5)
    into = {"y": np.empty_like(X)}
    third = runner.run(NetworkCall("lrn", 1, {"x": X}, ("y",), into), lambda: read_model(LRN), Job())
    assert third.outputs["y"] is into["y"]
    np.testing.assert_array_equal(into["y"], second.outputs["y"])
    over = Job()
    over.stop(CancelledError("the caller has gone"))
    with pytest.raises(CancelledError):
        runner.run(call, lambda: read_model(LRN), over)
    runner.forget("lrn", 1)
    assert runner.run(call, lambda: read_model(LRN), Job()).algorithm == ALGORITHM


def test_states_say_what_is_awaited(team, compiler, monkeypatch):
    """Shapes that come once have no program; those that come again do, unless nothing compiles."""
    compiler.close()
    data = model([helper.make_node("LRN", ["x"], ["y"], size=5)], {"x": ("N", *X.shape[1:])})
    runner = NetworkRunner(ThreadBudget(1), 1, Takeover(ThreadBudget(1), ThreadPrograms(team), compiler))
    assert runner.states() == {}
    one, two = (NetworkCall("lrn", 1, {"x": np.concatenate([X] * n)}, ("y",), spare=MUCH) for n in (1, 2))
    for call in (one, two):
        runner.run(call, lambda: read_model(data), Job())
    states = runner.states()["lrn", 1]
    assert [state.phase for state in states] == [Phase.SESSION, Phase.WAITING]
    assert "no process that compiles" in str(states[0])
    assert "come again" in str(states[1])
    monkeypatch.setenv("GROUPCONV_TUNE", "off")
    assert "GROUPCONV_TUNE" in str(runner.states()["lrn", 1][1])
    without = NetworkRunner(ThreadBudget(1), 1)
    without.run(one, lambda: read_model(data), Job())
    assert "neither threads for programs nor a GPU" in str(state_of(without, "lrn"))


def test_what_the_compiler_drops_is_asked_for_again(team, monkeypatch):
    """It drops the oldest jobs if many wait, and all of them at the end."""
    monkeypatch.setenv("GROUPCONV_TUNE", "on")
    compiler = Compiler((sys.executable, "-c", "import sys; sys.stdin.buffer.read()"))  # which answers nothing
    takeover = Takeover(ThreadBudget(1), ThreadPrograms(team), compiler)
    runner = NetworkRunner(ThreadBudget(1), 1, takeover)
    call = NetworkCall("lrn", 1, {"x": X}, ("y",), spare=MUCH)
    runner.run(call, lambda: read_model(LRN), Job())
    assert state_of(runner, "lrn").phase is Phase.COMPILING
    compiler.close()
    takeover.wait()
    assert state_of(runner, "lrn").phase is Phase.WAITING
    runner.run(call, lambda: read_model(LRN), Job())
    assert state_of(runner, "lrn").phase is Phase.SESSION  # nothing compiles any more


@pytest.mark.parametrize(("samples", "kept"), [(1, False), ("N", True)])
def test_the_session_of_one_shape_alone_goes_once_the_program_answers(team, samples, kept):
    data = model([helper.make_node("LRN", ["x"], ["y"], size=5)], {"x": (samples, *X.shape[1:])})
    runner = NetworkRunner(ThreadBudget(1), 1, Takeover(ThreadBudget(1), ThreadPrograms(team), Compiler()))
    call = NetworkCall("n", 1, {"x": X}, ("y",))
    session = runner.prepare("n", 1, lambda: read_model(data))
    found = runner.takeover.candidate("n", 1, call.inputs)
    found.program = compiled_network(Optimized(read_model(data)).canonical({"x": X.shape}), team)
    found.settled = True
    assert runner.run(call, lambda: read_model(data), Job()).algorithm == OURS
    window = runner.run(replace(call, spare=-1), lambda: read_model(data), Job())
    assert window.algorithm == ALGORITHM
    assert (runner.prepare("n", 1, lambda: read_model(data)) is session) == kept


def state_of(runner: NetworkRunner, name: str) -> NetworkState:
    """The one state of the first version."""
    (state,) = runner.states()[name, 1]
    return state


def tried(team: Team, data: bytes, other: bytes, spare: int = MUCH) -> Candidate:
    """What becomes of a version whose program is that of another model."""
    takeover = Takeover(ThreadBudget(1), ThreadPrograms(team), Compiler())
    found = Candidate("n", (("x", X.shape),), spare)
    graph = Optimized(read_model(other)).canonical({"x": X.shape})
    compiled_network(graph, team)  # as another process would, it compiles the kernels
    takeover._try(found, TaskResult(graph=graph), NetworkSession(read_model(data), 1), {"x": X}, ["y"])
    return found


def test_a_program_that_disagrees_is_an_error_and_not_taken(team, caplog):
    other = model([helper.make_node("LRN", ["x"], ["y"], size=5, bias=1.01)], {"x": X.shape})
    with caplog.at_level(logging.ERROR):
        found = tried(team, LRN, other)
    assert found.program is None
    assert "differs from onnxruntime" in found.reason
    assert "'y'" in caplog.text


def test_a_faster_program_is_taken(team):
    """onnxruntime's LRN takes several times as long."""
    found = tried(team, LRN, LRN)
    assert found.program is not None, found.reason
    assert "onnxruntime's time" in found.reason


def test_a_program_that_does_not_fit_is_not_taken(team):
    found = tried(team, LRN, LRN, spare=1000)
    assert found.program is None
    assert "do not fit" in found.reason


def test_a_window_runs_on_the_session_and_programs_still_count(team):
    takeover = Takeover(ThreadBudget(1), ThreadPrograms(team), Compiler())
    program = CompiledNetwork(Optimized(read_model(LRN)).canonical({"x": X.shape}), team)
    takeover.candidate("lrn", 1, {"x": X}).program = program
    runner = NetworkRunner(ThreadBudget(1), 1, takeover)
    ran = runner.run(NetworkCall("lrn", 1, {"x": X}, ("y",), spare=-1), lambda: read_model(LRN), Job())
    assert ran.algorithm == ALGORITHM
    assert ran.program_bytes == program.nbytes > 0


def test_a_program_may_leave_parts_to_onnxruntime(team):
    """Reports name the parts, and the nodes of the model that onnxruntime computes."""
    nodes = [
        helper.make_node("LRN", ["x"], ["a"], size=5),
        helper.make_node("Sinh", ["a"], ["b"], name="odd"),
        helper.make_node("Relu", ["b"], ["c"]),
        helper.make_node("LRN", ["c"], ["y"], size=5),
    ]
    data = model(nodes, {"x": X.shape})
    graph = Optimized(read_model(data)).canonical({"x": X.shape})
    program = compiled_network(graph, team)
    takeover = Takeover(ThreadBudget(1), ThreadPrograms(team), Compiler())
    found = takeover.candidate("n", 1, {"x": X})
    found.program, found.theirs = program, computed_by_onnxruntime(program, read_model(data), graph)
    runner = NetworkRunner(ThreadBudget(1), 1, takeover)
    ran = runner.run(NetworkCall("n", 1, {"x": X}, ("y",)), lambda: read_model(data), Job())
    assert [part.algorithm for part in ran.parts] == [OURS, ALGORITHM, OURS]
    assert "Sinh 'odd' has no kernel" in ran.parts[1].reason
    assert ran.theirs == ("b",)
    assert "sessions between" in ran.reason
    assert sum(part.seconds for part in ran.parts) <= ran.seconds


def test_a_program_is_timed_node_by_node(team):
    """Each node of the graph as one of the model's; the times go with one report."""
    nodes = [
        helper.make_node("Conv", ["x", "w"], ["a"], pads=[1] * 4),
        helper.make_node("Relu", ["a"], ["b"]),
        helper.make_node("Sinh", ["b"], ["c"]),
        helper.make_node("LRN", ["c"], ["y"], size=5),
    ]
    w = np.random.default_rng(0).standard_normal((64, 64, 3, 3)).astype(np.float32)
    data = model(nodes, {"x": X.shape}, {"w": w / 24})
    graph = Optimized(read_model(data)).canonical({"x": X.shape})
    times = times_of_model(compiled_network(graph, team).node_seconds({"x": X}, graph), read_model(data), graph)
    assert set(times.seconds) == {"a", "c", "y"}
    assert min(times.seconds.values()) > 0
    assert times.fused == {"b": "a"}  # the runtime's part is timed by its own profiler
    takeover = Takeover(ThreadBudget(1), ThreadPrograms(team), Compiler())
    found = takeover.candidate("n", 1, {"x": X})
    found.program, found.times, found.node_times = compiled_network(graph, team), times, times
    runner = NetworkRunner(ThreadBudget(1), 1, takeover)
    call = NetworkCall("n", 1, {"x": X}, ("y",))
    assert runner.run(call, lambda: read_model(data), Job()).node_times == times
    assert runner.run(call, lambda: read_model(data), Job()).node_times is None
    assert runner.run(replace(call, times=True), lambda: read_model(data), Job()).node_times == times


def test_what_was_measured_beside_other_work_is_measured_again(team):
    takeover = Takeover(ThreadBudget(1), ThreadPrograms(team), Compiler())
    found = takeover.candidate("lrn", 1, {"x": X})
    graph = Optimized(read_model(LRN)).canonical({"x": X.shape})
    found.program, found.graph, found.disturbed = CompiledNetwork(graph, team), graph, 3
    found.reason = "measured while other programs had the processor"
    runner = NetworkRunner(ThreadBudget(1), 1, takeover)
    call = NetworkCall("lrn", 1, {"x": X}, ("y",))
    runner.run(call, lambda: read_model(LRN), Job())
    takeover.wait()
    assert found.node_times is None  # it is not the time yet
    found.again = 0.0
    runner.run(call, lambda: read_model(LRN), Job())
    takeover.wait()
    assert "× " in found.reason
    assert found.again == math.inf  # three times are enough


@pytest.mark.slow
def test_what_cannot_be_lowered_stays_with_the_session(team, compiler):
    data = model([helper.make_node("Sin", ["x"], ["y"], name="odd")], {"x": (1, 3)})
    runner = NetworkRunner(ThreadBudget(1), 1, Takeover(ThreadBudget(1), ThreadPrograms(team), compiler))
    call = NetworkCall("odd", 1, {"x": X[0, :1, 0, :3]}, ("y",), spare=MUCH)
    runner.run(call, lambda: read_model(data), Job())
    assert compiler.wait(240)
    runner.takeover.wait()
    again = runner.run(call, lambda: read_model(data), Job())
    assert again.algorithm == ALGORITHM
    assert "Sin 'odd'" in again.reason


def test_calls_at_the_same_time_have_arenas_of_their_own(team):
    network = CompiledNetwork(Optimized(read_model(LRN)).canonical({"x": X.shape}), team)
    inputs = [X * factor for factor in (1, 2, 3, 4)]
    wanted = [network.run({"x": x})["y"] for x in inputs]
    found: dict[int, list[np.ndarray]] = {}

    def run(i: int) -> None:
        found[i] = [network.run({"x": inputs[i]})["y"] for _ in range(5)]

    threads = [threading.Thread(target=run, args=(i,)) for i in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for i, want in enumerate(wanted):
        for got in found[i]:
            np.testing.assert_array_equal(got, want)
