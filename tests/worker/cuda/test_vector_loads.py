"""Loads of two 16-bit values: at any width, and wherever arrays begin, they read what they should and nothing else."""

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from emulation import emulated_engine, needs_compiler
from groupconv.convolution.dtypes import BFLOAT16, types_of
from groupconv.convolution.geometry import resolve
from groupconv.convolution.spec import ConvSpec
from groupconv_worker import reference
from groupconv_worker.contract import Problem
from groupconv_worker.cuda.device import storage
from groupconv_worker.cuda.engine import CudaEngine

pytestmark = needs_compiler
F16 = np.dtype(np.float16)
GUARD = 8


@pytest.fixture(scope="module")
def engine():
    with emulated_engine(algorithm="grouped") as engine:
        yield engine


def guarded(engine: CudaEngine, host: np.ndarray, offset: int) -> tuple[Any, Any]:
    """A device array `offset` elements behind an aligned address, among NaNs; and all of the memory."""
    memory = (
        np.full(GUARD + offset + host.size + GUARD, np.nan, np.float32).astype(host.dtype).view(storage(host.dtype))
    )
    memory[GUARD + offset : GUARD + offset + host.size] = host.reshape(-1).view(storage(host.dtype))
    there = engine.gpu.cupy.asarray(memory)
    return there[GUARD + offset : GUARD + offset + host.size].reshape(host.shape), there


@settings(max_examples=150)
@given(
    dtype=st.sampled_from([F16, BFLOAT16]),
    width=st.integers(1, 75),
    height=st.integers(1, 6),
    channels=st.integers(1, 2),
    filters=st.integers(1, 5),
    kernel=st.sampled_from([1, 2, 3, 5, 7]),
    stride=st.integers(1, 3),
    mode=st.sampled_from(["zeros", "reflect", "replicate", "circular"]),
    padding=st.integers(0, 3),
    offsets=st.tuples(st.integers(0, 3), st.integers(0, 3)),
    seed=st.integers(0, 99),
)
def test_any_width_offset_and_padding(
    engine: CudaEngine,
    dtype: np.dtype,
    width: int,
    height: int,
    channels: int,
    filters: int,
    kernel: int,
    stride: int,
    mode: Any,
    padding: int,
    offsets: tuple[int, int],
    seed: int,
):
    rng = np.random.default_rng(seed)
    rows = min(kernel, height)
    limit = min(padding, width - 1) if mode != "zeros" else padding
    if width + 2 * limit < kernel:
        kernel = width + 2 * limit
    x = rng.integers(-3, 4, (2, 2 * channels, height, width)).astype(dtype)
    w = rng.integers(-1, 2, (2 * filters, channels, rows, kernel)).astype(dtype)
    spec = ConvSpec(groups=2, stride=stride, padding=(0, limit), padding_mode=mode)
    problem = Problem(resolve(spec, x.shape, w.shape), types_of(dtype, dtype))
    want = reference.convolve(x, w, None, problem.geometry)  # whole numbers below 2^8: exact
    with engine.gpu.streams():
        made = engine.kernel(problem, w)
        assert made.algorithm == "grouped"
        there, _ = guarded(engine, x, offsets[0])
        out, memory = guarded(engine, np.zeros(want.shape, dtype), offsets[1])
        made.launch(there, out, 0, 0)
        found = memory.get().view(dtype).astype(np.float64)
    edge = GUARD + offsets[1]
    assert np.isnan(found[:edge]).all()
    assert np.isnan(found[edge + want.size :]).all()
    rounded = want.astype(dtype).astype(np.float64)
    np.testing.assert_array_equal(found[edge : edge + want.size].reshape(want.shape), rounded)
