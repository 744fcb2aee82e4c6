"""Counts and times of this protocol's requests for each layer, as perf_analyzer and monitoring read them."""

import copy
import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from weakref import WeakKeyDictionary

from groupconv.convolution.report import Report
from groupconv_server.inference.v2 import statistics_pb2
from groupconv_server.layers.version import Version

MAX_SIZES = 64
"""Batch sizes counted one by one for each layer. Clients choose them, so their number is bounded."""


@dataclass(slots=True)
class PhaseTimes:
    """Seconds that a request spent in each phase, or sums over requests.

    Attributes:
        count: of requests; in sums by batch size, of runs.
        samples: of the requests.
        total: from a request's arrival to its answer.
        queue: waiting for a worker.
        read: decoding the input.
        infer: computing.
        write: encoding the output.
    """

    count: float = 0
    samples: float = 0
    total: float = 0.0
    queue: float = 0.0
    read: float = 0.0
    infer: float = 0.0
    write: float = 0.0

    def add(self, other: "PhaseTimes", share: float = 1.0) -> None:
        """Add a share of another record's times."""
        self.count += share * other.count
        self.samples += share * other.samples
        self.total += share * other.total
        self.queue += share * other.queue
        self.read += share * other.read
        self.infer += share * other.infer
        self.write += share * other.write


@dataclass(slots=True)
class Record:
    """The counts and times of one layer version.

    Attributes:
        answered: sums over the answered requests.
        runs: a run that answered several requests counts once.
        by_batch: sums over runs, by batch size.
        failed: sums over the failed requests.
        last: when the last request ended, by time.time().
    """

    answered: PhaseTimes = field(default_factory=PhaseTimes)
    runs: float = 0.0
    by_batch: dict[int, PhaseTimes] = field(default_factory=dict)
    failed: PhaseTimes = field(default_factory=PhaseTimes)
    last: float = 0.0

    def add(self, other: "Record") -> None:
        """Add the sums of another record."""
        self.answered.add(other.answered)
        self.failed.add(other.failed)
        self.runs += other.runs
        self.last = max(self.last, other.last)
        for size, phases in other.by_batch.items():
            self.by_batch.setdefault(size, PhaseTimes()).add(phases)


class ModelStatistics:
    """The records of all layer versions that exist. Safe to use from several threads."""

    def __init__(self) -> None:
        self._records: WeakKeyDictionary[Version, Record] = WeakKeyDictionary()
        self._lock = threading.Lock()

    def answered(self, layer: Version, phases: PhaseTimes, batch: int) -> None:
        """Count an answered request; `batch` is the number of samples in its run."""
        share = phases.samples / max(1, batch)  # an empty batch has no run
        with self._lock:
            record = self._records.setdefault(layer, Record())
            record.last = time.time()
            record.answered.add(phases)
            record.runs += share
            if batch in record.by_batch or len(record.by_batch) < MAX_SIZES:
                record.by_batch.setdefault(batch, PhaseTimes()).add(phases, share)

    def failed(self, layer: Version, seconds: float) -> None:
        """Count a failed request."""
        with self._lock:
            record = self._records.setdefault(layer, Record())
            record.last = time.time()
            record.failed.add(PhaseTimes(count=1, total=seconds))

    def message(self, layers: Sequence[Version]) -> statistics_pb2.ModelStatisticsResponse:
        """The records of `layers` as a message."""
        return statistics_pb2.ModelStatisticsResponse(model_stats=map(_message, layers, self.records(layers)))

    def records(self, layers: Sequence[Version]) -> list[Record]:
        """The record of each layer."""
        with self._lock:
            return [copy.deepcopy(self._records.get(layer, Record())) for layer in layers]


def phases_of(samples: int, total: float, read: float, write: float, report: Report) -> PhaseTimes:
    """The phases of an answered request.

    Args:
        samples: of the request.
        total: seconds from its arrival to its answer.
        read: seconds to decode the input.
        write: seconds to encode the output.
        report: of its convolution. A shard's seconds beyond its computation count as waiting for the worker.
    """
    first = report.steps[0] if report.steps else ()  # an empty batch has no run
    queue = max([0.0, *(s.seconds - s.compute_seconds for s in first)])
    waited = report.phases.get("queue", 0.0)
    ran = report.phases.get("execute", 0.0) + report.phases.get("merge", 0.0)
    return PhaseTimes(1, samples, total, waited + queue, read, max(0.0, ran - queue), write)


def _message(layer: Version, record: Record) -> statistics_pb2.ModelStatistics:
    done = record.answered
    timed = ("queue", "read", "infer", "write")
    queue, read, infer, write = (_duration(done.count, getattr(done, name)) for name in timed)
    return statistics_pb2.ModelStatistics(
        name=layer.name,
        version=str(layer.version),
        last_inference=int(record.last * 1e3),
        inference_count=round(done.samples),
        execution_count=round(record.runs),
        inference_stats=statistics_pb2.InferStatistics(
            success=_duration(done.count, done.total),
            fail=_duration(record.failed.count, record.failed.total),
            queue=queue,
            compute_input=read,
            compute_infer=infer,
            compute_output=write,
        ),
        batch_stats=[
            statistics_pb2.InferBatchStatistics(
                batch_size=size,
                compute_input=_duration(p.count, p.read),
                compute_infer=_duration(p.count, p.infer),
                compute_output=_duration(p.count, p.write),
            )
            for size, p in sorted(record.by_batch.items())
        ],
        memory_usage=[statistics_pb2.MemoryUsage(type="CPU", byte_size=layer.bytes)],
    )


def _duration(count: float, seconds: float) -> statistics_pb2.StatisticDuration:
    return statistics_pb2.StatisticDuration(count=round(count), ns=int(seconds * 1e9))
