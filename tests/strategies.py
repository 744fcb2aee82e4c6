"""Hypothesis strategies: legal convolutions of every variant, with small arrays to run them on."""

from dataclasses import dataclass
from typing import Any

import numpy as np
from hypothesis import assume
from hypothesis import strategies as st

from groupconv.convolution.dtypes import DTYPES, Types, is_float, types_of
from groupconv.convolution.geometry import Geometry, resolve
from groupconv.convolution.spec import ACTIVATIONS, DEFAULT_SLOPE, PADDING_MODES, Activation, ConvSpec
from groupconv.errors import InvalidArgumentError

MAX_EXTENT = {1: 24, 2: 9, 3: 6}
INTEGERS = ("int8", "uint8", "int32")
FLOATS = ("float16", "bfloat16", "float32", "float64")


@dataclass
class Case:
    """A legal convolution and arrays for it."""

    spec: ConvSpec
    x: np.ndarray
    weight: np.ndarray
    bias: np.ndarray | None
    geometry: Geometry
    types: Types


@st.composite
def cases(
    draw: Any,
    *,
    rank: int | None = None,
    dtypes: tuple[tuple[str, str], ...] = (("float32", "float32"),),
    transposed: bool | None = None,
    max_batch: int = 3,
    max_groups: int = 4,
    spec_activation: bool = True,
) -> Case:
    """Any legal spec with arrays of it; `dtypes` are the (input, kernel) pairs to draw from."""
    rank = rank or draw(st.integers(1, 3))
    input_dtype, weight_dtype = (DTYPES[name] for name in draw(st.sampled_from(dtypes)))
    types = types_of(input_dtype, weight_dtype)
    groups = draw(st.integers(1, max_groups))
    channels = groups * draw(st.integers(1, 3))
    per_group = draw(st.integers(1, 3))
    kernel = draw(per_axis(rank, 1, {1: 5, 2: 4, 3: 3}[rank]))
    extents = draw(per_axis(rank, 1, MAX_EXTENT[rank]))
    is_transposed = draw(st.booleans()) if transposed is None else transposed
    spec = draw(
        specs(
            rank,
            groups,
            groups * per_group,
            transposed=is_transposed,
            output=types.output if spec_activation else None,
        )
    )
    shape = (channels, per_group, *kernel) if is_transposed else (groups * per_group, channels // groups, *kernel)
    x_shape = (draw(st.integers(1, max_batch)), channels, *extents)
    try:
        geometry = resolve(spec, x_shape, shape)
    except InvalidArgumentError:
        assume(False)
        raise
    assume(np.prod(geometry.output_shape) <= 20_000 and np.prod(geometry.padded) <= 20_000)
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    bias = array(rng, (groups * per_group,), types.output if is_float(types.output) else DTYPES["int32"])
    return Case(
        spec=spec,
        x=array(rng, x_shape, input_dtype),
        weight=array(rng, shape, weight_dtype),
        bias=bias if draw(st.booleans()) else None,
        geometry=geometry,
        types=types,
    )


@st.composite
def square_cases(
    draw: Any, *, depthwise: bool, dtypes: tuple[tuple[str, str], ...] = (("float32", "float32"),)
) -> Case:
    """Square kernels at stride 1 or 2, padded by zeros; half of the rows are whole vectors.

    One channel per group and kernels of 3, 5 and 7, or any channels, more than one filter and kernels of 3.
    """
    input_dtype, weight_dtype = (DTYPES[name] for name in draw(st.sampled_from(dtypes)))
    types = types_of(input_dtype, weight_dtype)
    groups, stride = draw(st.integers(1, 5)), draw(st.integers(1, 2))
    if depthwise:
        channels, filters, kernel = 1, draw(st.sampled_from([1, 1, 1, 2])), draw(st.sampled_from([3, 5, 7]))
    else:
        channels, filters, kernel = draw(st.sampled_from([1, 2, 3, 4, 9, 17])), draw(st.integers(2, 9)), 3
    width = draw(st.one_of(st.integers(1, 30), st.sampled_from([8, 16, 24, 40])))
    pairs = st.tuples(*[st.tuples(st.integers(0, 4), st.integers(0, 4))] * 2)
    spec = ConvSpec(
        stride=stride,
        padding=draw(st.one_of(st.just(kernel // 2), pairs)),
        groups=groups,
        activation=draw(activations(groups * filters, types.output)),
        flip_kernel=draw(st.booleans()),
    )
    x_shape = (draw(st.integers(1, 3)), groups * channels, draw(st.integers(1, 20)), width)
    shape = (groups * filters, channels, kernel, kernel)
    try:
        geometry = resolve(spec, x_shape, shape)
    except InvalidArgumentError:
        assume(False)
        raise
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    bias = array(rng, shape[:1], types.output) if draw(st.booleans()) else None
    return Case(spec, array(rng, x_shape, input_dtype), array(rng, shape, weight_dtype), bias, geometry, types)


@st.composite
def specs(
    draw: Any, rank: int, groups: int, out_channels: int, *, transposed: bool, output: np.dtype | None
) -> ConvSpec:
    """A spec that is legal for some shape; whether it fits a given one, `resolve` decides."""
    stride, dilation = draw(per_axis(rank, 1, 3)), draw(per_axis(rank, 1, 3))
    rules = st.sampled_from(["same", "same_lower", "valid"])
    pairs = st.tuples(*[st.tuples(st.integers(0, 3), st.integers(0, 3))] * rank)
    bound = [max(s, d) - 1 for s, d in zip(stride, dilation, strict=True)]
    return ConvSpec(
        stride=stride,
        padding=draw(st.one_of(pairs, st.integers(0, 2), rules)),
        dilation=dilation,
        groups=groups,
        padding_mode="zeros" if transposed else draw(st.sampled_from(PADDING_MODES)),
        activation=None if output is None else draw(activations(out_channels, output)),
        transposed=transposed,
        output_padding=tuple(draw(st.integers(0, b)) for b in bound) if transposed else 0,
        flip_kernel=draw(st.booleans()),
    )


@st.composite
def activations(draw: Any, out_channels: int, output: np.dtype) -> Activation | None:
    """None or any activation the output dtype takes."""
    kind = draw(st.sampled_from([None, *(ACTIVATIONS if is_float(output) else ("relu",))]))
    if kind is None:
        return None
    count = {"leaky_relu": 1, "prelu": draw(st.sampled_from([1, out_channels]))}.get(kind, 0)
    slopes = st.lists(st.sampled_from([0.1, 0.25, -0.5]), min_size=count, max_size=count)
    return Activation(kind, tuple(draw(slopes)) if kind in DEFAULT_SLOPE else ())


def per_axis(rank: int, least: int, most: int) -> st.SearchStrategy[tuple[int, ...]]:
    return st.tuples(*[st.integers(least, most)] * rank)


def array(rng: np.random.Generator, shape: tuple[int, ...], dtype: np.dtype) -> np.ndarray:
    """Random values: normal floats, integers of the whole range (int32: moderate)."""
    if is_float(dtype):
        return rng.standard_normal(shape).astype(dtype)
    info = np.iinfo(np.int16 if dtype == np.int32 else dtype)
    return rng.integers(info.min, info.max, shape, dtype=dtype, endpoint=True)
