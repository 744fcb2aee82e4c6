"""Arrays to Tensor messages and back."""

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from groupconv.convolution.dtypes import DTYPES, known
from groupconv.convolution.spec import MAX_RANK
from groupconv.errors import InvalidArgumentError
from groupconv.moved import moved_names
from groupconv.v1 import tensor_pb2
from groupconv.wire.codec import DATA_TYPES

MAX_DIMENSIONS = MAX_RANK + 2
"""Most dimensions of a tensor: batch, channels and the spatial axes. NumPy itself allows 64."""
MAX_SAMPLE = 2**48
"""Elements of a sample in an empty batch. NumPy multiplies the extents, and the product must not overflow."""
MAX_MESSAGE_BYTES = 512 * 2**20
"""Default for the largest message that clients and servers send or accept."""

_DTYPES = {code: dtype for dtype, code in DATA_TYPES.items()}


def to_wire(array: NDArray[Any], field: str = "tensor") -> tensor_pb2.Tensor:
    r"""An array as a message; the bytes are copied once.

    Args:
        array: on the host.
        field: what errors call it.

    Raises:
        InvalidArgumentError: the dtype is not supported.

    Example:
        >>> to_wire(np.zeros((1, 2), np.int8)).data
        b'\x00\x00'
    """
    dtype = known(field + ".dtype", array.dtype)
    return tensor_pb2.Tensor(dtype=DATA_TYPES[dtype], shape=array.shape, data=array.tobytes())


def tensor_in_region(
    dtype: np.dtype, shape: tuple[int, ...], region: str, offset: int, *, channels_last: bool = False
) -> tensor_pb2.Tensor:
    """A message for a tensor whose elements are in a registered region.

    Args:
        dtype: of the tensor.
        shape: of the tensor.
        region: the server's name for the memory.
        offset: bytes from the region's start.
        channels_last: whether the second axis is the last one in memory.
    """
    size = math.prod(shape) * dtype.itemsize
    place = tensor_pb2.Place(region=region, offset=offset, byte_size=size, channels_last=channels_last)
    return tensor_pb2.Tensor(dtype=DATA_TYPES[dtype], shape=shape, place=place)


def from_wire(
    tensor: tensor_pb2.Tensor,
    field: str = "tensor",
    data: bytes | memoryview | None = None,
    *,
    batch: bool = False,
) -> NDArray[Any]:
    """A message as a read-only array, over one copy of its bytes.

    Args:
        tensor: the message.
        field: what errors call it.
        data: its bytes if `codec.scan` separated them; if they are aligned, they are not copied.
        batch: whether the first axis is a batch, which may be empty.

    Raises:
        InvalidArgumentError: the dtype is unknown, there are too many dimensions, an extent is out of range, or the
            number of bytes does not fit the shape.

    Example:
        >>> from_wire(to_wire(np.eye(2, dtype=np.float32)))
        array([[1., 0.],
               [0., 1.]], dtype=float32)
    """
    dtype, shape = type_from_wire(tensor, field, batch=batch)
    if data is None:
        data = tensor.data  # once: protobuf copies at each read
    return array_over(data, dtype, shape, field)


def array_over(data: bytes | memoryview, dtype: np.dtype, shape: tuple[int, ...], field: str) -> NDArray[Any]:
    """Bytes as a read-only array, which is a copy only if they are not aligned.

    Args:
        data: row-major, little-endian.
        dtype: of the elements.
        shape: extents of at least 0.
        field: what errors call the tensor.

    Raises:
        InvalidArgumentError: the number of bytes does not fit the shape.
    """
    expected = math.prod(shape) * dtype.itemsize  # Python's integers do not overflow
    if len(data) != expected:
        wanted = f"{expected} bytes for shape {list(shape)} {dtype}"
        raise InvalidArgumentError(f"{field}.data", wanted, f"{len(data)} bytes")
    array = np.frombuffer(data, dtype=dtype).reshape(shape)
    return array if array.flags.aligned else array.copy()


def type_to_wire(dtype: np.dtype, shape: tuple[int, ...], field: str = "tensor") -> tensor_pb2.TensorType:
    """A dtype and shape as a message, without elements.

    Raises:
        InvalidArgumentError: the dtype is not supported.
    """
    return tensor_pb2.TensorType(dtype=DATA_TYPES[known(field + ".dtype", dtype)], shape=shape)


def type_from_wire(
    tensor: tensor_pb2.Tensor | tensor_pb2.TensorType, field: str = "tensor", *, batch: bool = False
) -> tuple[np.dtype, tuple[int, ...]]:
    """Dtype and shape of a message.

    Args:
        tensor: the message.
        field: what errors call it.
        batch: whether the first axis is a batch, which may be empty.

    Raises:
        InvalidArgumentError: the dtype is unknown, there are too many dimensions, or an extent is out of range.
    """
    dtype = _DTYPES.get(tensor.dtype)
    if dtype is None:
        raise InvalidArgumentError(f"{field}.dtype", f"one of {', '.join(DTYPES)}", tensor.dtype)
    return dtype, checked_shape(tensor.shape, f"{field}.shape", batch=batch)


def checked_shape(shape: Sequence[int], field: str, *, batch: bool = False) -> tuple[int, ...]:
    """`shape` as a tuple, if NumPy can have an array of that shape.

    Args:
        shape: extents.
        field: what errors call it.
        batch: whether the first axis is a batch, which may be empty.

    Raises:
        InvalidArgumentError: there are too many dimensions, or an extent is out of range.
    """
    if len(shape) > MAX_DIMENSIONS:
        raise InvalidArgumentError(field, f"at most {MAX_DIMENSIONS} dimensions", f"{len(shape)} dimensions")
    for i, extent in enumerate(shape):
        least = 0 if batch and i == 0 else 1
        if extent < least:
            raise InvalidArgumentError(f"{field}[{i}]", f"an extent of at least {least}", extent)
    if shape and not shape[0] and math.prod(shape[1:]) > MAX_SAMPLE:  # its size in bytes is 0
        raise InvalidArgumentError(field, f"samples of less than {MAX_SAMPLE} elements", list(shape))
    return tuple(shape)


__getattr__ = moved_names(
    __name__,
    dict.fromkeys(("as_array", "empty"), "groupconv.arguments") | {"message_with": "groupconv.wire.codec"},
)
