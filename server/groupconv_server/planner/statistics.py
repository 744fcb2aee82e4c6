"""Measurements for the planner: the histories of chains (history.py), and which workers are faster.

No data of requests is kept. Of a worker there is an exponential average of its speed relative to the others of the same
request, which is what shares follow.
"""

import math
import threading
from collections import OrderedDict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

from groupconv_server.planner.history import WEIGHT, History
from groupconv_server.planner.rates import Rates, class_of
from groupconv_worker.contract import Problem

Chain = tuple[Problem, ...]

SHAPES = 4096
"""Chains remembered. The chain whose plan is oldest leaves."""
UNEQUAL = 0.25
"""Shares follow a worker's speed when it has changed by more."""


@dataclass(slots=True)
class Statistics:
    """Rates of the workers and histories of chains. Safe to use from several threads.

    Attributes:
        default: rates of a worker that was not measured.
        version: changes when plans made before may no longer be the best.
        unknown: indices in `rates.CLASSES` of those that no worker was measured for yet, so that cuts cannot be judged.
    """

    default: Rates = field(default_factory=Rates)
    version: int = 0
    unknown: frozenset[int] = frozenset()
    _rates: dict[str, Rates] = field(default_factory=dict)
    _speeds: dict[str, float] = field(default_factory=dict)
    _used: dict[str, float] = field(default_factory=dict)
    _histories: OrderedDict[tuple[Chain, int], History] = field(default_factory=OrderedDict)
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def calibrated(self, rates: Mapping[str, Rates], unknown: frozenset[int] = frozenset()) -> None:
        """Take measured rates, and forget all that was learned of these workers before.

        Args:
            rates: by worker.
            unknown: indices of the classes that were not measured yet.
        """
        with self._lock:
            self.unknown = unknown
            self._rates.update(rates)
            for worker in rates:
                self._speeds.pop(worker, None)
                self._used.pop(worker, None)
            self._histories.clear()
            self.version += 1

    def can_judge(self, problems: Iterable[Problem]) -> bool:
        """Whether the classes of all these problems were measured."""
        return not self.unknown or all(class_of(problem.geometry) not in self.unknown for problem in problems)

    def joined(self, worker: str, rates: Rates) -> None:
        """Take the measured rates of one more worker. All that was learned of the others stays."""
        with self._lock:
            self._rates[worker] = rates
            self.version += 1

    def known(self) -> dict[str, Rates]:
        """The rates of the workers that were measured."""
        with self._lock:
            return dict(self._rates)

    def rates(self, worker: str) -> Rates:
        """The rates of a worker: as calibrated, times the speed it has shown since."""
        with self._lock:
            measured = self._rates.get(worker) or next(iter(self._rates.values()), self.default)
            speed = self._used.get(worker, 1.0)
        return measured if speed == 1.0 else measured.faster(speed)

    def history(self, chain: Chain, workers: int) -> History:
        """The history of a chain on so many workers."""
        with self._lock:
            history = self._histories.setdefault((chain, workers), History())
            self._histories.move_to_end((chain, workers))
            while len(self._histories) > SHAPES:
                self._histories.popitem(last=False)
            return history

    def observe_workers(self, workers: Sequence[str], predicted: Iterable[float], measured: Iterable[float]) -> None:
        """Learn how fast workers are from shards of one chain that ran at once.

        Args:
            workers: of each shard.
            predicted: seconds of each in the engine, as planned.
            measured: the seconds that it took.
        """
        ran = list(zip(workers, predicted, measured, strict=True))
        if len(ran) < 2 or any(predicted <= 0 or measured <= 0 for _, predicted, measured in ran):
            return
        logs = [math.log(predicted / measured) for _, predicted, measured in ran]
        mean = sum(logs) / len(logs)
        with self._lock:
            for (worker, _, _), log in zip(ran, logs, strict=True):
                known = self._used.get(worker, 1.0)  # predictions were made with it
                speed = self._speeds.get(worker, known)
                shown = known * math.exp(max(-1.0, min(1.0, log - mean)))
                speed *= (shown / speed) ** WEIGHT
                self._speeds[worker] = speed
                if abs(math.log(speed / known)) > UNEQUAL:
                    self._used[worker] = speed
                    self.version += 1
