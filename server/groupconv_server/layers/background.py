"""Work while no request runs: measuring the workers, and compiling kernels ahead of requests."""

import logging
import math
import threading
from collections.abc import Callable

import numpy as np

from groupconv.convolution import cost
from groupconv.convolution.dtypes import types_of
from groupconv.errors import GroupconvError
from groupconv_server.coordinator.calibration import calibrate_workers
from groupconv_server.coordinator.coordinator import Coordinator
from groupconv_server.executors.task import Task
from groupconv_server.layers.catalogue import catalogue
from groupconv_worker.contract import Problem
from groupconv_worker.shard import Stage

log = logging.getLogger(__name__)

PAUSE = 2.0
"""Seconds before the workers are measured, in which kernels are compiled; each time longer, up to LONGEST_PAUSE."""
LONGEST_PAUSE = 60.0
QUIET = 0.05
"""Seconds between two looks whether a request runs."""
LARGEST = 5e8
"""Multiply-adds of a layer above which it is not run ahead of requests: it would be in their way."""


class Background:
    """Threads beside a server that give way to its requests.

    Args:
        coordinator: of the server.
    """

    def __init__(self, coordinator: Coordinator) -> None:
        self.coordinator = coordinator
        self._stop = threading.Event()
        self._threads: list[threading.Thread] = []

    def measure(self) -> None:
        """Measure the workers until every class is known; begins now, in a thread."""
        self._begin(self._measure)

    def compile_catalogue(self) -> None:
        """Have every worker load or compile the kernels of the catalogue; begins now, in a thread."""
        self._begin(self._compile_catalogue)

    def stop(self, interrupt: Callable[[], None] = lambda: None) -> None:
        """End the threads.

        Args:
            interrupt: called meanwhile, to end the shards that they wait for.
        """
        self._stop.set()
        interrupt()
        for thread in self._threads:
            thread.join()

    def wait(self) -> None:
        """Block until the threads have ended by themselves."""
        for thread in self._threads:
            thread.join()

    def _begin(self, work: Callable[[], None]) -> None:
        def run() -> None:
            try:
                work()
            except GroupconvError as error:
                if not self._stop.is_set():
                    log.warning("what was to be prepared ahead of requests is not: %s", error)

        self._threads.append(threading.Thread(target=run, name="background", daemon=True))
        self._threads[-1].start()

    def _measure(self) -> None:
        pause = PAUSE
        while not self._stop.wait(pause) and self._quiet():
            # a request ends it
            if self.coordinator.executor.workers() and calibrate_workers(self.coordinator, math.inf):
                return
            pause = min(1.5 * pause, LONGEST_PAUSE)

    def _quiet(self) -> bool:
        """Wait until no request runs; False if the server ends first."""
        while self.coordinator.running:
            if self._stop.wait(QUIET):
                return False
        return not self._stop.is_set()

    def _compile_catalogue(self) -> None:
        """Send each layer as a request would come, twice: what is asked for once is not compiled."""
        for worker in self.coordinator.executor.workers():
            for layer in catalogue().values():
                if cost.multiply_adds(layer.geometry) > LARGEST:
                    continue
                x, w, bias = layer.arrays()
                problem = Problem(layer.geometry, types_of(x.dtype, w.dtype, bias.dtype))
                out = np.empty(layer.geometry.output_shape, problem.types.output)
                for _ in range(2):
                    if not self._quiet():
                        return
                    self.coordinator.executor.run([Task(0, worker, (Stage(problem, w, bias),), x, out)])
