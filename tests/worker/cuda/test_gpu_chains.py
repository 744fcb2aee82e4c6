"""Chains and page-locked arrays on a device: pytest -m gpu (see `make test-gpu`)."""

import mmap

import numpy as np
import pytest

from groupconv.convolution.dtypes import types_of
from groupconv.convolution.geometry import resolve
from groupconv.convolution.spec import ConvSpec
from groupconv_worker import reference
from groupconv_worker.contract import Problem
from groupconv_worker.cuda.engine import CudaEngine, why_unavailable
from groupconv_worker.resident import ResidentKernels, ResidentKey
from groupconv_worker.runtime import run_shard
from groupconv_worker.shard import Stage

pytestmark = [pytest.mark.gpu, pytest.mark.skipif(bool(why_unavailable()), reason=why_unavailable() or "there is one")]
SHAPES = ((32, 8, 3, 3), (64, 32, 1, 1), (16, 64, 3, 3))
SPECS = (ConvSpec(padding=1, groups=4), ConvSpec(), ConvSpec(padding=1, stride=2))


@pytest.fixture(scope="module")
def engine():
    engine = CudaEngine(threads=2)
    yield engine
    engine.close()


def chain(batch: int):
    """Stages of a resident layer, an input, and the exact answer: whole numbers."""
    rng = np.random.default_rng(0)
    x = y = rng.integers(-2, 3, (batch, 32, 28, 28)).astype(np.float32)
    stages = []
    for i, (spec, shape) in enumerate(zip(SPECS, SHAPES, strict=True)):
        w = rng.integers(-1, 2, shape).astype(np.float32)
        problem = Problem(resolve(spec, y.shape, w.shape), types_of(y.dtype, w.dtype))
        stages.append(Stage(problem, w, None, ResidentKey("layer", batch, i, tuple((0, n) for n in shape))))
        y = reference.convolve(y, w, None, problem.geometry).astype(np.float32)
    return stages, x, y


@pytest.mark.parametrize("locked", [False, True])
@pytest.mark.parametrize("batch", [1, 5, 64])  # 64 go in several chunks
def test_a_chain_is_what_its_steps_are(engine: CudaEngine, batch: int, locked: bool):
    stages, x, want = chain(batch)
    memory = mmap.mmap(-1, x.nbytes + want.nbytes)
    here = np.ndarray(x.shape, x.dtype, memory)
    out = np.ndarray(want.shape, want.dtype, memory, x.nbytes)
    here[...] = x
    unlock = engine.gpu.page_locked.register(np.frombuffer(memory, np.uint8)) if locked else None
    store = ResidentKernels()
    try:
        assert engine.gpu.page_locked.holds(here) == locked, "CUDA refuses to page-lock memory here"
        for _ in range(4):  # launched, captured, by the graph
            out[...] = 0
            run_shard(engine, stages, here, out, store)
            np.testing.assert_array_equal(out, want)
    finally:
        if unlock is not None:
            unlock()
    assert not engine.gpu.page_locked.holds(here)
