"""A job that is over lets go of its worker, whatever computes it."""

import threading
import time
import weakref
from contextlib import suppress

import numpy as np
import pytest

from groupconv import ConvSpec, resolve
from groupconv.convolution.dtypes import DTYPES, types_of
from groupconv.errors import CancelledError, DeadlineExceededError, UnavailableError
from groupconv_worker.contract import Problem
from groupconv_worker.cpu.engine import CpuEngine
from groupconv_worker.job import PROMPT, Job, current
from groupconv_worker.reference import ReferenceEngine
from waiting import until

LONG = {
    "direct": (ConvSpec(padding=30), (1, 64, 192, 192), (64, 64, 61, 61), "int32"),
    "direct, one row": (ConvSpec(), (1, 4, 2_000_000), (8, 4, 2000), "int32"),
    "direct, many samples": (ConvSpec(padding=3), (2_000, 64, 24, 24), (64, 64, 7, 7), "int32"),
    "direct, phases": (ConvSpec(transposed=True, stride=2), (64, 64, 200, 200), (64, 64, 15, 15), "float32"),
    "cells": (ConvSpec(transposed=True), (400_000, 512, 2, 2), (512, 256, 4, 4), "float32"),
    "grouped": (ConvSpec(groups=64, padding=3), (400, 64, 300, 300), (64, 1, 7, 7), "float32"),
    "winograd": (ConvSpec(padding=1), (64, 256, 200, 200), (256, 256, 3, 3), "float32"),
    "separable": (ConvSpec(groups=64, padding=15), (200, 64, 300, 300), (64, 1, 31, 31), "float64"),
    "fft": (ConvSpec(padding=30), (64, 4, 700, 700), (1, 4, 61, 61), "float64"),
    "onnxruntime": (ConvSpec(), (2_000, 64, 40, 40), (64, 64, 9, 9), "float32"),
    "gemm": (ConvSpec(), (64, 64, 24, 24, 24), (64, 64, 7, 7, 7), "float32"),
    "gemm of integers": (ConvSpec(), (64, 64, 24, 24, 24), (64, 64, 7, 7, 7), "int8"),
    "gemm, transposed": (ConvSpec(transposed=True, stride=2), (64, 64, 20, 20, 20), (64, 64, 7, 7, 7), "float64"),
    "gemm by taps": (ConvSpec(stride=9000, padding=9000), (1, 4, 40, 40), (400, 4, 300, 300), "int32"),
    "reference": (ConvSpec(padding=1), (8, 64, 100, 100), (64, 64, 3, 3), "float32"),
}
"""Each takes many seconds."""


def made(name, threads=1):
    spec, x_shape, w_shape, dtype = LONG[name]
    types = types_of(DTYPES[dtype], DTYPES[dtype])
    problem = Problem(resolve(spec, x_shape, w_shape), types)
    # one sample stands for all of them: the memory of a long test stays small
    x = np.broadcast_to(np.ones((1, *x_shape[1:]), dtype), x_shape)
    y = np.lib.stride_tricks.as_strided(
        np.empty((1, *problem.geometry.output_shape[1:]), types.output),
        problem.geometry.output_shape,
        (0, *np.empty(problem.geometry.output_shape[1:], types.output).strides),
    )
    w = np.ones(w_shape, dtype)
    engine = ReferenceEngine() if name == "reference" else CpuEngine(threads=threads)
    algorithm = name.split()[0].strip(",")
    chosen = engine if name == "reference" else getattr(engine, "onnx" if algorithm == "onnxruntime" else algorithm)
    return engine, chosen, problem, x, w, y


@pytest.mark.parametrize("threads", [1, 2])
@pytest.mark.parametrize("name", LONG)
def test_every_algorithm_stops_when_its_job_is_over(name, threads):
    engine, algorithm, problem, x, w, y = made(name, threads)
    assert name == "reference" or algorithm.supports(problem)
    job, begun, ended = Job(), threading.Event(), threading.Event()

    def work():
        with job:
            prepared = algorithm.prepare(problem, w, None, resident=False)
            begun.set()
            prepared.run(x, y)

    def run():
        with pytest.raises(CancelledError):
            work()
        ended.set()

    thread = threading.Thread(target=run)
    thread.start()
    assert begun.wait(100)
    start = time.process_time()
    until(lambda: ended.is_set() or time.process_time() > start + 0.1)
    assert not ended.is_set(), "it is too short to tell anything"
    stopped = time.process_time()
    job.stop(CancelledError("enough"))
    assert ended.wait(100)
    engine.close()
    # with much room, for threads and for what else this process does; computing on takes many seconds
    assert time.process_time() - stopped < 10 * threads * PROMPT


def test_a_deadline_and_a_caller_who_has_gone_end_a_job_by_themselves():
    gone = threading.Event()
    for job, error in (
        (Job(time.monotonic() + 0.05), DeadlineExceededError),
        (Job(alive=lambda: not gone.is_set()), CancelledError),
    ):
        with job:
            gone.set()
            until(lambda job=job: job.over)
            with pytest.raises(error):
                current().check()
        current().check()


def test_one_caller_who_cannot_be_asked_keeps_no_other_job_going():
    def broken():
        raise RuntimeError("a transport that is closed")

    entered = threading.Event()

    def other():
        with Job(alive=broken) as job:
            entered.set()
            until(lambda: done.is_set())
            assert not job.over

    done = threading.Event()
    thread = threading.Thread(target=other)
    thread.start()
    assert entered.wait(60)
    with Job(time.monotonic() + 0.05) as job:
        until(lambda: job.over)
    done.set()
    thread.join(60)


def test_a_job_within_a_job_comes_back_to_the_outer_one():
    outer, inner = Job(), Job()
    with outer:
        with inner, outer:
            assert current() is outer
        assert current() is outer
    assert current() is not outer


def test_the_first_reason_counts():
    job = Job(time.monotonic() - 1)
    job.stop(UnavailableError("the server is stopping"))
    assert job.poll()
    with pytest.raises(UnavailableError):
        job.check()


def test_a_job_that_is_over_keeps_nothing_of_those_who_were_in_it(without_collector):
    job, arrays = Job(), []

    def work():
        x = np.empty(8)
        arrays.append(weakref.ref(x))
        current().check()

    job.stop(CancelledError("the caller has gone"))
    for _ in range(2):
        with suppress(CancelledError), job:
            work()
    assert [array() for array in arrays] == [None, None]


def test_a_job_that_is_over_before_it_begins_prepares_nothing():
    engine, algorithm, problem, _, w, _ = made("direct")
    job = Job()
    job.stop(CancelledError("gone"))
    with job, pytest.raises(CancelledError):
        algorithm.prepare(problem, w, None, resident=True)
    engine.close()
