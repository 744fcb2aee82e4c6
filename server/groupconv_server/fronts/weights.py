"""The weights of a layer in memory that all processes map, so that they exist once."""

import mmap
import os
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from groupconv.convolution.spec import ConvSpec
from groupconv.convolution.steps import Array, Step
from groupconv_server.coordinator.steps import Inputs

ALIGNMENT = 64


@dataclass(frozen=True, slots=True)
class ArrayAt:
    """An array in the memory: its dtype, its shape, and where its bytes begin."""

    dtype: np.dtype
    shape: tuple[int, ...]
    offset: int


@dataclass(frozen=True, slots=True)
class LayerAbout:
    """A layer without its weights: spec, kernel and bias of each step, and the inputs to prepare for."""

    steps: tuple[tuple[ConvSpec, ArrayAt, ArrayAt | None], ...]
    inputs: Inputs


def share(steps: Sequence[Step], inputs: Inputs) -> tuple[LayerAbout, int]:
    """Copy the weights of `steps` into new shared memory.

    Returns:
        The layer, and a descriptor of the memory that the caller closes.
    """
    size, arrays = 0, []

    def add(array: Array) -> ArrayAt:
        nonlocal size
        at = ArrayAt(array.dtype, array.shape, size)
        arrays.append((at, array))
        size += -(-array.nbytes // ALIGNMENT) * ALIGNMENT
        return at

    about = tuple((s.spec, add(s.kernel), None if s.bias is None else add(s.bias)) for s in steps)
    handle = memory_of(max(1, size))
    with mmap.mmap(handle, 0) as memory:
        for at, array in arrays:
            _view(memory, at)[...] = array
    return LayerAbout(about, inputs), handle


def memory_of(size: int) -> int:
    """A descriptor of new memory that has no name."""
    handle = os.memfd_create("groupconv-weights")
    os.ftruncate(handle, size)
    return handle


def mapped(about: LayerAbout, handle: int) -> list[Step]:
    """The steps with read-only views of their weights. The memory stays mapped as long as one of them is held."""
    memory = mmap.mmap(handle, 0, prot=mmap.PROT_READ)
    return [
        Step(_view(memory, kernel), None if bias is None else _view(memory, bias), spec)
        for spec, kernel, bias in about.steps
    ]


def _view(memory: mmap.mmap, at: ArrayAt) -> Array:
    return np.ndarray(at.shape, at.dtype, memory, at.offset)
