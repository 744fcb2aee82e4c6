"""Which algorithm the cuda engine takes, and with which precision."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from emulation import cublas, emulated_engine, needs_compiler, streams
from emulation import cudnn as fake_cudnn
from emulation.stand_in import as_cupy
from groupconv.convolution.dtypes import types_of
from groupconv.convolution.geometry import resolve
from groupconv.convolution.spec import ConvSpec
from groupconv.errors import InvalidArgumentError
from groupconv_worker import reference
from groupconv_worker.contract import Problem
from groupconv_worker.cuda.chain import ChainedKernel
from groupconv_worker.cuda.choice import Choice
from groupconv_worker.cuda.engine import CudaEngine, with_math
from groupconv_worker.cuda.options import CudaOptions
from groupconv_worker.cuda.prepared import CudaPrepared

pytestmark = needs_compiler
F32 = np.dtype(np.float32)


def problem_of(x_shape: Any, w_shape: Any, dtype: np.dtype = F32, **spec: Any) -> tuple[Problem, np.ndarray]:
    w = np.random.default_rng(0).standard_normal(w_shape).astype(dtype)
    return Problem(resolve(ConvSpec(**spec), x_shape, w_shape), types_of(dtype, dtype)), w


RULES = {
    "pointwise": ("gemm", problem_of((1, 256, 7, 7), (64, 256, 1, 1))),
    "grouped pointwise": ("gemm", problem_of((1, 240, 7, 7), (240, 80, 1, 1), groups=3)),
    "dense": ("gemm", problem_of((1, 64, 8, 8), (64, 64, 3, 3), padding=1)),
    "depthwise": ("depthwise", problem_of((1, 32, 8, 8), (32, 1, 3, 3), groups=32)),
    "thin": ("stencil", problem_of((1, 128, 8, 8), (128, 4, 3, 3), groups=32)),
    "transposed": ("direct", problem_of((1, 16, 4, 4), (16, 8, 4, 4), transposed=True, stride=2)),
    "large kernel": ("grouped", problem_of((1, 3, 40, 40), (3, 1, 31, 31), groups=3)),
    "float64": ("gemm", problem_of((1, 16, 8, 8), (16, 16, 3, 3), np.dtype(np.float64))),
    "integers": ("direct", problem_of((1, 16, 8, 8), (16, 16, 3, 3), np.dtype(np.int8))),
}


@pytest.mark.parametrize("name", RULES)
def test_rules_for_one_shots(name: str):
    want, (problem, w) = RULES[name]
    with emulated_engine() as engine:
        assert engine.prepare(problem, w).algorithm == want


def test_rank_1_kernels_are_recognised_by_their_values():
    problem, w = problem_of((1, 3, 20, 20), (3, 1, 9, 9), groups=3)
    with emulated_engine() as engine:
        assert engine.prepare(problem, w).algorithm != "separable"
        assert engine.prepare(problem, w[..., :1] * w[..., :1, :]).algorithm == "separable"
        w[0, 0, 0, 0] = np.nan
        assert engine.prepare(problem, w).algorithm != "separable"


def test_resident_kernels_take_the_fastest_and_remember_it(monkeypatch: pytest.MonkeyPatch):
    problem, w = RULES["dense"][1]
    monkeypatch.setenv("GROUPCONV_TUNE", "on")
    with emulated_engine() as engine:
        times = iter([3.0, 1.0, 2.0])  # gemm, direct, stencil
        calls = []

        def measure(device: Any, kernel: Any, problem: Problem) -> float:
            calls.append(kernel.algorithm)
            return next(times)

        monkeypatch.setattr("groupconv_worker.cuda.engine.time_on_device", measure)
        assert engine.prepare(problem, w, resident=True).algorithm == "direct"
        assert engine.prepare(problem, w, resident=True).algorithm == "direct"
        assert calls == ["gemm", "direct", "stencil"]


def test_choices_are_kept_on_disk_with_the_plan_of_cudnn(monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    monkeypatch.setenv("GROUPCONV_TUNE", "on")
    monkeypatch.setattr("groupconv_worker.cuda.engine.by_rule", lambda _: ["cudnn", "direct"])
    times = [3.0, 1.0, 2.0, 4.0]  # of cuDNN's own choice, of its plans 1 and 3, and of direct
    clock = iter(times)
    monkeypatch.setattr("groupconv_worker.cuda.engine.time_on_device", lambda *_: next(clock))
    problem, w = problem_of((2, 4, 6, 6), (4, 4, 3, 3))
    x, want = np.random.default_rng(1).standard_normal((2, 4, 6, 6), F32), np.empty((2, 4, 4, 4), F32)
    path = tmp_path / "cuda.json"
    for _ in range(2):  # the second engine measures nothing
        with as_cupy(with_cudnn=True):
            engine = CudaEngine(options=CudaOptions(), tuning=path)
        prepared = engine.prepare(problem, w, resident=True)
        assert prepared.algorithm == "cudnn"
        assert prepared._kernel.plan(2, 1).index == 1
        prepared.run(x, want)
        np.testing.assert_allclose(want, reference.convolve(x, w, None, problem.geometry), rtol=1e-4, atol=1e-5)
        engine.close()
    assert next(clock, None) is None
    with as_cupy(with_cudnn=True):  # what was measured with another workspace is not used
        engine = CudaEngine(options=CudaOptions(workspace=2**20), tuning=path)
    assert engine._choices.find(with_math(problem, "float32"), "no bias") is None
    engine.close()


def test_a_plan_that_cudnn_has_no_more_is_measured_again(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("GROUPCONV_TUNE", "on")
    monkeypatch.setattr("groupconv_worker.cuda.engine.time_on_device", lambda *_: 1.0)
    problem, w = problem_of((2, 4, 6, 6), (4, 4, 3, 3))
    with emulated_engine(with_cudnn=True, algorithm="cudnn") as engine:
        engine._choices.add(with_math(problem, "float32"), "no bias", Choice("cudnn", "2"))
        with engine._device.streams():
            kinds = [engine._algorithms["cudnn"], engine._algorithms["direct"]]
            assert engine._known(kinds, with_math(problem, "float32"), w, None) is None


def test_a_chunk_is_what_is_measured(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("GROUPCONV_TUNE", "on")
    problem, w = problem_of((8, 64, 8, 8), (64, 64, 3, 3), padding=1)
    sizes: set[int] = set()

    def measure(device: Any, kernel: Any, problem: Problem) -> float:
        sizes.add(problem.geometry.batch)
        return 1.0

    monkeypatch.setattr("groupconv_worker.cuda.engine.time_on_device", measure)
    with emulated_engine(chunk=3 * 2 * 4 * 64 * 8 * 8) as engine:
        engine.prepare(problem, w, resident=True)
    assert sizes == {3}


@pytest.mark.parametrize(("unit", "repeats"), [(1.0, 1), (1e-5, 10)])
@pytest.mark.parametrize("captured", [True, False])
def test_measuring_takes_the_median_of_captured_runs(
    unit: float, repeats: int, captured: bool, monkeypatch: pytest.MonkeyPatch
):
    from groupconv_worker.cuda.choice import time_on_device

    took = [3, 3, 5, 1, 2, 9, 3, 4, 6]  # the first two to find out how long a run takes
    clock = iter(np.cumsum([step for t in took for step in (0, t)]) * unit)
    problem, w = RULES["dense"][1]
    with emulated_engine(algorithm="direct") as engine, engine._device.streams():
        kernel = engine._algorithms["direct"](engine._device, problem, w, None)
        launched, launch = [], kernel.launch

        def counted(*arguments: Any):
            launched.append(engine._device.cupy.cuda.get_current_stream().is_capturing())
            if launched[-1] and not captured:
                raise NotImplementedError("cannot be captured")
            launch(*arguments)

        kernel.launch = counted
        with monkeypatch.context() as patch:
            patch.setattr(streams.time, "perf_counter", lambda: next(clock))
            ms = time_on_device(engine._device, kernel, problem)
    assert ms == pytest.approx(4000 * unit / repeats)
    assert launched[:3] == [False, False, True]  # as it is, before it is captured, while it is
    assert len(launched) == 3 + (0 if captured else 2 + 7 * repeats)


def test_deterministic_uses_own_kernels_by_rule(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("GROUPCONV_TUNE", "on")
    monkeypatch.setattr("groupconv_worker.cuda.engine.time_on_device", lambda *_: pytest.fail("measured"))
    with emulated_engine(deterministic=True, with_cudnn=True) as engine:
        for _, (problem, w) in RULES.values():
            assert engine.prepare(problem, w, resident=True).algorithm in (
                "direct",
                "depthwise",
                "stencil",
                "grouped",
                "fft",
            )


def test_any_batching_gives_the_same_bits():
    rng = np.random.default_rng(3)
    problem, w = problem_of((6, 16, 9, 9), (16, 8, 3, 3), groups=2, padding=1)
    x = rng.standard_normal((6, 16, 9, 9)).astype(F32)
    outs = []
    for chunk in (2**24, 0):
        with emulated_engine(deterministic=True, chunk=chunk) as engine:
            outs.append(np.empty(problem.geometry.output_shape, F32))
            engine.prepare(problem, w).run(x, outs[-1])
    np.testing.assert_array_equal(*outs)


def test_deterministic_sums_are_made_in_one_part():
    problem, w = problem_of((1, 64, 9, 9), (16, 64, 5, 5))
    x, out = np.zeros((1, 64, 9, 9), F32), np.empty((1, 16, 5, 5), F32)
    for deterministic in (False, True):  # in how many parts depends on the batch, and rounding on the parts
        with emulated_engine(deterministic=deterministic, algorithm="direct") as engine:
            engine._device.multiprocessors = 100
            engine.prepare(problem, w).run(x, out)
            parts = [name for _, name in engine._device.kernels._functions if "combine" in name]
        assert bool(parts) is not deterministic


@pytest.mark.parametrize(
    ("of_request", "of_process", "compute"),
    [
        (None, "float32", 68),
        (None, "tf32", 77),
        ("float32", "tf32", 68),
        ("tf32", "float32", 77),
        ("float16", "float32", 74),
        ("bfloat16", "tf32", 75),
    ],
)
def test_the_precision_of_a_request_goes_before_that_of_the_process(of_request: Any, of_process: Any, compute: int):
    problem, w = problem_of((1, 64, 8, 8), (64, 64, 3, 3), padding=1, math=of_request)
    cublas.CALLS.clear()
    with emulated_engine(algorithm="gemm", math=of_process) as engine:
        engine.prepare(problem, w).run(
            np.zeros(problem.geometry.input_shape, F32), np.empty(problem.geometry.output_shape, F32)
        )
    assert {call.compute for call in cublas.CALLS} == {compute}


def test_choices_of_each_precision_are_measured_and_remembered_apart(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("GROUPCONV_TUNE", "on")
    fastest = {"float32": "direct", "tf32": "gemm"}
    monkeypatch.setattr(
        "groupconv_worker.cuda.engine.time_on_device",
        lambda _device, kernel, problem: float(kernel.algorithm != fastest[problem.geometry.math]),
    )
    with emulated_engine() as engine:
        for math in (None, "tf32", "float32", "tf32"):
            problem, w = problem_of((1, 64, 8, 8), (64, 64, 3, 3), padding=1, math=math)
            assert engine.prepare(problem, w, resident=True).algorithm == fastest[math or "float32"]
        assert len(engine._choices._known) == 2


def test_pointwise_makes_no_patches_and_one_product():
    problem, w = problem_of((1, 240, 7, 7), (240, 80, 1, 1), groups=3)
    cublas.CALLS.clear()
    with emulated_engine() as engine:
        prepared = engine.prepare(problem, w)
        assert prepared._kernel.workspace(1, 3) == 0
        prepared.run(np.zeros((1, 240, 7, 7), F32), np.empty((1, 240, 7, 7), F32))
    assert [(c.m, c.n, c.k, c.batch) for c in cublas.CALLS] == [(49, 80, 80, 3)]


@pytest.mark.parametrize("math", ["float32", "tf32", "float16", "bfloat16"])
def test_cudnn_takes_what_is_no_product_and_is_told_what_it_may_round(math: Any):
    problem, w = problem_of((1, 16, 4, 4), (16, 8, 4, 4), transposed=True, stride=2, math=math)
    fake_cudnn.BUILT.clear()
    with emulated_engine(with_cudnn=True) as engine:
        assert engine.prepare(problem, w).algorithm == "cudnn"
    notes = {note.name for note in fake_cudnn.BUILT[-1].deselected}
    transforms = {"FFT", "WINOGRAD", "WINOGRAD_TILE_4x4", "WINOGRAD_TILE_6x6", "WINOGRAD_TILE_13x13"}
    narrower = set() if math == "float16" else {"DOWN_CONVERT_INPUTS"}
    assert notes == transforms | narrower | ({"TENSOR_CORE"} if math == "float32" else set())


def test_what_cudnn_refuses_another_takes(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("GROUPCONV_TUNE", "on")
    monkeypatch.setitem(fake_cudnn.REFUSE, "all", True)
    for rule in ("dense", "transposed"):
        want, (problem, w) = RULES[rule]
        with emulated_engine(with_cudnn=True) as engine:
            assert engine.prepare(problem, w).algorithm == want
            assert engine.prepare(problem, w, resident=True).algorithm != "cudnn"


def test_cudnn_graphs_are_built_once_for_a_size():
    problem, w = problem_of((2, 4, 6, 6), (4, 4, 3, 3))
    fake_cudnn.BUILT.clear()
    with emulated_engine(with_cudnn=True, algorithm="cudnn") as engine:
        for scale in (1, 2):  # other weights, the same graphs
            prepared = engine.prepare(problem, scale * w)
            for batch in (2, 2, 3, 3):
                prepared.run(np.zeros((batch, 4, 6, 6), F32), np.empty((batch, 4, 4, 4), F32))
    assert len(fake_cudnn.BUILT) == 2


def test_cudnn_plans_are_measured_once_for_a_shape():
    problem, w = problem_of((2, 4, 6, 6), (4, 4, 3, 3))
    want = np.empty((2, 4, 4, 4), F32)
    with emulated_engine(with_cudnn=True, algorithm="cudnn") as engine, engine._device.streams():
        algorithm = engine._algorithms["cudnn"]
        for times in ([3.0, 1.0, 2.0], [4.0]):  # the first plan, plan 1 and plan 3: plan 0 is too large, 2 refuses
            kernel, clock = algorithm(engine._device, problem, w, None), iter(times)
            assert kernel.tune(lambda clock=clock: next(clock)) in (1.0, 4.0)
            assert kernel.plan(2, 1).index == 1
            assert next(clock, None) is None
    x = np.random.default_rng(1).standard_normal((2, 4, 6, 6), F32)
    with emulated_engine(with_cudnn=True, algorithm="cudnn") as engine:
        with engine._device.streams():
            kernel = engine._algorithms["cudnn"](engine._device, problem, w, None)
            kernel.tune(iter([3.0, 1.0, 2.0]).__next__)
        CudaPrepared(engine._device, ChainedKernel.of(kernel, problem)).run(x, want)
    np.testing.assert_allclose(want, reference.convolve(x, w, None, problem.geometry), rtol=1e-4, atol=1e-5)


def test_what_cudnn_refused_it_is_not_asked_again(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setitem(fake_cudnn.REFUSE, "all", True)
    problem, w = RULES["transposed"][1]
    fake_cudnn.BUILT.clear()
    with emulated_engine(with_cudnn=True) as engine:
        for _ in range(3):
            assert engine.prepare(problem, w).algorithm == "direct"
    assert len(fake_cudnn.BUILT) == 1


def test_options_are_checked():
    with pytest.raises(InvalidArgumentError, match=r"cuda\.math: expected one of float32, tf32"):
        CudaOptions(math="float8")  # type: ignore[arg-type]
    with pytest.raises(InvalidArgumentError, match=r"GROUPCONV_CUDA_CHUNK: expected an integer"):
        CudaOptions.from_environ({"GROUPCONV_CUDA_CHUNK": "much"})
    with pytest.raises(InvalidArgumentError, match=r"GROUPCONV_CUDA_MEMORY_FRACTION: expected a number"):
        CudaOptions.from_environ({"GROUPCONV_CUDA_MEMORY_FRACTION": "half"})
    with pytest.raises(InvalidArgumentError, match=r"cuda\.memory_fraction: expected above 0, at most 1"):
        CudaOptions(memory_fraction=1.5)
    refused = emulated_engine(algorithm="winograd")
    with pytest.raises(InvalidArgumentError, match=r"cuda\.algorithm"):
        refused.__enter__()


def test_the_benchmark_of_the_device_says_what_is_missing():
    import subprocess
    import sys
    from pathlib import Path

    from groupconv_worker.cuda.engine import why_unavailable

    if not why_unavailable():
        pytest.skip("this machine has a CUDA device")
    script = Path(__file__).parents[3] / "bench/engine.py"
    done = subprocess.run([sys.executable, script, "--device", "cuda"], capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert done.stderr.startswith(f"bench/gpu.py: {why_unavailable()}")


def test_the_old_name_of_a_setting_works_and_warns():
    with pytest.warns(FutureWarning, match="GROUPCONV_CUDA_RECORDINGS is now called GROUPCONV_CUDA_GRAPH_MEMORY"):
        assert CudaOptions.from_environ({"GROUPCONV_CUDA_RECORDINGS": "7"}).graph_memory == 7
