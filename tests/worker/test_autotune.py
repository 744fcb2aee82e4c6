"""Tuning: the fastest candidate, remembered; never where it is switched off."""

import json
import os
import subprocess
import sys
import threading
import time
from dataclasses import dataclass

import numpy as np
import pytest

from groupconv.convolution.dtypes import types_of
from groupconv.convolution.geometry import resolve
from groupconv.convolution.spec import ConvSpec
from groupconv_worker import code_version
from groupconv_worker.activity import Activity
from groupconv_worker.contract import Problem
from groupconv_worker.cpu.engine import CpuEngine
from groupconv_worker.tuning import autotune, choice_file, stopwatch
from groupconv_worker.tuning.autotune import Tuner
from groupconv_worker.tuning.choice_file import ChoiceFile
from groupconv_worker.tuning.stopwatch import BusyError

SHAPES = (1, 4, 40, 40), (4, 2, 5, 5)
F32 = np.dtype("float32")
PROBLEM = Problem(resolve(ConvSpec(groups=2), *SHAPES), types_of(F32, F32))


class Clock:
    """Time that passes only when a candidate runs, of which the thread has a part."""

    now, running, sleep, monotonic = 0.0, 1.0, staticmethod(time.sleep), staticmethod(time.monotonic)

    def perf_counter(self) -> float:
        return self.now

    def thread_time(self) -> float:
        return self.now * self.running


@dataclass
class Candidate:
    algorithm: str
    seconds: float
    clock: Clock
    runs: int = 0

    def run(self, x, out) -> None:
        self.runs += 1
        self.clock.now += self.seconds


@pytest.fixture
def clock(monkeypatch):
    clock = Clock()
    monkeypatch.setattr(stopwatch, "time", clock)
    monkeypatch.setattr(stopwatch, "_used_by_others", lambda: 0.0)
    return clock


def candidates(clock: Clock, **seconds: float):
    made = {name: Candidate(name, s, clock) for name, s in seconds.items()}
    return made, {name: (lambda c=c: c) for name, c in made.items()}


def test_the_fastest_is_chosen_and_remembered_on_disk(tmp_path, clock):
    path = tmp_path / "cache" / "tuning.json"
    _, ways = candidates(clock, slow=0.02, fast=0.01)
    assert Tuner(1, path).choose(PROBLEM, ways).algorithm == "fast"
    made, ways = candidates(clock, slow=0.02, fast=0.01)
    assert Tuner(1, path).choose(PROBLEM, ways).algorithm == "fast"
    assert sum(c.runs for c in made.values()) == 0
    _, ways = candidates(clock, slow=0.01, fast=0.02)
    assert Tuner(2, path).choose(PROBLEM, ways).algorithm == "slow"  # other threads, another choice
    (choices,) = json.loads(path.read_text()).values()
    assert sorted(choices.values()) == ["fast", "slow"]


def test_other_versions_measure_again(tmp_path, clock, monkeypatch):
    path = tmp_path / "tuning.json"
    Tuner(1, path).choose(PROBLEM, candidates(clock, a=1, b=2)[1])
    monkeypatch.setattr(autotune, "versions", lambda _: "newer")
    assert Tuner(1, path).choose(PROBLEM, candidates(clock, a=2, b=1)[1]).algorithm == "b"


def test_versions_that_were_not_written_for_long_are_dropped(tmp_path, clock, monkeypatch):
    path = tmp_path / "tuning.json"
    for threads, version in enumerate("abcdae"):
        monkeypatch.setattr(autotune, "versions", lambda _, version=version: version)
        Tuner(threads, path).choose(PROBLEM, candidates(clock, x=1, y=2)[1])
    kept = json.loads(path.read_text())
    assert list(kept) == ["c", "d", "a", "e"]
    assert len(kept["a"]) == 2


def test_a_version_is_another_one_when_the_code_changes(tmp_path, monkeypatch):
    for name in ("cpu/threads.py", "cpu/algorithms/gemm.py", "cpu/kernels/simd.py"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text("")
    monkeypatch.setattr(code_version, "HERE", tmp_path)
    found = []
    for changed in (None, "cpu/algorithms/gemm.py", "cpu/kernels/simd.py", "cpu/threads.py"):
        if changed:
            (tmp_path / changed).write_text("x = 1")
        code_version.digest.cache_clear()
        found.append(autotune.versions("here"))
    code_version.digest.cache_clear()
    assert len(set(found)) == 4


def test_machines_that_share_a_file_keep_their_choices_apart(tmp_path, clock):
    def chosen(machine: str, **seconds: float) -> str:
        tuner = Tuner(1, tmp_path / "tuning.json", machine)
        return tuner.choose(PROBLEM, candidates(clock, **seconds)[1]).algorithm

    assert chosen("small", a=1, b=2) == "a"
    assert chosen("large", a=2, b=1) == "b"
    assert chosen("small", a=2, b=1) == "a"  # remembered, not measured


def test_what_was_measured_while_others_had_the_processor_is_measured_again(tmp_path, clock):
    path = tmp_path / "tuning.json"

    def chosen(running: float, **seconds: float) -> str:
        clock.running = running
        return Tuner(1, path).choose(PROBLEM, candidates(clock, **seconds)[1]).algorithm

    assert chosen(0.5, a=1, b=2) == "a"
    assert chosen(0.5, a=2, b=1) == "b"  # another one: still in doubt
    assert chosen(0.99, a=1, b=2) == "a"
    assert chosen(0.99, a=2, b=1) == "a"  # remembered


def test_what_was_measured_while_threads_were_put_aside_is_measured_again(tmp_path, clock, monkeypatch):
    path = tmp_path / "tuning.json"
    monkeypatch.setattr(stopwatch, "_preempted", lambda: 2 * stopwatch.PREEMPTED * clock.now)
    assert Tuner(1, path).choose(PROBLEM, candidates(clock, a=1, b=2)[1]).algorithm == "a"
    monkeypatch.setattr(stopwatch, "_preempted", lambda: 0)
    assert Tuner(1, path).choose(PROBLEM, candidates(clock, a=2, b=1)[1]).algorithm == "b"


def test_a_process_takes_what_another_has_found_meanwhile(tmp_path, clock):
    path = tmp_path / "tuning.json"
    first, second = Tuner(1, path), Tuner(1, path)
    assert first.choose(PROBLEM, candidates(clock, a=1, b=2)[1]).algorithm == "a"
    made, ways = candidates(clock, a=2, b=1)
    assert second.choose(PROBLEM, ways).algorithm == "a"
    assert sum(c.runs for c in made.values()) == 0


def test_processes_measure_one_after_another(tmp_path, clock):
    path = tmp_path / "tuning.json"
    chosen = []

    def choose():
        chosen.append(Tuner(1, path).choose(PROBLEM, candidates(clock, a=2, b=1)[1]).algorithm)

    other = threading.Thread(target=choose)  # a tuner of its own: what keeps them apart is the file
    with ChoiceFile(path, "").alone():
        other.start()
        other.join(0.3)
        assert other.is_alive()
        Tuner(1).choose(PROBLEM, candidates(clock, a=2, b=1)[1])  # without a file it waits for nobody
    other.join(60)
    assert chosen == ["b"]


def test_a_process_that_does_not_end_is_not_waited_for(tmp_path, clock, monkeypatch):
    path = tmp_path / "tuning.json"
    monkeypatch.setattr(choice_file, "TRIES", 3)
    with ChoiceFile(path, "").alone():
        assert Tuner(1, path).choose(PROBLEM, candidates(clock, a=2, b=1)[1]).algorithm == "b"


@pytest.mark.parametrize("processes", [1, 2])
def test_a_doubted_choice_that_is_found_again_is_kept(tmp_path, clock, processes):
    path, clock.running = tmp_path / "tuning.json", 0.5
    tuners = [Tuner(1, path) for _ in range(processes)]
    for number, sure in enumerate((False, True)):
        tuner = tuners[number % processes]
        if number and processes == 2:
            assert tuner.choose(PROBLEM, candidates(clock, a=1, b=2)[1]).algorithm == "a"  # what the other one found
        assert tuner.choose(PROBLEM, candidates(clock, a=1, b=2)[1]).algorithm == "a"
        assert tuner.known(PROBLEM) == ("a", sure)
    assert tuner.choose(PROBLEM, candidates(clock, a=2, b=1)[1]).algorithm == "a"  # remembered, not measured


def test_a_machine_that_is_always_busy_is_not_measured_for_ever(clock):
    clock.running, tuner, runs = 0.5, Tuner(1), []
    for number in range(6):
        made, ways = candidates(clock, a=1 + number % 2, b=2 - number % 2)
        tuner.choose(PROBLEM, ways)
        runs.append(sum(candidate.runs for candidate in made.values()) > 0)
    assert runs == [True] * (1 + autotune.DOUBTS) + [False] * (5 - autotune.DOUBTS)
    assert tuner.known(PROBLEM)[1]


@pytest.mark.parametrize("found", ["aa", "abab"], ids=["agreed", "differed"])
def test_what_was_never_measured_undisturbed_is_measured_again_by_the_next_process(tmp_path, clock, found):
    path, clock.running = tmp_path / "tuning.json", 0.5
    first = Tuner(1, path)
    for best in found:
        first.choose(PROBLEM, candidates(clock, **{best: 1, "ab".replace(best, ""): 2})[1])
    assert first.known(PROBLEM) == (found[-1], True)
    other = "ab".replace(found[-1], "")
    clock.running, second = 1.0, Tuner(1, path)
    assert second.known(PROBLEM) == (found[-1], False)
    assert second.choose(PROBLEM, candidates(clock, **{other: 1, found[-1]: 2})[1]).algorithm == other
    assert Tuner(1, path).known(PROBLEM) == (other, True)


def test_a_server_asks_no_more_for_what_its_compiling_processes_never_measure_undisturbed():
    tuner, asked = Tuner(1), []
    for number in range(6):
        asked.append(not tuner.known(PROBLEM)[1])
        tuner.learn(PROBLEM, "ab"[number % 2], sure=False)
    assert asked == [True] * (1 + autotune.DOUBTS) + [False] * (5 - autotune.DOUBTS)


@pytest.mark.parametrize(("used", "sure"), [(0.0, True), (0.05, True), (0.5, False)])
def test_what_was_measured_while_others_used_other_processors_is_doubted(clock, monkeypatch, used, sure):
    """Their part of the time of all processors; ours is one thread, which has its own all the time."""
    monkeypatch.setattr(stopwatch, "_used_by_others", lambda: used * os.cpu_count() * clock.now)
    tuner = Tuner(1)
    assert tuner.choose(PROBLEM, candidates(clock, a=1, b=2)[1]).algorithm == "a"
    assert tuner.known(PROBLEM) == ("a", sure)


def test_what_others_use_is_read_from_the_system(tmp_path, monkeypatch):
    before = stopwatch._used_by_others()
    loop = "import time\nwhile time.process_time() < 0.5: pass"
    subprocess.run([sys.executable, "-S", "-c", loop], check=True)
    assert stopwatch._used_by_others() - before > 0.4
    monkeypatch.setattr(stopwatch, "STAT", tmp_path / "none")
    assert stopwatch._used_by_others() == 0.0


def test_a_process_measures_again_in_a_quiet_gap_what_it_measured_while_others_had_the_processor(clock):
    clock.running, tuner = 0.5, Tuner(1)
    assert tuner.choose(PROBLEM, candidates(clock, a=1, b=2)[1]).algorithm == "a"
    assert tuner.known(PROBLEM) == ("a", False)
    clock.running = 1.0
    assert tuner.choose(PROBLEM, candidates(clock, a=2, b=1)[1]).algorithm == "b"
    assert tuner.known(PROBLEM) == ("b", True)


@pytest.mark.parametrize("content", ["", "[1]", "{broken", '{"a": 1}', '{"a": {"b": 1}}', "[" * 100_000, "\udcff"])
def test_a_broken_cache_is_no_cache(tmp_path, clock, content):
    path = tmp_path / "tuning.json"
    path.write_text(content, errors="surrogateescape")
    assert Tuner(1, path).choose(PROBLEM, candidates(clock, a=2, b=1)[1]).algorithm == "b"


def test_a_cache_that_cannot_be_written_is_no_failure(tmp_path, clock):
    (tmp_path / "file").write_text("")
    tuner = Tuner(1, tmp_path / "file" / "tuning.json")
    assert tuner.choose(PROBLEM, candidates(clock, a=2, b=1)[1]).algorithm == "b"


def test_a_slow_problem_is_measured_less(clock):
    made, ways = candidates(clock, a=autotune.SECONDS, b=autotune.SECONDS * 2)
    assert Tuner(1).choose(PROBLEM, ways).algorithm == "a"
    assert made["a"].runs == 2 + autotune.TURN  # one to warm up, one to see what it takes


def test_of_a_slow_problem_what_is_far_slower_takes_no_time_from_the_others(clock):
    made, ways = candidates(clock, a=0.005, b=0.0055, far=0.1)
    assert Tuner(1).choose(PROBLEM, ways).algorithm == "a"
    assert made["far"].runs == 2
    assert made["b"].runs >= 2 + autotune.SURE * autotune.TURN


def test_it_measures_on_input_as_numpy_has_it_and_output_as_shared_memory_has_it():
    assert [array.ctypes.data % 64 for array in stopwatch._arrays(PROBLEM)] == [16, 0]


def test_what_is_clearly_slower_is_not_timed_on(clock):
    made, ways = candidates(clock, a=1e-5, b=1.05e-5, slow=2e-5)
    assert Tuner(1).choose(PROBLEM, ways).algorithm == "a"
    assert made["slow"].runs == 2 + autotune.SURE * autotune.TURN
    assert made["b"].runs == made["a"].runs == 2 + autotune.ROUNDS * autotune.TURN


class Late(Candidate):
    """Slow after a pause, though the fastest when it runs on and on."""

    def run(self, x, out) -> None:
        super().run(x, out)
        self.clock.now += 1e-3 * (self.runs % autotune.TURN != 0)


def test_one_fast_run_does_not_make_a_winner(clock):
    _, ways = candidates(clock, steady=5e-4)
    assert Tuner(1).choose(PROBLEM, ways | {"late": lambda: Late("late", 1e-4, clock)}).algorithm == "steady"


@pytest.mark.parametrize(("setting", "resident", "measured"), [("on", True, 1), ("on", False, 0), ("off", True, 0)])
def test_the_engine_tunes_resident_kernels_alone(tmp_path, monkeypatch, setting, resident, measured):
    monkeypatch.setenv(autotune.VARIABLE, setting)
    path = tmp_path / "tuning.json"
    rng = np.random.default_rng(0)
    x, w = rng.standard_normal(SHAPES[0], F32), rng.standard_normal(SHAPES[1], F32)
    engine = CpuEngine(threads=1, tuning=path)
    out = np.empty(PROBLEM.geometry.output_shape, F32)
    engine.prepare(PROBLEM, w, resident=resident).run(x, out)
    written = json.loads(path.read_text()) if path.exists() else {}
    assert sum(map(len, written.values())) == measured
    from groupconv_worker.reference import convolve

    np.testing.assert_allclose(out, convolve(x, w, None, PROBLEM.geometry), atol=1e-4)


def test_candidates_are_measured_in_gaps_between_shards(clock):
    """A shard that comes during a run spoils that run, which is made again; none begins while a shard is inside."""
    activity, inside = Activity(), []
    made, ways = candidates(clock, a=0.01, b=0.02)

    @dataclass
    class Visited(Candidate):
        def run(self, x, out) -> None:
            super().run(x, out)
            inside.append(activity.inside)
            if self.runs in (1, 5):
                with activity:
                    self.clock.now += 1.0  # as slow as the shard makes it

    visited = Visited("b", 0.005, clock)
    ways["b"] = lambda: visited
    assert Tuner(1, activity=activity).choose(PROBLEM, ways).algorithm == "b"
    assert set(inside) == {0}
    assert visited.runs == made["a"].runs + 2


@pytest.mark.parametrize("how", ["all the time", "during every run"])
def test_where_there_is_no_gap_nothing_is_chosen(monkeypatch, clock, how):
    monkeypatch.setattr("groupconv_worker.tuning.stopwatch.PATIENCE", 0.01)
    activity = Activity()

    class Busy(Candidate):
        def run(self, x, out) -> None:
            super().run(x, out)
            with activity:
                pass

    ways = {name: (lambda name=name: Busy(name, 0.01, clock)) for name in "ab"}
    tuner = Tuner(1, activity=activity)
    if how == "all the time":
        activity.__enter__()
    with pytest.raises(BusyError):
        tuner.choose(PROBLEM, ways)
    assert tuner.known(PROBLEM) == (None, False)
