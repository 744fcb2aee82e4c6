"""Measured choices of the cuda engine on disk: for what they hold, and when they are ignored."""

import json
import logging
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from emulation import emulated_engine, needs_compiler
from emulation.stand_in import as_cupy
from groupconv.convolution.dtypes import types_of
from groupconv.convolution.geometry import resolve
from groupconv.convolution.spec import Activation, ConvSpec
from groupconv_worker.contract import Problem
from groupconv_worker.cuda.choice import version_of
from groupconv_worker.cuda.engine import CudaEngine
from groupconv_worker.cuda.options import CudaOptions

pytestmark = needs_compiler
F32 = np.dtype(np.float32)


def problem_of(x_shape: Any, w_shape: Any, dtype: np.dtype = F32, **spec: Any) -> tuple[Problem, np.ndarray]:
    w = np.random.default_rng(0).standard_normal(w_shape).astype(dtype)
    return Problem(resolve(ConvSpec(**spec), x_shape, w_shape), types_of(dtype, dtype)), w


def test_a_choice_holds_for_its_kind_of_values_only(monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    """One without a bias has nothing for cuDNN to fuse, and a wide bias is another graph, with other plans."""
    monkeypatch.setenv("GROUPCONV_TUNE", "on")
    measured: list[str] = []

    def measure(_: Any, kernel: Any, __: Problem) -> float:
        measured.append(kernel.algorithm)
        return 1.0

    monkeypatch.setattr("groupconv_worker.cuda.engine.time_on_device", measure)
    half, path = np.dtype(np.float16), tmp_path / "cuda.json"
    plain, w = problem_of((2, 4, 6, 6), (4, 4, 3, 3), half)
    relu, _ = problem_of((2, 4, 6, 6), (4, 4, 3, 3), half, activation="relu")
    one, _ = problem_of((2, 4, 6, 6), (4, 4, 3, 3), half, activation=Activation("prelu", (0.25,)))
    many, _ = problem_of((2, 4, 6, 6), (4, 4, 3, 3), half, activation=Activation("prelu", (0.25, 0.5, 0.75, 1.0)))
    narrow, wide = np.full(4, 0.5, F32), np.full(4, 1 / 3, F32)
    deep, _ = problem_of((1, 3, 20, 20), (3, 1, 9, 9), groups=3)
    full = np.random.default_rng(1).standard_normal((3, 1, 9, 9), F32)
    values: list[tuple[Problem, np.ndarray, Any]] = [
        *((problem, w, bias) for problem in (plain, relu, one, many) for bias in (None, narrow, wide)),
        *((deep, kernels, bias) for kernels in (full, full[..., :1] * full[..., :1, :]) for bias in (None, narrow[:3])),
    ]
    for again in (False, True):  # the second engine measures nothing
        with as_cupy(with_cudnn=True):
            engine = CudaEngine(options=CudaOptions(), tuning=path)
        for problem, weight, bias in values:
            measured.clear()
            engine.prepare(problem, weight, bias, resident=True)
            assert bool(measured) != again
        engine.close()
    assert len({key for choices in json.loads(path.read_text()).values() for key in choices}) == len(values)


@pytest.mark.parametrize(
    "content",
    [
        '{"cuda: emulation, 1 GiB": {"float16 float16": "cudnn:fused9"}}',  # of an older version
        '{"cuda: emulation, 1 GiB": ["cudnn"]}',
        "[]",
        "{",
    ],
)
def test_files_of_other_versions_are_ignored(
    content: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, caplog: pytest.LogCaptureFixture
):
    monkeypatch.setenv("GROUPCONV_TUNE", "on")
    monkeypatch.setattr("groupconv_worker.cuda.engine.time_on_device", lambda *_: 1.0)
    problem, w = problem_of((2, 4, 6, 6), (4, 4, 3, 3))
    path = tmp_path / "cuda.json"
    path.write_text(content)
    with caplog.at_level(logging.INFO):  # a test before this one may have asked for more
        with as_cupy(with_cudnn=True):
            engine = CudaEngine(options=CudaOptions(), tuning=path)
        engine.prepare(problem, w, resident=True)
        engine.close()
    assert not caplog.records
    assert engine._choices.file.read()


def test_choices_of_another_device_or_library_are_not_used(monkeypatch: pytest.MonkeyPatch):
    with emulated_engine() as engine:
        cupy, gpu = engine.gpu.cupy, engine.gpu
        before = version_of(cupy, gpu, "9.1")
        assert "sm_90, 2 multiprocessors" in before
        assert version_of(cupy, gpu, "9.2") != before
        for owner, name, value in (
            (cupy, "__version__", "15.0"),
            (cupy.cuda.runtime, "driverGetVersion", lambda: 13010),
            (cupy.cuda.runtime, "runtimeGetVersion", lambda: 13010),
            (cupy.cuda.nvrtc, "getVersion", lambda: (13, 1)),
            (gpu, "compute_capability", "100"),
            (gpu, "multiprocessors", 1),
        ):
            with monkeypatch.context() as changed:
                changed.setattr(owner, name, value)
                assert version_of(cupy, gpu, "9.1") != before, name
        assert version_of(cupy, gpu, "9.1") == before
