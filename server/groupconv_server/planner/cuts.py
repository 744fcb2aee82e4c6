"""The cuts themselves: which slices of input, kernel and output make one piece.

| cut along | a piece reads | and its results |
| --- | --- | --- |
| group | its channels, its filters | are concatenated on channels |
| batch | its samples, all filters | are concatenated on the batch |

Both are exact: every output is summed from the same terms in the same order as without the cut.
"""

from collections.abc import Iterator
from dataclasses import dataclass, replace

from groupconv.geometry import Geometry
from groupconv.plan import Range


@dataclass(frozen=True, slots=True)
class Piece:
    """One part of a convolution: its own geometry, and where it lies in the whole.

    Attributes:
        geometry: of the piece.
        input, kernel, output: a range per dimension of the whole's arrays.
    """

    geometry: Geometry
    input: tuple[Range, ...]
    kernel: tuple[Range, ...]
    output: tuple[Range, ...]


def split(extent: int, parts: int) -> list[Range]:
    """`extent` cells in `parts` ranges, none empty, whose lengths differ by one at most.

    Example:
        >>> [str(r) for r in split(8, 3)]
        ['0:3', '3:6', '6:8']
    """
    parts = min(parts, extent)
    size, longer = divmod(extent, parts)
    ranges, start = [], 0
    for i in range(parts):
        stop = start + size + (i < longer)
        ranges.append(Range(start, stop))
        start = stop
    return ranges


def pieces(g: Geometry, *, groups: int = 1, batch: int = 1) -> Iterator[Piece]:
    """Cut `g` into `groups` × `batch` pieces, group by group.

    Example:
        >>> from groupconv import ConvSpec, resolve
        >>> g = resolve(ConvSpec(groups=2, padding=2), (1, 96, 27, 27), (256, 48, 5, 5))
        >>> [str(p.output[1]) for p in pieces(g, groups=2)]
        ['0:128', '128:256']
    """
    c, m = g.in_channels // g.groups, g.out_channels // g.groups  # channels of one group
    for i in split(g.groups, groups):
        inputs, outputs = Range(i.start * c, i.stop * c), Range(i.start * m, i.stop * m)
        kernels = inputs if g.transposed else outputs  # the kernel's first dimension
        activation = g.activation and g.activation.channels(outputs.start, outputs.stop)
        for n in split(g.batch, batch):
            geometry = replace(
                g,
                batch=n.stop - n.start,
                in_channels=inputs.stop - inputs.start,
                out_channels=outputs.stop - outputs.start,
                groups=i.stop - i.start,
                activation=activation,
            )
            space_in, space_out = (tuple(Range(0, e) for e in extents) for extents in (g.input, g.output))
            kernel = (kernels, *(Range(0, e) for e in g.weight_shape[1:]))
            yield Piece(geometry, (n, inputs, *space_in), kernel, (n, outputs, *space_out))
