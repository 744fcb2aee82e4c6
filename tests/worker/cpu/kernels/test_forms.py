"""Forms of kernels: how many are compiled, by whom, and that what lacks one is computed all the same."""

import os
import subprocess
import sys
import threading
from collections.abc import Callable

import pytest

from groupconv_worker.cpu.kernels.forms import Forms, NotCompiledError, check_compile, deferred


class Kernel:
    """A kernel of a set of forms, which notes who compiled what; forms in `disk` need no compiling."""

    def __init__(self, forms: Forms, disk: set[int] | None = None) -> None:
        self.compiled: list[tuple[int, str]] = []
        self.get: Callable[[int], int] = forms.kernel(self._make)
        self._disk, self._forms = disk or set(), forms

    def _make(self, key: int) -> int:
        if key not in self._disk:
            check_compile()
        self.compiled.append((key, threading.current_thread().name))
        return 1000 + key

    def wait(self) -> None:
        thread = self._forms._thread
        if thread is not None:
            thread.join()


def test_who_may_wait_compiles_a_form_once():
    kernel = Kernel(Forms())
    assert [kernel.get(1), kernel.get(2), kernel.get(1)] == [1001, 1002, 1001]
    assert [key for key, _ in kernel.compiled] == [1, 2]


def test_what_was_asked_for_once_is_not_compiled_for_a_request():
    kernel = Kernel(Forms())
    with deferred():
        for key in range(1000):
            with pytest.raises(NotCompiledError):
                kernel.get(key)
    kernel.wait()
    assert kernel.compiled == []


def test_what_is_asked_for_again_is_compiled_in_another_thread():
    kernel = Kernel(Forms())
    with deferred():
        for _ in range(2):
            with pytest.raises(NotCompiledError):
                kernel.get(1)
        kernel.wait()
        assert kernel.get(1) == 1001
    assert kernel.compiled == [(1, "compiler")]


def test_a_form_on_disk_is_loaded_by_the_first_request():
    kernel = Kernel(Forms(), disk={1})
    with deferred():
        assert kernel.get(1) == 1001


def test_of_two_that_are_wanted_at_once_one_is_compiled_and_nobody_waits():
    kernel, begin, go_on = Kernel(Forms()), threading.Event(), threading.Event()
    make = kernel._make

    def slow(key: int) -> int:
        check_compile()
        begin.set()
        go_on.wait()
        return make(key)

    kernel.get = kernel._forms.kernel(slow)
    with deferred():
        for _ in range(2):
            with pytest.raises(NotCompiledError):
                kernel.get(1)
        begin.wait()
        for _ in range(5):
            with pytest.raises(NotCompiledError):
                kernel.get(2)
        go_on.set()
        kernel.wait()
        assert kernel.get(1) == 1001
    assert [key for key, _ in kernel.compiled] == [1]


def test_there_are_no_more_forms_than_the_limit():
    kernel = Kernel(Forms(limit=3))
    made = [kernel.get(key) for key in range(3)]
    with pytest.raises(NotCompiledError):
        kernel.get(3)
    assert [kernel.get(key) for key in range(3)] == made


SERVE = """
import numpy as np
from groupconv import ConvSpec, resolve
from groupconv.convolution.dtypes import types_of
from groupconv_worker.contract import Problem
from groupconv_worker.cpu.kernels.forms import FORMS
from groupconv_worker.job import Job
from groupconv_worker.reference import convolve
from groupconv_worker.runtime import WorkerRuntime
from groupconv_worker.shard import Stage

runtime, rng, seen = WorkerRuntime("cpu", 1, 2**20), np.random.default_rng(0), []
for kernel, dtype in ((2, "float32"), *[(3, "float32")] * 3, *[(4, "float64")] * 3):
    x = rng.standard_normal((1, 4, 20, 30)).astype(dtype)
    w = rng.standard_normal((4, 1, kernel, kernel)).astype(dtype)
    problem = Problem(resolve(ConvSpec(groups=4), x.shape, w.shape), types_of(x.dtype, w.dtype))
    out = np.empty(problem.geometry.output_shape, dtype)
    stages = [Stage(problem, w)]
    (ran,) = runtime.run(stages, x, out, Job())
    if FORMS._thread:
        FORMS._thread.join()
    np.testing.assert_allclose(out, convolve(x, w, None, problem.geometry), rtol=1e-4, atol=1e-4)
    seen.append(ran.algorithm)
print(FORMS.count, *seen)
"""


def test_a_worker_answers_before_a_form_is_compiled_and_beyond_the_limit(tmp_path):
    """One form may be compiled: that of the 3 x 3 kernel, which comes three times before the next one does."""
    environment = {**os.environ, "NUMBA_CACHE_DIR": str(tmp_path), "GROUPCONV_KERNEL_FORMS": "1"}
    done = subprocess.run(
        [sys.executable, "-c", SERVE], env=environment, check=True, timeout=300, stdout=subprocess.PIPE, text=True
    )
    general = "onnxruntime"
    assert done.stdout.split() == ["1", general, general, general, "grouped", "gemm", "gemm", "gemm"]
