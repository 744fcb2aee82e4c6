"""Rates of workers."""

import numpy as np
import pytest

from groupconv.convolution.dtypes import types_of
from groupconv.convolution.geometry import resolve
from groupconv.convolution.spec import ConvSpec
from groupconv_server.planner.rates import CLASSES, Rates, class_of
from groupconv_worker.contract import Problem

F32 = np.dtype(np.float32)


@pytest.mark.parametrize(
    ("x", "w", "spec", "expected"),
    [
        ((1, 64, 9, 9), (8, 64, 3, 3), {}, "dense"),
        ((1, 64, 9, 9), (8, 64, 1, 1), {}, "pointwise"),
        ((1, 64, 9, 9), (64, 4, 3, 3), {"groups": 16}, "grouped"),
        ((1, 64, 9, 9), (64, 32, 3, 3), {"groups": 2}, "dense"),
        ((1, 64, 9, 9), (64, 1, 3, 3), {"groups": 64}, "depthwise"),
        ((1, 64, 9, 9), (64, 8, 3, 3), {"transposed": True}, "transposed"),
    ],
)
def test_classes_are_those_that_engines_treat_alike(x, w, spec, expected):
    assert CLASSES[class_of(resolve(ConvSpec(**spec), x, w))] == expected


def test_a_worker_twice_as_fast_takes_half_the_time():
    problem = Problem(resolve(ConvSpec(), (1, 64, 56, 56), (64, 64, 3, 3)), types_of(F32, F32))
    rates = Rates()
    assert rates.faster(2).compute_seconds(problem) == pytest.approx(rates.compute_seconds(problem) / 2)
    assert rates.faster(2).link == rates.link


def test_busy_workers_slow_each_other():
    rates = Rates(crowding=0.5)
    assert [rates.crowded(busy, 3) for busy in (1, 2, 3)] == [1.0, 1.25, 1.5]
    assert rates.crowded(1, 1) == 1.0
