"""Tasks for executors and lanes: each is one step, whole."""

import numpy as np

from groupconv import ConvSpec
from groupconv.convolution.dtypes import types_of
from groupconv.convolution.geometry import resolve
from groupconv_server.executors import Task
from groupconv_worker.contract import Problem
from groupconv_worker.shard import Stage


def task_of(x, w, bias=None, spec=None, key=None, worker="w"):
    """A task whose output is not yet what it will be."""
    problem = Problem(resolve(spec or ConvSpec(), x.shape, w.shape), types_of(x.dtype, w.dtype))
    out = np.full(problem.geometry.output_shape, 99).astype(problem.types.output)
    return Task(0, worker, (Stage(problem, w, bias, key),), x, out)


def small_task(key=None, size=8, worker="w"):
    """Sums of three neighbours: of the first channel 3, 6, 9, …"""
    x, w = np.arange(2.0 * size).reshape(1, 2, size), np.ones((2, 1, 3))
    return task_of(x, w, spec=ConvSpec(groups=2), key=key, worker=worker)
