"""Convolutions on blocked tensors against the float64 reference: values, and which bytes are read and written."""

import os
import subprocess
import sys
from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from groupconv import ConvSpec, resolve
from groupconv.convolution.geometry import Geometry
from groupconv.errors import InvalidArgumentError
from groupconv_worker import reference
from groupconv_worker.cpu.blocked.convolution import convolution
from groupconv_worker.cpu.blocked.epilogue import Epilogue
from groupconv_worker.cpu.blocked.layout import LANES, Blocked, Plain, aligned, cells, plain
from groupconv_worker.cpu.kernels.target import VARIABLE, select_here, target
from groupconv_worker.cpu.program import Program, address
from groupconv_worker.cpu.stages import Scratch
from groupconv_worker.cpu.threads import Team
from groupconv_worker.cpu.workspace import BufferPool

EXAMPLES = int(os.environ.get("GROUPCONV_BLOCKED_EXAMPLES", "60"))
UNTOUCHED = np.uint32(0x7FC0BEEF)
"""A NaN that no kernel makes: what nobody may read, and what is found again where nobody wrote."""
GUARD = 64
"""Elements before and behind a tensor."""
ACTIVATIONS = (
    (),
    ("Relu",),
    ("Clip", -0.5, 1.5),
    ("LeakyRelu", 0.1),
    ("HardSigmoid", 0.3, 0.4),
    ("HardSwish",),
    ("Sigmoid",),
    ("Silu",),
    ("Tanh",),
)


@dataclass
class Case:
    """A convolution of one sample, its layouts and its arrays."""

    g: Geometry
    x: np.ndarray
    weight: np.ndarray
    bias: np.ndarray | None
    residual: np.ndarray | None
    x_layout: Blocked | Plain
    y_layout: Blocked
    epilogue: Epilogue
    use_winograd: bool = False


def margin(draw: Any, least: tuple[int, ...] = (0, 0, 0, 0)) -> Any:
    return tuple(n + extra for n, extra in zip(least, draw(st.tuples(*[st.integers(0, 2)] * 4)), strict=True))


@st.composite
def cases(draw: Any) -> Case:
    """Any kernel, stride, dilation, padding and grouping; channels that are whole vectors and such that are not."""
    extents = draw(st.tuples(st.integers(1, 9), st.integers(1, 33) | st.sampled_from([31, 45, 47])))
    counts = st.sampled_from([1, 2, 3, 4, 7, LANES - 1, LANES, LANES + 1, 2 * LANES, 2 * LANES + 3, 3 * LANES])
    is_plain = draw(st.booleans()) and draw(st.booleans())
    groups = 1 if is_plain else draw(st.sampled_from([1, 1, 2, 3, 4, 8, 19, 2 * LANES]))
    small = groups > 4
    channels = draw(st.integers(1, 4)) if small or is_plain else draw(counts)
    filters = draw(st.integers(1, 3)) if small else draw(counts)
    if groups > 1 and draw(st.booleans()):
        channels = filters = 1
    kernel = draw(st.tuples(st.integers(1, 3), st.sampled_from([1, 2, 3, 5])))
    transposed = not is_plain and draw(st.sampled_from([False, False, False, True]))
    steps = st.tuples(st.integers(1, 3), st.sampled_from([1, 2, 3, 4]))
    spec = ConvSpec(
        stride=draw(steps),
        padding=draw(st.tuples(*[st.tuples(st.integers(0, 2), st.integers(0, 3))] * 2)),
        dilation=draw(st.tuples(st.integers(1, 3), st.integers(1, 3))) if draw(st.booleans()) else 1,
        groups=groups,
        transposed=transposed,
    )
    C, M = groups * channels, groups * filters
    shape = (C, filters, *kernel) if transposed else (M, channels, *kernel)
    return build(draw, spec, (C, *extents), shape, is_plain=is_plain)


@st.composite
def winograd_cases(draw: Any) -> Case:
    """3×3 kernels at stride 1 on maps of whole tiles and of parts of them."""
    channels, filters = draw(st.tuples(*[st.sampled_from([1, 3, LANES, LANES + 1, 2 * LANES, 3 * LANES + 2])] * 2))
    extents = draw(st.tuples(st.integers(1, 19), st.integers(1, 30)))
    groups = draw(st.integers(1, 3)) if channels % LANES == filters % LANES == 0 else 1
    pads = draw(st.tuples(*[st.tuples(st.integers(0, 2), st.integers(0, 2))] * 2))
    spec = ConvSpec(padding=pads, groups=groups)
    case = build(draw, spec, (groups * channels, *extents), (groups * filters, channels, 3, 3))
    case.use_winograd = True
    return case


def build(draw: Any, spec: ConvSpec, x_shape: Any, shape: Any, *, is_plain: bool = False) -> Case:
    """A case of these shapes, with any margins, epilogue and arrays."""
    try:
        g = resolve(spec, (1, *x_shape), shape)
        x_layout = Plain(*x_shape) if is_plain else Blocked(*x_shape, margin=margin(draw, (6, 8, 8, 10)))
        output = (g.out_channels, *g.output)
        y_layout = Blocked(*output, margin=margin(draw))
        residual_layout = Blocked(*output, margin=margin(draw)) if draw(st.booleans()) else None
        epilogue = Epilogue(draw(st.sampled_from(ACTIVATIONS)), residual_layout)
        convolution(g, x_layout, y_layout, np.zeros(shape, np.float32), None, epilogue)
    except (InvalidArgumentError, ValueError):
        assume(False)
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    x, weight, bias, residual = (
        rng.standard_normal(size).astype(np.float32) for size in (x_shape, shape, output[0], output)
    )
    has_bias, has_residual = draw(st.booleans()), residual_layout is not None
    arrays = bias if has_bias else None, residual if has_residual else None
    return Case(g, x, weight, *arrays, x_layout, y_layout, epilogue)


class Guarded:
    """A tensor in memory of its own, between guards; what is not set holds UNTOUCHED."""

    def __init__(self, layout: Blocked | Plain) -> None:
        self.layout = layout
        self.memory = aligned(2 * GUARD + layout.nbytes // 4)
        self.memory.view(np.uint32)[:] = UNTOUCHED
        self.flat = self.memory[GUARD:-GUARD]
        self.written = np.zeros(len(self.memory), bool)

    def set(self, x: np.ndarray, *, zero_margin: bool = False) -> None:
        """Put the sample in; around a blocked one with zeros as padding."""
        if isinstance(self.layout, Plain):
            self.flat[: x.size] = x.reshape(-1)
            return
        if zero_margin:
            whole = self.flat[: self.layout.blocks * self.layout.plane * self.layout.lanes]
            whole.reshape(-1, self.layout.lanes)[:, :] = 0
            cells(self.flat, self.layout).view(np.uint32)[:] = UNTOUCHED
        grid = cells(self.flat, self.layout)
        for channel, values in enumerate(x):
            grid[channel // self.layout.lanes, :, :, channel % self.layout.lanes] = values

    def outside(self) -> np.ndarray:
        """The bits of what lies outside the map: margins and guards."""
        copy = self.memory.copy()
        assert isinstance(self.layout, Blocked)
        cells(copy[GUARD:-GUARD], self.layout).view(np.uint32)[:] = UNTOUCHED
        return copy.view(np.uint32)


def run(case: Case, threads: int = 1) -> np.ndarray:
    """What the kernels make of a case, after a look at all bytes that they must not write."""
    x, y = Guarded(case.x_layout), Guarded(case.y_layout)
    x.set(case.x, zero_margin=True)
    other = 0
    if case.epilogue.residual is not None:
        residual = Guarded(case.epilogue.residual)
        residual.set(case.residual)
        other = address(residual.flat)
    arrays = case.weight, case.bias, case.epilogue
    lowered = convolution(case.g, case.x_layout, case.y_layout, *arrays, use_winograd=case.use_winograd)
    scratch = Scratch()
    scratch.room(lowered.scratch, np.dtype(np.uint8))
    team = Team(threads)
    try:
        Program(team, BufferPool(), lowered.stages, scratch).run(x.flat[None], y.flat[None], (other, 0))
    finally:
        team.close()
    assert (y.outside() == UNTOUCHED).all(), "bytes outside the output were written"
    return plain(y.flat, case.y_layout)


def activated(x: np.ndarray, activation: tuple[Any, ...]) -> np.ndarray:
    name, *parameters = activation or ("",)
    return {
        "": lambda: x,
        "Relu": lambda: np.maximum(x, 0),
        "Clip": lambda low, high: np.clip(x, low, high),
        "LeakyRelu": lambda slope: np.where(x < 0, slope * x, x),
        "HardSigmoid": lambda alpha, beta: np.clip(alpha * x + beta, 0, 1),
        "HardSwish": lambda: x * np.clip(x / 6 + 0.5, 0, 1),
        "Sigmoid": lambda: 1 / (1 + np.exp(-x)),
        "Silu": lambda: x / (1 + np.exp(-x)),
        "Tanh": lambda: np.tanh(x),
    }[name](*parameters)


def expected(case: Case) -> tuple[np.ndarray, np.ndarray]:
    """The sums of a case in float64 after the epilogue, and the error that they may have."""
    bias = None if case.bias is None else np.abs(case.bias)
    want = reference.convolve(case.x[None], case.weight, case.bias, case.g)[0]
    magnitude = reference.convolve(np.abs(case.x[None]), np.abs(case.weight), bias, case.g)[0]
    if case.residual is not None:
        want, magnitude = want + case.residual, magnitude + np.abs(case.residual)
    terms = np.prod(case.g.weight_shape[1:]) + 4
    slope = 1.2  # the steepest of the activations, Silu's and HardSwish's
    return activated(want, case.epilogue.activation), slope * (terms + 4) * 2.0**-24 * (magnitude + 1)


@settings(max_examples=EXAMPLES)
@given(cases())
def test_it_agrees_with_the_reference_and_writes_the_map_alone(case):
    want, bound = expected(case)
    got = run(case)
    assert (np.abs(got - want) <= bound).all(), np.abs(got - want).max()


@st.composite
def pointwise_cases(draw: Any) -> Case:
    """1×1 kernels on tensors without margins, whose map is one row of several blocks."""
    channels, filters = draw(st.tuples(*[st.sampled_from([1, LANES, LANES + 3])] * 2))
    extents = draw(st.tuples(st.integers(1, 9), st.integers(1, 30)))
    case = build(draw, ConvSpec(), (channels, *extents), (filters, channels, 1, 1))
    case.x_layout, case.y_layout = Blocked(channels, *extents), Blocked(filters, *extents)
    if case.epilogue.residual is not None:
        case.epilogue = Epilogue(case.epilogue.activation, Blocked(filters, *extents))
    return case


@settings(max_examples=EXAMPLES // 2)
@given(pointwise_cases())
def test_a_map_without_margins_is_one_row(case):
    want, bound = expected(case)
    got = run(case)
    assert (np.abs(got - want) <= bound).all(), np.abs(got - want).max()


@settings(max_examples=EXAMPLES)
@given(winograd_cases())
def test_winograd_agrees_with_the_reference_and_writes_the_map_alone(case):
    want, bound = expected(case)
    # its error is relative to the tile: docs/convolution.md
    tile = 6 * np.sqrt(case.g.in_channels) * max(1.0, np.abs(case.x).max())
    bound = (
        bound + 20 * 2.0**-24 * np.linalg.norm(case.weight.reshape(len(case.weight), -1), axis=1)[:, None, None] * tile
    )
    got = run(case)
    assert (np.abs(got - want) <= bound).all(), np.abs(got - want).max()


@pytest.mark.parametrize("simd", [name for name in ("neon", "avx2", "avx512") if name != target().name])
@pytest.mark.skipif(VARIABLE in os.environ, reason="it runs for an instruction set already")
@pytest.mark.slow
def test_other_instruction_sets(simd):
    try:
        select_here(simd)
    except InvalidArgumentError as error:
        pytest.skip(str(error))
    environment = os.environ | {VARIABLE: simd, "GROUPCONV_BLOCKED_EXAMPLES": "200"}
    command = [sys.executable, "-m", "pytest", "-q", "-x", "-p", "no:cacheprovider", "--timeout=800", __file__]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=600, check=False)
    assert done.returncode == 0, done.stdout[-4000:] + done.stderr[-2000:]


def layer(channels: int, filters: int, size: int, kernel: int = 3, groups: int = 1, threads: int = 1) -> None:
    """A layer of ordinary size against the reference."""
    shape = (filters, channels // groups, kernel, kernel)
    g = resolve(ConvSpec(padding=kernel // 2, groups=groups), (1, channels, size, size), shape)
    rng = np.random.default_rng(1)
    x = rng.standard_normal(g.input_shape[1:]).astype(np.float32)
    weight = rng.standard_normal(g.weight_shape).astype(np.float32)
    pad = (kernel // 2,) * 4
    layouts = Blocked(channels, size, size, margin=pad), Blocked(filters, size, size)
    case = Case(g, x, weight, None, None, *layouts, Epilogue(("Relu",)))
    want, bound = expected(case)
    assert (np.abs(run(case, threads) - want) <= bound).all()


def test_many_channels_pass_in_chunks_and_threads_share_the_bands():
    layer(330, 70, 20, threads=2)


def test_layouts_that_do_not_fit_are_refused():
    g = resolve(ConvSpec(padding=1), (1, 4, 5, 5), (4, 4, 3, 3))
    weight, y = np.zeros((4, 4, 3, 3), np.float32), Blocked(4, 5, 5)
    with pytest.raises(ValueError, match=r"x: expected a margin of at least \(1, 1, 1, 1\), got \(1, 0, 1, 1\)"):
        convolution(g, Blocked(4, 5, 5, margin=(1, 0, 1, 1)), y, weight)
    with pytest.raises(ValueError, match="y: expected the layout of"):
        convolution(g, Blocked(4, 5, 5, margin=(1, 1, 1, 1)), Blocked(5, 5, 5), weight)
    with pytest.raises(ValueError, match="activation: expected Relu"):
        convolution(g, Blocked(4, 5, 5, margin=(1, 1, 1, 1)), y, weight, None, Epilogue(("Softplus",)))
