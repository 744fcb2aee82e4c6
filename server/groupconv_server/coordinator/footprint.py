"""How much memory a request takes beside the message that it came in."""

from groupconv.convolution.cost import bytes_out, nbytes
from groupconv_worker.contract import Problem

IN_MESSAGE, IN_PLACE = 2, 0
"""Copies of an answer: the message, and gRPC's until the client has read it; none in the client's own memory."""


def footprint(problems: tuple[Problem, ...], copies: int = IN_MESSAGE) -> int:
    """Bytes that steps hold at a time: the costliest step, and the answer.

    A step holds its padded input in the dtype it accumulates in, if it pads or casts, and its output in that dtype, if
    it casts that; those between two steps, the input and the output themselves.

    Args:
        problems: the steps, the output of one being the input of the next.
        copies: of the answer, see `IN_MESSAGE`.

    Example:
        >>> import numpy as np
        >>> from groupconv import ConvSpec, resolve
        >>> from groupconv.convolution.dtypes import types_of
        >>> f32 = np.dtype("float32")
        >>> g = resolve(ConvSpec(padding=((100, 0),)), (1, 1, 2), (1, 1, 1))
        >>> footprint((Problem(g, types_of(f32, f32)),))  # 102 cells padded, 102 in the message, 102 in gRPC's copy
        1224
    """
    last = len(problems) - 1
    most = 0
    for i, problem in enumerate(problems):
        g, types = problem.geometry, problem.types
        padded = (g.batch, g.in_channels, *g.padded)
        held = 0
        if padded != g.input_shape or types.input != types.accumulate:
            held += nbytes(g.input_shape if g.transposed else padded, types.accumulate)
        if types.output != types.accumulate:
            held += nbytes(g.output_shape, types.accumulate)
        if i:
            held += nbytes(g.input_shape, types.input)
        if i < last:
            held += bytes_out(g, types)
        most = max(most, held)
    return most + copies * bytes_out(problems[-1].geometry, problems[-1].types)
