"""Reductions: sums, extremes and their places over some axes.

Source: the ONNX operators.
"""

from collections.abc import Callable
from typing import Any

import numpy as np

from groupconv_worker.graph.operators.call import Call, Definition


def _reduction(function: Callable[[Any, tuple[int, ...], bool], Any]) -> Definition:
    def reduced(call: Call) -> Any:
        rank = call.x.ndim
        axes = tuple(int(axis) % rank for axis in np.atleast_1d(call.option("axes", 1, ())))
        if not axes and call.attribute("noop_with_empty_axes", 0):
            return function(call.x[None], (0,), False)  # each element is a sum of its own
        return function(call.x, axes or tuple(range(rank)), bool(call.attribute("keepdims", 1)))

    return reduced


def _extreme(function: Any, empty: float) -> Callable[[Any, tuple[int, ...], bool], Any]:
    """A maximum or minimum. That of nothing is infinite, or for bools what changes no other."""

    def found(x: Any, axes: tuple[int, ...], keep: bool) -> Any:
        nothing = {"f": empty, "b": empty > 0}.get(x.dtype.kind)
        return function(x, axes, keepdims=keep, **({} if nothing is None else {"initial": nothing}))

    return found


def _arg(function: Any) -> Definition:
    def found(call: Call) -> Any:
        axis = call.attribute("axis", 0) % call.x.ndim
        if call.attribute("select_last_index", 0):
            place = call.x.shape[axis] - 1 - function(np.flip(call.x, axis), axis)
        else:
            place = function(call.x, axis)
        return np.expand_dims(place, axis) if call.attribute("keepdims", 1) else place

    return found


def _cumulative(call: Call) -> Any:
    axis, backwards = int(np.squeeze(call.option("axis", 1))), call.attribute("reverse", 0)
    x = np.flip(call.x, axis) if backwards else call.x
    total = np.cumsum(x, axis, dtype=x.dtype)
    if call.attribute("exclusive", 0):
        total -= x
    return np.flip(total, axis) if backwards else total


REDUCTIONS: dict[str, Definition] = {
    "ArgMax": _arg(np.argmax),
    "ArgMin": _arg(np.argmin),
    "CumSum": _cumulative,
    "ReduceL1": _reduction(lambda x, axes, keep: np.abs(x).sum(axes, keepdims=keep, dtype=x.dtype)),
    "ReduceL2": _reduction(lambda x, axes, keep: np.sqrt((x**2).sum(axes, keepdims=keep))),
    "ReduceLogSum": _reduction(lambda x, axes, keep: np.log(x.sum(axes, keepdims=keep))),
    "ReduceLogSumExp": _reduction(lambda x, axes, keep: np.log(np.exp(x).sum(axes, keepdims=keep))),
    "ReduceMax": _reduction(_extreme(np.max, -np.inf)),
    "ReduceMean": _reduction(lambda x, axes, keep: x.mean(axes, keepdims=keep)),
    "ReduceMin": _reduction(_extreme(np.min, np.inf)),
    "ReduceProd": _reduction(lambda x, axes, keep: x.prod(axes, keepdims=keep, dtype=x.dtype)),
    "ReduceSum": _reduction(lambda x, axes, keep: x.sum(axes, keepdims=keep, dtype=x.dtype)),
    "ReduceSumSquare": _reduction(lambda x, axes, keep: (x**2).sum(axes, keepdims=keep, dtype=x.dtype)),
}
