"""The convolutions that workers are measured with."""

import itertools

import numpy as np

from groupconv.convolution import cost
from groupconv.convolution.dtypes import types_of
from groupconv.convolution.geometry import resolve
from groupconv.convolution.spec import ConvSpec
from groupconv_worker.contract import Problem

F32 = np.dtype("float32")

Size = tuple[tuple[int, ...], tuple[int, ...], ConvSpec]
"""Shapes of input and kernel, and the rest."""
# Of each class: a small one, a large one, and one that fills a GPU. That has more than 1 G
# multiply-adds, but for the depthwise one: it moves 100 MB, which takes longer
SIZES: dict[str, list[Size]] = {
    "dense": [
        *(((1, c, hw, hw), (c, c, 3, 3), ConvSpec(padding=1)) for c, hw in ((16, 8), (64, 28))),
        ((8, 128, 56, 56), (128, 128, 3, 3), ConvSpec(padding=1)),
    ],
    "pointwise": [
        *(((1, c, hw, hw), (c, c, 1, 1), ConvSpec()) for c, hw in ((32, 8), (128, 28))),
        ((8, 512, 28, 28), (512, 512, 1, 1), ConvSpec()),
    ],
    "grouped": [
        *(((1, c, hw, hw), (c, 4, 3, 3), ConvSpec(padding=1, groups=c // 4)) for c, hw in ((16, 8), (128, 28))),
        ((8, 320, 56, 56), (320, 16, 3, 3), ConvSpec(padding=1, groups=20)),
    ],
    "depthwise": [
        *(((1, c, hw, hw), (c, 1, 3, 3), ConvSpec(padding=1, groups=c)) for c, hw in ((8, 8), (64, 56))),
        ((8, 128, 112, 112), (128, 1, 3, 3), ConvSpec(padding=1, groups=128)),
    ],
    "transposed": [
        *(((1, c, hw, hw), (c, c // 2, 2, 2), ConvSpec(stride=2, transposed=True)) for c, hw in ((16, 8), (64, 28))),
        ((8, 128, 28, 28), (128, 128, 4, 4), ConvSpec(stride=2, padding=1, transposed=True)),
    ],
}
COPY = ((1, 64, 112, 112), (64, 1, 1, 1), ConvSpec(groups=64))
NOTHING = ((1, 1, 1), (1, 1, 1), ConvSpec())


def problems() -> list[Problem]:
    """The problems by which a CPU is measured, for those who compile their kernels ahead."""
    return [problem_of(*size) for size in (COPY, NOTHING, *itertools.chain(*(sizes[:2] for sizes in SIZES.values())))]


def problem_of(x: tuple[int, ...], w: tuple[int, ...], spec: ConvSpec) -> Problem:
    """The problem of a size, in float32."""
    return Problem(resolve(spec, x, w), types_of(F32, F32))


def bytes_moved(problem: Problem) -> int:
    """Bytes of input, kernel and output."""
    return cost.bytes_in(problem.geometry, problem.types) + cost.bytes_out(problem.geometry, problem.types)
