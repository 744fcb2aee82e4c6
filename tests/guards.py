"""Arrays between guard bytes: they show what compiled code writes outside its output, or leaves out of it."""

from typing import Any

import numpy as np

from groupconv_worker.contract import Algorithm, Problem

GUARD = 4096
"""Bytes before and behind an array."""


def guarded(array: np.ndarray, shift: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """A copy of `array` between guard bytes, `shift` bytes behind an aligned address, and all of its memory."""
    memory = np.full(array.nbytes + 2 * GUARD + shift, 0xA5, np.uint8)
    copy = memory[GUARD + shift : GUARD + shift + array.nbytes].view(array.dtype).reshape(array.shape)
    copy[...] = array
    return copy, memory


def outputs(shape: tuple[int, ...], dtype: np.dtype) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """Arrays of `shape` as a request's shards get them, each with all of the memory around it."""

    def within(whole: tuple[int, ...], part: tuple[slice, ...]) -> tuple[np.ndarray, np.ndarray]:
        array, memory = guarded(np.zeros(whole, dtype))
        return array[part], memory

    every, (batch, channels, *space) = (slice(None),), shape
    return {
        "whole": within(shape, every),
        "channels": within((batch, channels + 3, *space), (*every, slice(1, 1 + channels))),
        "rows": within((batch, channels, space[0] + 2, *space[1:]), (*every * 2, slice(1, 1 + space[0]))),
        "columns": within((*shape[:-1], shape[-1] + 5), (..., slice(2, 2 + shape[-1]))),
        "every other sample": within((2 * batch, *shape[1:]), (slice(1, None, 2),)),
    }


def check_in_bounds(
    algorithm: Algorithm,
    problem: Problem,
    x: np.ndarray,
    weight: np.ndarray,
    bias: np.ndarray | None = None,
    *,
    resident: bool = True,
    layouts: tuple[str, ...] = ("whole", "channels", "rows", "columns", "every other sample"),
    shift: int = 0,
) -> np.ndarray:
    """Run, and assert that every byte of the output is written, none around it, none of what it is made from.

    The input lies `shift` bytes behind an aligned address, as it may in a message.

    Returns:
        The output.
    """
    given: list[Any] = [guarded(x, shift), *(None if a is None else guarded(a) for a in (weight, bias))]
    before = [None if pair is None else pair[1].copy() for pair in given]
    arrays = [None if pair is None else pair[0] for pair in given]
    prepared = algorithm.prepare(problem, arrays[1], arrays[2], resident=resident)
    shape = problem.geometry.with_batch(len(x)).output_shape
    found: list[np.ndarray] = []
    for name, (out, memory) in outputs(shape, problem.types.output).items():
        if name not in layouts:
            continue
        for pattern in (0xA5, 0x5A):
            memory[...] = pattern
            prepared.run(arrays[0], out)
            found.append(out.copy())
            out[...] = np.full(1, pattern * 0x0101010101010101, np.uint64).view(out.dtype)[0]
            assert (memory == pattern).all(), f"{algorithm.name}, {name}: bytes around the output were changed"
        # an element that nobody writes shows two patterns
        np.testing.assert_array_equal(found[-1].view(np.uint8), found[-2].view(np.uint8), err_msg=name)
    for pair, was in zip(given, before, strict=True):
        assert pair is None or (pair[1] == was).all(), f"{algorithm.name} changed its input or weights"
    return found[0]
