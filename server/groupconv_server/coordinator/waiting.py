"""A queue entry: a request that waits for a worker, and which others may join it."""

import threading
from collections.abc import Callable, Sequence
from contextvars import Context, copy_context
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from groupconv.convolution.steps import Result, Step
from groupconv_server.coordinator.compiled import CompiledCall
from groupconv_server.coordinator.resident import ResidentStep
from groupconv_worker.contract import Array
from groupconv_worker.job import Job


@dataclass(eq=False, slots=True)
class QueueEntry:
    """A request that waits, and its outcome.

    Attributes:
        x: (N, C, *spatial).
        call: of the request.
        alone: runs the request by itself.
        key: equal for requests that may be joined.
        rank: the entry of the least rank goes first.
        job: of the request.
        context: of its thread, for traces.
        woken: locked while it waits.
        result: its answer, or its part of a joined run's; None if that run failed.
        joined: whether the result is a part of a joined run's.
        errors: why there is no answer: one, or none.
    """

    x: Array
    call: CompiledCall
    alone: Callable[[], Result]
    key: tuple[Any, ...]
    rank: tuple[float, int]
    job: Job
    context: Context = field(default_factory=copy_context)
    woken: threading.Lock = field(default_factory=threading.Lock)
    result: Result | None = None
    joined: bool = False
    errors: list[BaseException] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.woken.acquire()


def key_of(x: Array, call: CompiledCall) -> tuple[Any, ...]:
    """Equal for requests that can be joined, if their kernels are the same."""
    first, alike = call.steps[0], (x.shape[1:], x.dtype, call.reordering, call.cut)
    if isinstance(first, ResidentStep):
        return *alike, first.layer, first.version, first.spec.exact, first.spec.math
    return *alike, tuple((s.spec, s.kernel.shape, s.kernel.dtype) for s in call.steps)


def same_weights(steps: Sequence[Step], others: Sequence[Step]) -> bool:
    """Whether steps of equal keys have the same kernels and biases, to the bit."""
    if steps is others or isinstance(steps[0], ResidentStep):
        return True
    pairs = [(getattr(a, n), getattr(b, n)) for a, b in zip(steps, others, strict=True) for n in ("kernel", "bias")]
    return all(a is b or (a is not None and b is not None and _bits(a) == _bits(b)) for a, b in pairs)


def _bits(array: Array) -> memoryview:
    return np.ascontiguousarray(array).reshape(-1).view(np.uint8).data
