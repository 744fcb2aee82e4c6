"""What the benchmarks of cuts share: a layer of the catalogue as a request, under one cut, and timed in turns."""

import time
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from groupconv.convolution.dtypes import types_of
from groupconv.convolution.steps import Step
from groupconv_server.coordinator.coordinator import Coordinator
from groupconv_server.coordinator.resident import ResidentStep
from groupconv_server.layers.catalogue import catalogue
from groupconv_server.planner import Cut, PlannedChain, Planner
from groupconv_worker.contract import Problem

F32 = np.dtype("float32")
TWO = [Cut(group=2), Cut(batch=2), Cut(filter=2), Cut(space=(2, 1)), Cut(space=(1, 2))]
"""The cuts in two."""
Plan = tuple[PlannedChain, ...]


def request(name: str, batch: int, *, resident: bool = False) -> tuple[Any, list[Step], Problem]:
    """Arrays, steps and symbols of a layer; resident ones are prepared once, and tuned, by the workers."""
    layer = catalogue()[name]
    _, w, b = layer.arrays()
    problem = Problem(layer.geometry.with_batch(batch), types_of(F32, F32))
    x = np.random.default_rng(0).standard_normal(problem.geometry.input_shape, dtype=np.float32)
    return x, [ResidentStep(w, b, layer.spec, name) if resident else Step(w, b, layer.spec)], problem


def forced(coordinator: Coordinator, problem: Problem, cut: Cut) -> Plan | None:
    """The layer under one cut."""
    return Planner().forced((problem,), coordinator.executor.workers(), [(1, cut)])


def plans(coordinator: Coordinator, problem: Problem) -> dict[str, Plan]:
    """The layer under every cut in two that it has."""
    found = {cut.words(2): forced(coordinator, problem, cut) for cut in TWO}
    return {words: planned for words, planned in found.items() if planned}


def run_of(coordinator: Coordinator, planned: Plan, x: Any, steps: list[Step]) -> Callable[[], object]:
    """A run as planned; the planner does not learn from it."""
    deaf = Coordinator(coordinator.executor)
    call = deaf.compile(x.shape, x.dtype, steps)
    return lambda: deaf.run_plan(planned, x, call)


def measure(runs: Mapping[str, Callable[[], object]], rounds: int, *, twice: bool = True) -> Any:
    """Seconds (rounds, runs), in turns.

    Args:
        runs: what is compared.
        rounds: those that count; one before them warms up.
        twice: each runs twice in its turn and the second time counts: the first finds the caches full of what another
            one used.
    """
    taken = np.empty((rounds + 1, len(runs)))
    for turn in taken:
        for i, run in enumerate(runs.values()):
            if twice:
                run()
            start = time.perf_counter()
            run()
            turn[i] = time.perf_counter() - start
    return taken[1:]
