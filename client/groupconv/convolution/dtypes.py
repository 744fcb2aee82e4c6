"""Supported dtypes, and the dtypes in which convolutions accumulate.

| input               | kernel                       | accumulates in | output  |
| ------------------- | ---------------------------- | -------------- | ------- |
| float16, bfloat16   | the same                     | float32        | as input |
| float32, float64    | the same                     | the same       | as input |
| int8, uint8, int32  | int8, uint8, int32           | int32          | int32   |
| int8, uint8         | float16, bfloat16, float32   | float32        | float32 |
| int8, uint8         | float64                      | float64        | float64 |
| int32               | any float                    | float64        | float64 |

Inputs and kernels of other dtypes are converted before they are sent (`groupconv.arguments`):

| dtype                        | input, with a kernel of float32 or float64 | else           |
| ---------------------------- | ------------------------------------------ | -------------- |
| bool                         | uint8, 0 and 1                             | uint8, 0 and 1 |
| int16, uint16                | the kernel's dtype, exact                  | int32          |
| longer integers within int32 | int32                                      | int32          |
| other longer integers        | float64                                    | refused        |

int32 sums wrap modulo 2³², as in every integer library. A bias may have any dtype of the same kind
(integer for integer outputs); it is added in the accumulator. Integer outputs take no activation but relu.
"""

from typing import Any, NamedTuple

import ml_dtypes
import numpy as np

from groupconv.convolution.spec import Activation
from groupconv.errors import InvalidArgumentError

BFLOAT16: np.dtype = np.dtype(ml_dtypes.bfloat16)
DTYPES: dict[str, np.dtype] = {
    "float16": np.dtype(np.float16),
    "bfloat16": BFLOAT16,
    "float32": np.dtype(np.float32),
    "float64": np.dtype(np.float64),
    "int8": np.dtype(np.int8),
    "uint8": np.dtype(np.uint8),
    "int32": np.dtype(np.int32),
}
_F32, _F64, _I32 = DTYPES["float32"], DTYPES["float64"], DTYPES["int32"]


class Types(NamedTuple):
    """The dtypes of one convolution: of its input, kernel, accumulator and output."""

    input: np.dtype
    weight: np.dtype
    accumulate: np.dtype
    output: np.dtype


def is_float(dtype: np.dtype) -> bool:
    """True for the four float dtypes (NumPy itself does not regard bfloat16 as a float)."""
    return dtype.kind == "f" or dtype == BFLOAT16


def known(field: str, dtype: np.dtype) -> np.dtype:
    """`dtype`, checked to be a supported one in the machine's byte order.

    Args:
        field: what errors call it.
        dtype: to check.

    Raises:
        InvalidArgumentError: it is not; the error lists the supported dtypes.
    """
    if dtype not in DTYPES.values() or not dtype.isnative:
        raise InvalidArgumentError(field, f"one of {', '.join(DTYPES)}", str(dtype))
    return dtype


def as_dtype(field: str, dtype: Any) -> np.dtype:
    """A supported dtype.

    Args:
        field: what errors call it.
        dtype: its name in `DTYPES`, or anything else that NumPy accepts as a dtype, such as np.float32 or "f4".

    Raises:
        InvalidArgumentError: it is not a supported dtype; the error lists them.

    Example:
        >>> as_dtype("dtype", "bfloat16"), as_dtype("dtype", "f4")
        (dtype(bfloat16), dtype('float32'))
    """
    try:
        converted = DTYPES[dtype] if isinstance(dtype, str) and dtype in DTYPES else np.dtype(dtype)
    except TypeError:
        raise InvalidArgumentError(field, f"one of {', '.join(DTYPES)}", dtype) from None
    return known(field, converted)


def types_of(
    x: np.dtype, weight: np.dtype, bias: np.dtype | None = None, activation: Activation | None = None
) -> Types:
    """The dtypes of a convolution, by the table above.

    Raises:
        InvalidArgumentError: the table does not have this combination.

    Example:
        >>> types_of(np.dtype("uint8"), np.dtype("float32")).output
        dtype('float32')
    """
    known("input.dtype", x)
    known("kernel.dtype", weight)
    types = _types(x, weight)
    if bias is not None and is_float(known("bias.dtype", bias)) != is_float(types.output):
        kind = "a float" if is_float(types.output) else "an integer"
        raise InvalidArgumentError("bias.dtype", f"{kind} dtype, as the output ({types.output})", str(bias))
    if activation is not None and activation.kind != "relu" and not is_float(types.output):
        raise InvalidArgumentError("activation", f"relu or none for an output of {types.output}", activation.kind)
    return types


def _types(x: np.dtype, weight: np.dtype) -> Types:
    if is_float(x):
        if weight != x:
            raise InvalidArgumentError("kernel.dtype", f"{x}, as the input", str(weight))
        return Types(x, weight, x if x in (_F32, _F64) else _F32, x)
    if not is_float(weight):
        return Types(x, weight, _I32, _I32)
    accumulate = _F64 if x == _I32 or weight == _F64 else _F32
    return Types(x, weight, accumulate, accumulate)
