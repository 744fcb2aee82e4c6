"""What layers did for requests of this protocol, as perf_analyzer and monitoring read it."""

import threading
import time
from collections.abc import Iterable
from dataclasses import dataclass, field
from weakref import WeakKeyDictionary

from groupconv.convolution.plan import Report
from groupconv_server.inference.v2 import statistics_pb2
from groupconv_server.layers.version import LayerVersion

MAX_SIZES = 64
"""Sizes of batches told apart: clients choose them."""


@dataclass(slots=True)
class PhaseTimes:
    """Seconds of one request in each phase of it, or their sums.

    Attributes:
        count: requests; in sums by batch, runs.
        samples: in them.
        total: from a request's arrival to its answer.
        queue: waiting for a worker.
        read: making an array of the input.
        infer: computing.
        write: making bytes of the output.
    """

    count: float = 0
    samples: float = 0
    total: float = 0.0
    queue: float = 0.0
    read: float = 0.0
    infer: float = 0.0
    write: float = 0.0

    def add(self, other: "PhaseTimes", share: float = 1.0) -> None:
        """Sums; of the other a share."""
        for name in self.__slots__:
            setattr(self, name, getattr(self, name) + share * getattr(other, name))


@dataclass(slots=True)
class Record:
    """One version's sums: of the requests answered, in all and by batch; of those that failed; when the last came.

    A run that answered several requests counts as one, in `runs` and by its batch.
    """

    answered: PhaseTimes = field(default_factory=PhaseTimes)
    runs: float = 0.0
    by_batch: dict[int, PhaseTimes] = field(default_factory=dict)
    failed: PhaseTimes = field(default_factory=PhaseTimes)
    last: float = 0.0


class ModelStatistics:
    """Records of layers, as long as their versions live. Safe to use from several threads."""

    def __init__(self) -> None:
        self._records: WeakKeyDictionary[LayerVersion, Record] = WeakKeyDictionary()
        self._lock = threading.Lock()

    def answered(self, layer: LayerVersion, phases: PhaseTimes, batch: int) -> None:
        """Count a request that was answered, by a run of a batch of so many samples."""
        share = phases.samples / max(1, batch)  # of an empty batch nothing runs
        with self._lock:
            record = self._records.setdefault(layer, Record())
            record.last = time.time()
            record.answered.add(phases)
            record.runs += share
            if batch in record.by_batch or len(record.by_batch) < MAX_SIZES:
                record.by_batch.setdefault(batch, PhaseTimes()).add(phases, share)

    def failed(self, layer: LayerVersion, seconds: float) -> None:
        """Count one that failed."""
        with self._lock:
            record = self._records.setdefault(layer, Record())
            record.last = time.time()
            record.failed.add(PhaseTimes(count=1, total=seconds))

    def message(self, layers: Iterable[LayerVersion]) -> statistics_pb2.ModelStatisticsResponse:
        """The records of some layers as the protocol has them."""
        with self._lock:
            return statistics_pb2.ModelStatisticsResponse(
                model_stats=[_message(layer, self._records.get(layer, Record())) for layer in layers]
            )


def phases_of(samples: int, total: float, read: float, write: float, report: Report) -> PhaseTimes:
    """The phases of a request that was answered.

    Args:
        samples: in it.
        total: seconds from its arrival to its answer.
        read: seconds of its input.
        write: seconds of its output.
        report: of its convolution; what a shard took beyond its computation it waited for its worker.
    """
    first = report.steps[0] if report.steps else ()  # of an empty batch nothing runs
    queue = max([0.0, *(s.seconds - s.compute_seconds for s in first)])
    waited = report.phases.get("queue", 0.0)
    ran = report.phases.get("execute", 0.0) + report.phases.get("merge", 0.0)
    return PhaseTimes(1, samples, total, waited + queue, read, max(0.0, ran - queue), write)


def _message(layer: LayerVersion, record: Record) -> statistics_pb2.ModelStatistics:
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
