"""cuFFT as far as the engine uses it through CuPy, by NumPy, on the current stream."""

import threading
from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any

import numpy as np

from emulation.memory import ALLOCATOR, MemoryPool, empty, ndarray
from emulation.streams import current


class _Plan:
    """Memory that a transform uses: a work area of CuPy's, and what cuFFT itself has for as long as the plan lives."""

    def __init__(self) -> None:
        assert not current().is_capturing(), "a plan that is made while capturing dies with the thread's cache"
        self.work_area, self.own = ALLOCATOR.malloc(64), MemoryPool().malloc(64)


class _PlanCache(threading.local):
    def __init__(self) -> None:
        self._plans: dict[Any, _Plan] = {}

    def __iter__(self) -> Iterator[tuple[Any, Any]]:
        for key, plan in self._plans.items():
            yield key, SimpleNamespace(plan=plan)

    def __delitem__(self, key: Any) -> None:
        del self._plans[key]

    def plan(self, *key: Any) -> _Plan:
        if key not in self._plans:
            self._plans[key] = _Plan()
        return self._plans[key]


PLANS = _PlanCache()


def rfftn(x: ndarray, s: tuple[int, ...], axes: tuple[int, ...]) -> ndarray:
    shape = (*x.shape[: -len(s)], *s[:-1], s[-1] // 2 + 1)
    return _transform(np.fft.rfftn, x, s, axes, shape, np.result_type(x.dtype, np.complex64))


def irfftn(x: ndarray, s: tuple[int, ...], axes: tuple[int, ...]) -> ndarray:
    return _transform(np.fft.irfftn, x, s, axes, (*x.shape[: -len(s)], *s), np.dtype(x.dtype.char.lower()))


def _transform(by: Any, x: ndarray, s: tuple[int, ...], axes: tuple[int, ...], shape: Any, dtype: np.dtype) -> ndarray:
    """CuPy transforms axis by axis what is contiguous in both orders, and then leaves the first of them innermost."""
    order = list(range(len(shape)))
    if len(axes) > 1 and x.host.flags.f_contiguous:
        order.append(order.pop(axes[0]))
    result = empty(tuple(shape[i] for i in order), dtype).transpose(tuple(np.argsort(order)))
    plan, source, target = PLANS.plan(by, x.shape, s, axes, x.dtype), x.host, result.host

    def run() -> None:
        with np.errstate(all="ignore"):
            target[...] = by(source, s=s, axes=axes)

    current().enqueue(run, x.data.ptr, result.data.ptr, plan.work_area.ptr, plan.own.ptr)
    return result


fft = SimpleNamespace(rfftn=rfftn, irfftn=irfftn, config=SimpleNamespace(get_plan_cache=lambda: PLANS))
