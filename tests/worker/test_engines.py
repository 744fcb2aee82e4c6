"""Every engine against the float64 reference, over all variants and dtypes."""

import numpy as np
import pytest
import scipy.special
from hypothesis import given, settings

from emulation import emulated_engine, needs_compiler
from groupconv.errors import FailedPreconditionError, InvalidArgumentError
from groupconv_worker.contract import Problem
from groupconv_worker.cpu.algorithms.gemm import Gemm
from groupconv_worker.cuda.engine import why_unavailable
from groupconv_worker.engines import Engine, create_engine
from oracle import check, run
from strategies import FLOATS, INTEGERS, Case, cases

SAME_FLOATS = tuple((f, f) for f in FLOATS)
INTEGER_PAIRS = tuple((a, b) for a in INTEGERS for b in INTEGERS)
MIXED = tuple((a, b) for a in INTEGERS for b in FLOATS)
EVERY_PAIR = SAME_FLOATS + INTEGER_PAIRS + MIXED


@pytest.fixture(scope="module", params=["reference", "cpu", pytest.param("cuda", marks=needs_compiler)])
def engine(request: pytest.FixtureRequest):
    if request.param == "cuda":  # its kernels and its host code, without a GPU
        with emulated_engine(chunk=2**12) as engine:
            yield engine
        return
    engine = create_engine(request.param)
    yield engine
    engine.close()


@settings(max_examples=80)
@given(case=cases())
def test_float32(engine: Engine, case: Case):
    """Input and output are whole arrays, and then views into larger ones: each example compiles a form for both."""
    check(run(engine, case), case)
    wide_x = np.zeros((case.x.shape[0], case.x.shape[1] + 2, *case.x.shape[2:]), dtype=case.x.dtype)
    wide_x[:, 1:-1] = case.x
    g = case.geometry
    wide_out = np.full((g.batch, g.out_channels + 2, *g.output), 77, dtype=case.types.output)
    engine.prepare(Problem(g, case.types), case.weight, case.bias).run(wide_x[:, 1:-1], wide_out[:, 1:-1])
    check(wide_out[:, 1:-1], case)
    assert (wide_out[:, 0] == 77).all()
    assert (wide_out[:, -1] == 77).all()


@settings(max_examples=50)
@given(case=cases(dtypes=EVERY_PAIR))
def test_every_dtype(engine: Engine, case: Case):
    check(run(engine, case), case)


@pytest.mark.slow
@pytest.mark.timeout(900)
@settings(max_examples=200)
@given(case=cases(dtypes=(SAME_FLOATS[2], *EVERY_PAIR)))
def test_every_dtype_at_length(engine: Engine, case: Case):
    """Each example of the cpu engine compiles a kernel of its own: 0.3 s."""
    check(run(engine, case), case)


@settings(max_examples=40)
@given(case=cases(dtypes=SAME_FLOATS + INTEGER_PAIRS))
def test_resident_kernels_keep_their_weights(engine: Engine, case: Case):
    weight = case.weight.copy()
    prepared = engine.prepare(Problem(case.geometry, case.types), weight, case.bias, resident=True)
    weight[...] = 0  # the message it came in is gone
    out = np.empty(case.geometry.output_shape, dtype=case.types.output)
    prepared.run(case.x, out)
    check(out, case)
    twice = np.concatenate([case.x, case.x])
    out = np.empty((twice.shape[0], *out.shape[1:]), dtype=out.dtype)
    prepared.run(twice, out)  # another batch size than it was prepared for
    check(out[: case.x.shape[0]], case)
    check(out[case.x.shape[0] :], case)


@settings(max_examples=30)
@given(case=cases(spec_activation=False))
def test_nan_and_infinity_are_computed(engine: Engine, case: Case):
    case.x.flat[0], case.x.flat[-1] = np.nan, np.inf
    got, want = run(engine, case), run(create_engine("reference"), case)
    np.testing.assert_array_equal(np.isnan(got), np.isnan(want))


@settings(max_examples=60)
@given(case=cases())
def test_gemm_in_a_workspace_of_one_row(case: Case):
    class Tiny:
        def prepare(self, problem, weight, bias, *, resident):
            return Gemm(np, scipy.special.erf, workspace=1).prepare(problem, weight, bias, resident=resident)

    check(run(Tiny(), case), case)


def test_an_unknown_engine_names_those_there_are():
    with pytest.raises(InvalidArgumentError, match="engine: expected one of auto, reference, cpu, cuda"):
        create_engine("tpu")


@pytest.mark.skipif(not why_unavailable(), reason="this machine has a CUDA device")
def test_cuda_without_a_device_says_so_in_one_line():
    with pytest.raises(FailedPreconditionError, match=r"^engine cuda: CuPy") as caught:
        create_engine("cuda")
    assert "\n" not in str(caught.value)
    assert create_engine("auto").name == "cpu"
