"""The halo: which input cells a range of outputs needs along one axis, and the padding that remains.

Letters per axis: H input, K kernel, s stride, p_lo low padding, d dilation, H' output; outputs a up to b.

Convolution. Output o reads the padded cells o·s + k·d, k = 0 … K-1, and padded cell i is input cell i - p_lo. The
first cell that outputs a … b-1 read and one past the last are therefore

    first = a·s - p_lo                 stop = (b-1)·s + d·(K-1) + 1 - p_lo                                      (1)

so two neighbors share d·(K-1) + 1 - s cells: the halo.

Transposed. Input i adds to the cells i·s + k·d of the uncropped output, and output o is its cell o + p_lo. Input i
meets [a, b) if i·s <= b-1 + p_lo and i·s + d·(K-1) >= a + p_lo:

    first = ceil((a + p_lo - d·(K-1)) / s)          stop = floor((b-1 + p_lo) / s) + 1                          (2)

A shard that holds `first` as its cell 0 begins its uncropped output at first·s, so it crops a + p_lo - first·s cells
there; what the extent formula (`groupconv.convolution.geometry`) then leaves too long or too short is cropped at the
end or becomes output padding. (3)

Cells before 0 or past H are padding. The worker makes zeros, reflections and replicas from the cells that it holds.
Circular padding is data from the other end, so such a range wraps around.
"""

from collections.abc import Callable, Sequence
from typing import NamedTuple

from groupconv.convolution.geometry import Geometry
from groupconv.convolution.padding import Pair, effective_extent
from groupconv.convolution.plan import Range
from groupconv.convolution.spec import PaddingMode


class Axis(NamedTuple):
    """One spatial axis of a convolution: extents H, K, H' and parameters."""

    input: int
    kernel: int
    output: int
    stride: int
    padding: Pair
    dilation: int
    output_padding: int
    mode: PaddingMode
    transposed: bool


class AxisPart(NamedTuple):
    """A shard's part of an axis.

    Attributes:
        input: cells that it reads. A stop beyond the axis wraps around (circular padding).
        output: cells that it computes.
        stride, padding, output_padding: of the shard's own convolution.
    """

    input: Range
    output: Range
    stride: int
    padding: Pair
    output_padding: int


def axis_of(g: Geometry, axis: int) -> Axis:
    """Spatial axis `axis` of a convolution."""
    return Axis(
        g.input[axis],
        g.kernel[axis],
        g.output[axis],
        g.stride[axis],
        g.padding[axis],
        g.dilation[axis],
        g.output_padding[axis],
        g.padding_mode,
        g.transposed,
    )


def needed(axis: Axis, outputs: Range) -> Range:
    """Input cells that `outputs` read, by (1) or (2). Cells outside the axis are padding.

    Example:
        >>> three = Axis(8, 3, 8, 1, (1, 1), 1, 0, "zeros", False)
        >>> str(needed(three, Range(4, 8)))
        '3:9'
    """
    low, reach = axis.padding[0], effective_extent(axis.kernel, axis.dilation) - 1
    if axis.transposed:
        return Range(-((reach - outputs.start - low) // axis.stride), (outputs.stop - 1 + low) // axis.stride + 1)
    return Range(outputs.start * axis.stride - low, (outputs.stop - 1) * axis.stride + reach + 1 - low)


def part(axis: Axis, outputs: Range) -> AxisPart | None:
    """The part of an axis that computes `outputs` from the cells that they need.

    Returns:
        None if these outputs are no convolution by themselves: they read only padding, they reflect cells outside the
        part, or they begin in a gap between the inputs of a transposed convolution.

    Example:
        >>> three = Axis(8, 3, 8, 1, (1, 1), 1, 0, "zeros", False)
        >>> part(three, Range(4, 8))
        AxisPart(input=Range(start=3, stop=8), output=Range(start=4, stop=8), stride=1, padding=(0, 1),
                 output_padding=0)
    """
    if outputs == (0, axis.output):
        return AxisPart(Range(0, axis.input), outputs, axis.stride, axis.padding, axis.output_padding)
    cells = needed(axis, outputs)
    if axis.transposed:
        return _transposed(axis, outputs, cells)
    stride = axis.stride if outputs.stop - outputs.start > 1 else 1  # the stride of one output does not matter
    if axis.mode == "circular":
        return AxisPart(*_wrapped(axis.input, cells, outputs, stride))
    held = Range(max(0, cells.start), min(axis.input, cells.stop))
    low, high = max(0, -cells.start), max(0, cells.stop - axis.input)
    if held.start >= held.stop:
        return None
    if axis.mode == "reflect" and ((low and held.stop <= low) or (high and held.start >= axis.input - high)):
        return None
    return AxisPart(held, outputs, stride, (low, high), 0)


def trimmed(axis: Axis, outputs: Range) -> AxisPart | None:
    """As `part`, but without input cells of a transposed convolution that reach no output.

    Example:
        >>> cropped = Axis(3, 1, 2, 1, (1, 0), 1, 0, "zeros", True)  # cell 0 reaches no output
        >>> str(part(cropped, Range(0, 2)).input), str(trimmed(cropped, Range(0, 2)).input)
        ('0:3', '1:3')
    """
    exact = _transposed(axis, outputs, needed(axis, outputs)) if axis.transposed else None
    return exact or part(axis, outputs)


def chain_parts(
    axes: Sequence[Axis], outputs: Range, part_of: Callable[[Axis, Range], AxisPart | None] = part
) -> tuple[AxisPart, ...] | None:
    """The part of an axis in each step of a chain: the last computes `outputs`, the others what the next one needs.

    Returns:
        None if a step cannot be cut like this, or a step after the first would wrap around.
    """
    backwards: list[AxisPart] = []
    for axis in reversed(axes):
        read = part_of(axis, outputs)
        if read is None or (backwards and outputs.stop > axis.output):
            return None
        backwards.append(read)
        outputs = read.input
    return tuple(reversed(backwards))


def _wrapped(extent: int, cells: Range, outputs: Range, stride: int) -> tuple[Range, Range, int, Pair, int]:
    """A contiguous range of at most the whole axis, rotated. The worker wraps around for cells beyond that."""
    excess = max(0, cells.stop - cells.start - extent)
    low = excess // 2  # <= H on either side, like p_lo and p_hi
    start = (cells.start + low) % extent
    held = Range(start, start + cells.stop - cells.start - excess)
    return held, outputs, stride, (low, excess - low), 0


def _transposed(axis: Axis, outputs: Range, cells: Range) -> AxisPart | None:
    held = Range(max(0, cells.start), min(axis.input, cells.stop))
    low = outputs.start + axis.padding[0] - held.start * axis.stride
    if held.start >= held.stop or low < 0:
        return None
    uncropped = (held.stop - held.start - 1) * axis.stride + effective_extent(axis.kernel, axis.dilation)
    high = uncropped - low - (outputs.stop - outputs.start)  # (3)
    return AxisPart(held, outputs, axis.stride, (low, max(0, high)), max(0, -high))
