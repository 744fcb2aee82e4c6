"""The convolutions of the conformance suite: every variant, dtype, padding and activation, on small arrays."""

import zlib
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from groupconv import ConvSpec
from groupconv.convolution.dtypes import DTYPES, is_float
from groupconv.convolution.spec import ACTIVATIONS, Activation

Shape = tuple[int, ...]


@dataclass(frozen=True)
class Layer:
    """One step by its shapes; `bias` says whether it has one."""

    kernel: Shape
    spec: ConvSpec
    bias: bool = False


@dataclass(frozen=True)
class Named:
    """A chain of steps on an input, with a name and dtypes."""

    name: str
    shape: Shape
    layers: tuple[Layer, ...]
    dtype: str = "float32"
    kernel_dtype: str = "float32"


def convolutions() -> Iterator[Named]:
    """All of them."""
    square = (1, 2, 5, 6)

    def one(name: str, shape: Shape, kernel: Shape, *, bias: bool = False, **spec: object) -> Named:
        return Named(name, shape, (Layer(kernel, ConvSpec(**spec), bias),))

    yield one("standard", square, (3, 2, 3, 3), bias=True, padding=1)
    yield one("standard 1-D", (2, 2, 9), (3, 2, 3), stride=2)
    yield one("standard 3-D", (1, 2, 3, 4, 3), (2, 2, 2, 2, 2), padding=1, bias=True)
    yield one("even kernel, stride 2", (1, 1, 7, 7), (2, 1, 4, 2), stride=(2, 3), padding=1)
    yield one("padding on one side", square, (1, 2, 3, 3), padding=((0, 2), (1, 0)))
    yield one("same", (1, 1, 6, 7), (1, 1, 4, 4), padding="same", stride=2)
    yield one("same_lower", (1, 1, 6, 7), (1, 1, 4, 4), padding="same_lower", stride=2)
    yield one("valid", square, (1, 2, 3, 3), padding="valid")
    yield one("dilated", (1, 1, 9, 9), (1, 1, 3, 3), dilation=(2, 3), padding=2)
    yield one("grouped", (1, 4, 4, 4), (6, 2, 3, 3), groups=2, padding=1, bias=True)
    yield one("depthwise", (1, 3, 5, 5), (3, 1, 3, 3), groups=3, padding=1)
    yield one("depthwise, multiplier 2", (1, 3, 4, 4), (6, 1, 3, 3), groups=3, padding=1, bias=True)
    yield one("pointwise", square, (4, 2, 1, 1), bias=True)
    yield one("grouped pointwise", (1, 4, 3, 3), (4, 2, 1, 1), groups=2)
    yield one(
        "transposed", (1, 2, 3, 3), (2, 2, 3, 3), transposed=True, stride=2, padding=1, output_padding=1, bias=True
    )
    yield one("transposed, grouped", (1, 4, 3, 3), (4, 2, 2, 2), transposed=True, stride=2, groups=2)
    yield one("transposed, dilated 1-D", (1, 1, 4), (1, 2, 3), transposed=True, dilation=2, stride=2)
    yield one("transposed, same", (1, 1, 4, 4), (1, 1, 4, 4), transposed=True, stride=2, padding="same")
    yield one("flipped kernel", square, (1, 2, 3, 2), flip_kernel=True)
    yield one("exact", square, (2, 2, 3, 3), exact=True, padding=1)
    yield one("several samples", (3, 2, 3, 3), (2, 2, 2, 2), bias=True)
    yield one("no sample", (0, 2, 3, 3), (2, 2, 2, 2))
    for mode in ("reflect", "replicate", "circular"):
        yield one(f"padding mode {mode}", square, (1, 2, 3, 3), padding=(1, (2, 0)), padding_mode=mode)
    for kind in ACTIVATIONS:
        yield one(f"activation {kind}", (1, 1, 4, 4), (2, 1, 2, 2), activation=kind, bias=True)
    yield one(
        "prelu, a slope for each channel", (1, 1, 4, 4), (2, 1, 2, 2), activation=Activation("prelu", (0.5, -1.0))
    )
    plain = (Layer((3, 2, 3, 3), ConvSpec(padding=1), bias=True),)
    for dtype in ("float16", "bfloat16", "float64"):
        yield Named(f"{dtype}", square, plain, dtype, dtype)
    for dtype, kernel in (
        ("int8", "int8"),
        ("uint8", "int8"),
        ("int32", "int32"),
        ("uint8", "float32"),
        ("int32", "float64"),
    ):
        yield Named(f"{dtype} by {kernel}", square, plain, dtype, kernel)
    separable = (
        Layer((3, 1, 3, 3), ConvSpec(groups=3, padding=1)),
        Layer((4, 3, 1, 1), ConvSpec(activation="relu"), bias=True),
    )
    yield Named("depthwise separable", (1, 3, 5, 5), separable)
    column, row = ConvSpec(groups=2, padding=(1, 0)), ConvSpec(groups=2, padding=(0, 1))
    yield Named("spatially separable", square, (Layer((2, 1, 3, 1), column), Layer((2, 1, 1, 3), row)))


def values(name: str, shape: Shape, dtype: str) -> np.ndarray:
    """Eighths from -2 to below 2, or integers from -8 (uint8: 0) to 8; exact in every dtype, and fixed by the name."""
    rng = np.random.default_rng(zlib.crc32(name.encode()))
    if is_float(DTYPES[dtype]):
        return (rng.integers(-16, 16, shape) / 8).astype(DTYPES[dtype])
    return rng.integers(0 if dtype == "uint8" else -8, 9, shape).astype(DTYPES[dtype])
