"""`ConvSpec.math`: what factors may be rounded to, and the error that each output may then have."""

from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from emulation import emulated_engine, needs_compiler
from groupconv.convolution.dtypes import types_of
from groupconv.convolution.geometry import resolve
from groupconv.convolution.spec import MATHS, ConvSpec
from groupconv.errors import InvalidArgumentError
from groupconv.v1 import spec_pb2
from groupconv.wire.specs import spec_from_wire, spec_to_wire
from groupconv_server.planner.cuts import Cut
from groupconv_server.planner.pieces import pieces
from groupconv_worker import reference
from groupconv_worker.contract import Problem
from groupconv_worker.cpu.engine import CpuEngine
from groupconv_worker.cuda.engine import with_math

F32 = np.dtype(np.float32)
ROUNDING = {"float32": 0.0, "tf32": 2.0**-10, "float16": 2.0**-10, "bfloat16": 2.0**-7}
"""Largest relative error of a factor (docs/convolution.md): a unit in its last place, as a device may cut it off."""
SHAPES: dict[str, Any] = {
    "dense": ((2, 24, 9, 9), (16, 24, 3, 3), {"padding": 1, "activation": "relu"}),
    "grouped": ((2, 32, 7, 7), (32, 16, 3, 3), {"groups": 2}),
    "pointwise": ((1, 64, 6, 6), (32, 64, 1, 1), {}),
    "depthwise": ((1, 8, 9, 9), (8, 1, 3, 3), {"groups": 8}),
    "transposed": ((1, 16, 4, 4), (16, 8, 4, 4), {"transposed": True, "stride": 2}),
}


def problem_of(name: str, **options: Any) -> Problem:
    x_shape, w_shape, spec = SHAPES[name]
    return Problem(resolve(ConvSpec(**spec, **options), x_shape, w_shape), types_of(F32, F32))


def worst_error(engine: Any, problem: Problem, rounding: float) -> float:
    """The largest error of an output, relative to what docs/convolution.md allows. A ReLU does not enlarge errors."""
    g, rng = problem.geometry, np.random.default_rng(0)
    x, w, bias = (rng.standard_normal(s).astype(F32) for s in (g.input_shape, g.weight_shape, (g.out_channels,)))
    y = np.empty(g.output_shape, F32)
    engine.prepare(problem, w, bias).run(x, y)
    magnitude = reference.convolve(abs(x), abs(w), abs(bias), replace(g, activation=None))
    terms = np.prod(g.weight_shape[1:]) + 2
    allowed = (2 * rounding + rounding**2 + terms * 2.0**-24) * magnitude
    return float((abs(y - reference.convolve(x, w, bias, g)) / allowed).max())


@needs_compiler
@pytest.mark.parametrize("algorithm", ["", "gemm", "cudnn"])
@pytest.mark.parametrize("math", MATHS)
def test_outputs_keep_the_bound_of_their_precision(math: Any, algorithm: str):
    with emulated_engine(with_cudnn=True, algorithm=algorithm) as engine:
        for name in SHAPES:
            assert worst_error(engine, problem_of(name, math=math), ROUNDING[math]) <= 1, name


@needs_compiler
@pytest.mark.parametrize("algorithm", ["gemm", "cudnn"])
def test_a_bound_of_higher_precision_would_not_hold(algorithm: str):
    """The stand-ins round, or the test above would prove nothing."""
    with emulated_engine(with_cudnn=True, algorithm=algorithm) as engine:
        for math in MATHS:
            assert (worst_error(engine, problem_of("pointwise", math=math), 0) > 1) == (math != "float32")


def test_the_cpu_engine_rounds_no_factor():
    engine = CpuEngine(threads=1)
    for math in MATHS:
        assert worst_error(engine, problem_of("pointwise", math=math), 0) <= 1
    engine.close()


def test_what_cannot_be_rounded_has_the_precision_of_its_dtype():
    half = np.dtype(np.float16)
    problem = problem_of("dense", math="bfloat16")
    assert with_math(problem, "float32").geometry.math == "bfloat16"
    assert with_math(replace(problem, types=types_of(half, half)), "tf32").geometry.math == "float32"
    assert with_math(problem_of("dense", exact=True), "tf32").geometry.math == "float32"
    assert with_math(problem_of("dense"), "tf32").geometry.math == "tf32"


def test_it_is_checked():
    with pytest.raises(InvalidArgumentError, match="math: expected one of float32, tf32, float16, bfloat16, got 'fp8'"):
        ConvSpec(math="fp8")  # type: ignore[arg-type]
    with pytest.raises(InvalidArgumentError, match="math: expected float32 together with exact, got 'tf32'"):
        ConvSpec(math="tf32", exact=True)
    assert ConvSpec(math="float32", exact=True).exact
    with pytest.raises(InvalidArgumentError, match="math: expected one of float32"):
        spec_from_wire(spec_pb2.ConvSpec(math=9))  # type: ignore[arg-type]


@pytest.mark.parametrize("math", [None, *MATHS])
def test_it_travels(math: Any):
    spec = ConvSpec(math=math)
    assert spec_from_wire(spec_to_wire(spec)).math == math
    problem = problem_of("dense", math=math)
    (piece, *_), *_ = pieces([problem], Cut(batch=2, space=(1, 1))) or []
    assert piece.problem.geometry.math == math
