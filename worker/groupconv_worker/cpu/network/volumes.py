"""Lowering of windows over three axes. A volume lies as its slices, which are maps, one behind the other.

A convolution of volumes is a sum of convolutions of maps: each slice of the filters meets one slice of the input for
each slice of the output. The sums are added up in the output, as residuals. Pools and Resize go along the slices first,
then over rows and columns.
"""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any, NamedTuple

import numpy as np

from groupconv_worker.contract import Array
from groupconv_worker.cpu.blocked.epilogue import FUSED, Epilogue
from groupconv_worker.cpu.blocked.lowered import Lowered
from groupconv_worker.cpu.network.convolutions import geometry, operands, stages_of
from groupconv_worker.cpu.network.kernels import movement, windows
from groupconv_worker.cpu.network.lowering import CpuLowering, Map
from groupconv_worker.cpu.network.maps import axis_matrix, pool_maps, resize_maps, two_of_each
from groupconv_worker.cpu.network.pointwise import apply_in_place
from groupconv_worker.graph.graph import Node, UnsupportedNodeError

Term = tuple[int, int]
"""A slice of the filters, and the slice of the input that it meets."""


class Depth(NamedTuple):
    """A window along the slices.

    Attributes:
        extent, made: slices of a sample of the input, of the output.
        kernel, stride, dilation, before, after: of the window.
    """

    extent: int
    made: int
    kernel: int
    stride: int
    dilation: int
    before: int
    after: int

    @classmethod
    def of(cls, low: CpuLowering, node: Node, kernel: int) -> "Depth":
        """The window of a node whose kernel has so many slices."""
        extent, out = (low.shape(name)[2] for name in (node.inputs[0], node.outputs[0]))
        pads, (stride, *_), (dilation, *_) = (node.attributes[name] for name in ("pads", "strides", "dilations"))
        return cls(extent, out, kernel, stride, dilation, pads[0], pads[3])

    def terms(self, slice_: int, *, transposed: bool) -> list[Term]:
        """What a slice of a convolution's output is the sum of.

        Example:
            >>> Depth(4, 4, 3, 1, 1, 1, 1).terms(0, transposed=False)
            [(1, 0), (2, 1)]
            >>> Depth(2, 4, 2, 2, 1, 0, 0).terms(3, transposed=True)
            [(1, 1)]
        """
        if transposed:
            ends = ((tap, slice_ + self.before - tap * self.dilation) for tap in range(self.kernel))
            met = [(tap, end // self.stride) for tap, end in ends if end % self.stride == 0]
        else:
            met = [(tap, slice_ * self.stride + tap * self.dilation - self.before) for tap in range(self.kernel)]
        return [(tap, at) for tap, at in met if 0 <= at < self.extent]


def lower_convolution(low: CpuLowering, node: Node) -> None:
    """Conv and ConvTranspose of volumes, with bias, residual and activation."""
    g = geometry(low.graph, node)
    weight, bias, residual = operands(low, node)
    x, y, depth = low.map(node.inputs[0]), low.new_map(node.outputs[0]), Depth.of(low, node, weight.shape[2])
    after = node.attribute("activation", ())
    fused = not after or after[0] in FUSED
    by_tap: dict[tuple[int, bool, bool], Lowered] = {}
    for n in range(y.samples):
        sample, slice_ = divmod(n, depth.made)
        terms = depth.terms(slice_, transposed=node.op == "ConvTranspose")
        if not terms:
            raise UnsupportedNodeError("slices of the output that meet no slice of the input")
        for i, (tap, at) in enumerate(terms):
            first, last = i == 0, i + 1 == len(terms)
            added = residual if first else y
            if (tap, first, last) not in by_tap:
                epilogue = Epilogue(after if last and fused else (), None if added is None else added.layout)
                filters = np.ascontiguousarray(weight[:, :, tap])
                layouts = x.layout, y.layout
                lowered = stages_of(low, node, g, layouts, filters, bias if first else None, epilogue)
                if lowered is None:
                    return
                alike = next((other for key, other in by_tap.items() if key[0] == tap), lowered)
                by_tap[tap, first, last] = sharing(lowered, alike)
            scratch, source = low.assembly.block(by_tap[tap, first, last].scratch), x.sample(sample * depth.extent + at)
            bases = scratch, scratch, source, y.sample(n), source if added is None else added.sample(n)
            low.assembly.extend(by_tap[tap, first, last].stages, bases)
    if not fused:
        apply_in_place(low, y, after)


def sharing(lowered: Lowered, other: Lowered) -> Lowered:
    """The same stages with the arrays of others where these are equal: packed filters are kept once."""

    def one(word: Any, theirs: Any) -> Any:
        alike = isinstance(word, np.ndarray) and isinstance(theirs, np.ndarray) and np.array_equal(word, theirs)
        return theirs if alike else word

    stages = tuple(
        replace(stage, words=[one(*pair) for pair in zip(stage.words, like.words, strict=True)])
        for stage, like in zip(lowered.stages, other.stages, strict=True)
    )
    return replace(lowered, stages=stages)


def lower_pool(low: CpuLowering, node: Node) -> None:
    """MaxPool, AveragePool and the global pools, of volumes."""
    if len(node.outputs) > 1 and any(node.outputs[1:]):
        raise UnsupportedNodeError("indices")
    x, y = low.map(node.inputs[0]), low.new_map(node.outputs[0])
    kind = windows.LARGEST if "Max" in node.op else windows.MEAN
    if node.op.startswith("Global"):
        extents = low.shape(node.inputs[0])[2:]
        depth = Depth(extents[0], 1, extents[0], 1, 1, 0, 0)
        flat: Sequence[Any] = extents[1:], (1, 1), (1, 1), (0, 0, 0, 0)
    else:
        kernel, strides, dilations, pads = (
            node.attributes[name] for name in ("kernel_shape", "strides", "dilations", "pads")
        )
        depth = Depth.of(low, node, kernel[0])
        flat = kernel[1:], strides[1:], dilations[1:], (*pads[1:3], *pads[4:])
    padded = int(bool(node.attribute("count_include_pad", 0)))
    if depth.made != depth.extent or depth.kernel > 1:
        x = _pool_slices(low, x, depth, kind, padded)
    pool_maps(low, x, y, kind, flat, padded)


def _pool_slices(low: CpuLowering, x: Map, depth: Depth, kind: int, padded: int) -> Map:
    """A pool along the slices, cell by cell."""
    y = _slices(low, x, x.samples // depth.extent * depth.made)
    cells = x.layout.plane
    window = (depth.kernel, 1, depth.stride, 1, depth.dilation, 1, depth.before, 0, depth.after, 0, padded)
    words = (kind, depth.extent, cells, depth.made, cells, *window, x.plane, x.step // 4, y.plane, y.step // 4)
    for n in range(x.samples // depth.extent):
        bases = x.sample(n * depth.extent), y.sample(n * depth.made)
        low.assembly.add(low.assembly.kernel(windows.pool), (*bases, *words), x.layout.blocks * depth.made)
    return y


def lower_resize(low: CpuLowering, node: Node) -> None:
    """Resize of volumes, whose elements come along each axis from at most two of the input's."""
    before, after = low.shape(node.inputs[0]), low.shape(node.outputs[0])
    if before[:2] != after[:2]:
        raise UnsupportedNodeError("other channels")
    x, y = low.map(node.inputs[0]), low.new_map(node.outputs[0])
    along, *flat = (axis_matrix(low, node, axis) for axis in (2, 3, 4))
    if not np.array_equal(along, np.eye(len(along))):
        x = _resize_slices(low, x, along)
    resize_maps(low, x, y, flat)


def _resize_slices(low: CpuLowering, x: Map, matrix: Array) -> Map:
    """Each slice from two others, cell by cell."""
    out_extent, extent = matrix.shape
    y = _slices(low, x, x.samples // extent * out_extent)
    cells = x.layout.plane
    table, shares = two_of_each(matrix)
    same, whole = np.repeat(np.arange(cells), 2), np.tile(np.array([1, 0], np.float32), cells)
    words = (out_extent, cells, table, same, shares, whole, x.plane, x.step // 4, y.plane, y.step // 4)
    for n in range(x.samples // extent):
        bases = x.sample(n * extent), y.sample(n * out_extent)
        low.assembly.add(low.assembly.kernel(movement.resize), (*bases, *words), x.layout.blocks * out_extent)
    return y


def _slices(low: CpuLowering, like: Map, samples: int) -> Map:
    """Memory for so many slices that lie as those of a map."""
    size = like.layout.nbytes
    return Map(low.assembly.block(samples * size), like.layout, size, samples)
