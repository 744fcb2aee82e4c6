"""Compiled code writes its output, all of it and nothing else, for every width of vectors that this machine can run."""

import os
import subprocess
import sys

import numpy as np
import pytest
import scipy.special
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from groupconv.convolution.dtypes import DTYPES, types_of
from groupconv.convolution.geometry import resolve
from groupconv.convolution.spec import ACTIVATIONS, ConvSpec
from groupconv.errors import InvalidArgumentError
from groupconv_worker.contract import Problem
from groupconv_worker.cpu.algorithms import direct, filters
from groupconv_worker.cpu.algorithms.cells import Cells
from groupconv_worker.cpu.algorithms.direct import Direct
from groupconv_worker.cpu.algorithms.fft import Fft
from groupconv_worker.cpu.algorithms.gemm import Gemm
from groupconv_worker.cpu.algorithms.grouped import Grouped
from groupconv_worker.cpu.algorithms.onnx import OnnxRuntime
from groupconv_worker.cpu.algorithms.separable import Separable
from groupconv_worker.cpu.algorithms.winograd import FEWEST, Winograd
from groupconv_worker.cpu.kernels.target import VARIABLE, select_here, target
from groupconv_worker.cpu.threads import Team
from groupconv_worker.cpu.workspace import BufferPool
from groupconv_worker.reference import convolve
from guards import check_in_bounds
from oracle import rounding
from strategies import array

TEAM, BUFFERS = Team(2), BufferPool()
ALGORITHMS = {
    algorithm.name: algorithm
    for algorithm in (
        Direct(TEAM, BUFFERS),
        Grouped(TEAM, BUFFERS),
        Separable(TEAM, BUFFERS),
        Winograd(TEAM, BUFFERS),
        Cells(TEAM, BUFFERS),
        Fft(TEAM),
        Gemm(np, scipy.special.erf, team=TEAM),
        OnnxRuntime(TEAM),
    )
}
COMPILED = ("direct", "grouped", "separable", "winograd", "cells")
"""Those whose code this project compiles; what the others compute lies in NumPy's arrays."""
MACS = 3_000_000
"""Multiply-adds of a drawn problem, for the reference takes its time."""
EXAMPLES = int(os.environ.get("GROUPCONV_BOUNDS_EXAMPLES", "4"))

widths = st.integers(1, 400) | st.sampled_from([8, 15, 16, 17, 31, 32, 33, 64, 96, 127, 256])
heights = st.integers(1, 80) | st.sampled_from([1, 4, 7, 8])


@st.composite
def problems(draw, name: str) -> tuple[Problem, np.ndarray, np.ndarray, np.ndarray | None]:
    """A problem that algorithm `name` supports, with arrays: rows to 400 in one dimension, maps to 80 × 80 in two."""
    rank = 2 if name in ("winograd", "fft", "separable") else draw(st.integers(1, 2))
    dtype = DTYPES[draw(st.sampled_from(["float32"] * 3 + (["float64", "int32"] if name in COMPILED[:2] else [])))]
    rows = (draw(widths),) if rank == 1 else (draw(heights), draw(heights))
    groups, channels, filters = 1, draw(st.integers(1, 40)), draw(st.integers(1, 40))
    spec = {"transposed": draw(st.booleans())}
    kernel = tuple(draw(st.integers(1, 4)) for _ in range(rank))
    match name:
        case "winograd":
            extent = draw(st.sampled_from([3, 5]))
            kernel, least = (extent, extent), FEWEST[extent]
            spec = {"dilation": draw(st.integers(1, 3)), "padding": draw(st.integers(0, 3))}
            rows = tuple(max(r, 12 if extent == 3 else 8) for r in rows)
            channels, filters = draw(st.integers(least, 40)), max(filters, least)
        case "fft":
            kernel, spec = (draw(st.integers(11, 15)), 11), {"padding": draw(st.integers(0, 6))}
            rows, groups, channels, filters = tuple(max(r, 20) for r in rows), 3, 1, 1
        case "separable":
            kernel, spec = (5, draw(st.integers(5, 9))), {"padding": draw(st.integers(0, 4))}
            groups, channels, filters = draw(st.integers(1, 9)), 1, draw(st.integers(1, 2))
            spec["stride"] = draw(st.integers(1, 2))
        case "cells":
            rank = draw(st.integers(1, 3))
            rows = tuple(draw(st.integers(1, 5 if rank == 1 else 2)) for _ in range(rank))
            kernel, filters = tuple(draw(st.integers(1, 4)) for _ in range(rank)), draw(st.integers(64, 100))
            dtype = DTYPES[draw(st.sampled_from(["float32", "float64"]))]
            spec = {"transposed": True, "flip_kernel": draw(st.booleans())}
            spec |= {name: draw(st.integers(1, 3)) for name in ("stride", "dilation")} | {
                "padding": draw(st.integers(0, 1))
            }
        case _:
            if draw(st.booleans()):
                groups, channels, filters = draw(st.integers(1, 6)), draw(st.integers(1, 5)), draw(st.integers(1, 9))
            spec |= {
                "stride": tuple(draw(st.integers(1, 4)) for _ in range(rank)),
                "dilation": tuple(draw(st.integers(1, 3)) for _ in range(rank)),
                "padding": tuple(draw(st.integers(0, 3)) for _ in range(rank)),
            }
            if spec["transposed"]:
                most = [max(s, d) - 1 for s, d in zip(spec["stride"], spec["dilation"], strict=True)]
                spec["output_padding"] = tuple(draw(st.integers(0, m)) for m in most)
    activations = ACTIVATIONS if dtype.kind == "f" else ("relu",)
    spec |= {"groups": groups, "activation": draw(st.sampled_from([None, *activations]))}
    x_shape = (draw(st.integers(1, 2)), groups * channels, *rows)
    w_shape = (groups * channels, filters) if spec.get("transposed") else (groups * filters, channels)
    try:
        geometry = resolve(ConvSpec(**spec), x_shape, (*w_shape, *kernel))
    except InvalidArgumentError:
        assume(False)
        raise
    work = np.prod(geometry.output) * np.prod(kernel) * channels * groups * filters
    assume(work * x_shape[0] <= MACS and np.prod(geometry.padded) * groups * channels <= MACS)
    problem = Problem(geometry, types_of(dtype, dtype))
    assume(ALGORITHMS[name].supports(problem))
    rng = np.random.default_rng(draw(st.integers(0, 2**16)))
    weight = array(rng, (*w_shape, *kernel), dtype)
    if name == "separable":
        u, v = rng.standard_normal((2, groups * filters, max(kernel))).astype(np.float32)
        weight = (u[:, : kernel[0], None] * v[:, None, : kernel[1]])[:, None]
    bias = array(rng, (groups * filters,), dtype) if draw(st.booleans()) else None
    x = array(rng, x_shape, dtype)
    if dtype.kind == "f" and draw(st.integers(0, 3)) == 0:
        x.flat[draw(st.integers(0, x.size - 1))] = draw(st.sampled_from([np.inf, -np.inf, np.nan]))
    return problem, x, weight, bias


@pytest.mark.parametrize("name", ALGORITHMS)
@settings(max_examples=EXAMPLES)
@given(data=st.data(), resident=st.booleans(), shift=st.sampled_from([0, 1, 6]))
def test_it_writes_its_output_and_nothing_else(name, data, resident, shift):
    problem, x, weight, bias = data.draw(problems(name))
    got = check_in_bounds(ALGORITHMS[name], problem, x, weight, bias, resident=resident, shift=shift)
    with np.errstate(all="ignore"):
        want = convolve(x, weight, bias, problem.geometry)
    if got.dtype.kind == "i":
        np.testing.assert_array_equal(got, want.astype(np.int32))
        return
    finite = np.isfinite(want)
    with np.errstate(all="ignore"):
        allowed = rounding(problem, x, weight, bias, factor=2.0)
    allowed[~np.isfinite(allowed)] = 1e-6  # an activation may make an infinite sum a number
    assert (np.abs(got[finite] - want[finite]) <= allowed[finite]).all()
    np.testing.assert_array_equal(np.isfinite(got), finite)


@settings(max_examples=EXAMPLES)
@given(
    extent=st.sampled_from([24, 59]),
    more=st.integers(0, 8),
    filters=st.integers(33, 60),
    groups=st.integers(1, 2),
    batch=st.integers(1, 2),
    resident=st.booleans(),
    k=st.sampled_from([3, 5]),
)
def test_winograd_in_several_blocks_of_filters_and_chunks_of_tiles(extent, more, filters, groups, batch, resident, k):
    """A block has two vectors of filters, at most 32; the largest map's tiles pass in chunks, the last one overlaps."""
    rng, spec, channels = np.random.default_rng(filters), ConvSpec(padding=k // 2, groups=groups), FEWEST[k] + more
    x = rng.standard_normal((batch, groups * channels, extent, extent), np.float32)
    weight = rng.standard_normal((groups * filters, channels, k, k), np.float32)
    problem = Problem(resolve(spec, x.shape, weight.shape), types_of(x.dtype, weight.dtype))
    winograd = ALGORITHMS["winograd"]
    assert winograd.supports(problem)
    got = check_in_bounds(winograd, problem, x, weight, resident=resident, layouts=("whole", "rows"))
    want = convolve(x, weight, None, problem.geometry)
    np.testing.assert_allclose(got, want, atol=2e-4 * np.abs(want).max())


@given(groups=st.integers(1, 300), blocks=st.integers(1, 300), most=st.integers(1, 400))
def test_chunks_are_all_blocks_once_and_never_too_many(groups, blocks, most):
    found = filters.chunks(groups, blocks, most)
    assert len(found) <= filters.MOST_CHUNKS
    seen = [
        (group, block)
        for c in found
        for group in range(c.group, c.group + c.groups)
        for block in range(c.block, c.block + c.blocks)
    ]
    assert seen == [(group, block) for group in range(groups) for block in range(blocks)]
    if groups * blocks <= filters.MOST_CHUNKS:
        assert max(c.groups * c.blocks for c in found) <= most


@settings(max_examples=EXAMPLES)
@given(data=st.data(), groups=st.integers(1, 9), filters_of_group=st.integers(30, 200), most=st.integers(1, 6))
def test_direct_in_as_few_chunks_as_it_may_have(data, groups, filters_of_group, most):
    """A one-shot kernel of few channels passes in chunks of single blocks, or of more where those would be too many."""
    transposed, stride = data.draw(st.booleans()), data.draw(st.integers(1, 2))
    channels, extent, rng = data.draw(st.integers(1, 5)), data.draw(st.integers(4, 9)), np.random.default_rng(groups)
    x = rng.standard_normal((1, groups * channels, extent, extent), np.float32)
    of_group = (groups * channels, filters_of_group) if transposed else (groups * filters_of_group, channels)
    weight = rng.standard_normal((*of_group, 3, 3), np.float32)
    spec = ConvSpec(padding=1, stride=stride, groups=groups, transposed=transposed)
    problem = Problem(resolve(spec, x.shape, weight.shape), types_of(x.dtype, weight.dtype))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(direct, "CHUNK", 1)
        patch.setattr(filters, "MOST_CHUNKS", most)
        got = check_in_bounds(Direct(TEAM, BUFFERS), problem, x, weight, resident=False)
    want = convolve(x, weight, None, problem.geometry)
    np.testing.assert_allclose(got, want, atol=1e-5 * np.abs(want).max())


SETS = ("neon", "avx2", "avx512")
"""Instruction sets: vectors of 16, 32 and 64 bytes."""


@pytest.mark.parametrize("simd", SETS[: SETS.index(target().name)][-1:])
@pytest.mark.timeout(600)
@pytest.mark.skipif(VARIABLE in os.environ, reason="it runs for an instruction set already")
def test_narrower_vectors(simd):
    """As processors without this one's instructions run it, in a process of their own: a crash there is a failure.

    One example of each, as most of its time is compiling; `test_at_length` has 20.
    """
    run_with(simd, "1")


@pytest.mark.slow
@pytest.mark.timeout(900)
@pytest.mark.parametrize("simd", SETS)
def test_at_length(simd):
    run_with(simd, "20")


def run_with(simd: str, examples: str) -> None:
    try:
        select_here(simd)
    except InvalidArgumentError as error:
        pytest.skip(str(error))
    environment = os.environ | {VARIABLE: simd, "GROUPCONV_BOUNDS_EXAMPLES": examples}
    tests = [f"{__file__}::test_it_writes_its_output_and_nothing_else[{name}]" for name in COMPILED]
    more = [
        f"{__file__}::test_direct_in_as_few_chunks_as_it_may_have",
        f"{__file__}::test_winograd_in_several_blocks_of_filters_and_chunks_of_tiles",
        __file__.replace("test_bounds", "test_engine") + "::test_a_phase_of_one_tap_on_one_row_stays_in_its_output",
    ]
    command = [sys.executable, "-m", "pytest", "-q", "-x", "-p", "no:cacheprovider", "--timeout=800", *tests, *more]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=880, check=False)
    assert done.returncode == 0, done.stdout[-4000:] + done.stderr[-2000:]
