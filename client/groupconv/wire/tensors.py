"""Arrays to tensors of the wire and back."""

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from groupconv.convolution.dtypes import DTYPES, known
from groupconv.convolution.spec import MAX_RANK
from groupconv.device import DeviceArray, device_array, has_driver
from groupconv.errors import InvalidArgumentError
from groupconv.v1 import tensor_pb2
from groupconv.wire.codec import laid_out

MAX_DIMENSIONS = MAX_RANK + 2
"""Of a tensor: batch, channels, space. NumPy itself takes 64."""
MAX_SAMPLE = 2**48
"""Elements of a sample where a batch has none: NumPy counts them all the same, and refuses what overflows."""
MAX_MESSAGE_BYTES = 512 * 2**20
"""Largest message sent or taken unless told otherwise, by client and server alike."""

_TO_WIRE: dict[np.dtype, tensor_pb2.DataType.ValueType] = {
    dtype: tensor_pb2.DataType.Value(f"DATA_TYPE_{name.upper()}") for name, dtype in DTYPES.items()
}
_FROM_WIRE = {code: dtype for dtype, code in _TO_WIRE.items()}


def as_array(x: Any) -> NDArray[Any]:
    """`x` as a NumPy array, without a copy where possible.

    Args:
        x: anything with `__array__` or DLPack (torch and CuPy tensors, on a device too), or nested lists. A
            `DeviceArray` is left where it is.
    """
    if isinstance(x, np.ndarray):
        return x
    if isinstance(x, DeviceArray):
        return x  # type: ignore[return-value] # it has what is asked of an input, but its elements
    if (there := device_array(x)) is not None and has_driver():
        return there.host()
    try:
        return np.asarray(x)
    except TypeError:  # a device array, which NumPy must not copy implicitly
        if not hasattr(x, "__dlpack__"):
            raise
        return np.from_dlpack(x, device="cpu")


def empty(shape: int | Sequence[int], dtype: Any) -> NDArray[Any]:
    """An ordinary array of a dtype that travels, to be filled.

    Raises:
        InvalidArgumentError: another dtype.
    """
    of = DTYPES.get(dtype) if isinstance(dtype, str) else np.dtype(dtype)
    if of is None:
        raise InvalidArgumentError("dtype", f"one of {', '.join(DTYPES)}", dtype)
    return np.empty(shape, known("dtype", of))


def to_wire(array: NDArray[Any], field: str = "tensor") -> tensor_pb2.Tensor:
    r"""One tensor message; the bytes are copied once.

    Raises:
        InvalidArgumentError: a dtype that does not travel.

    Example:
        >>> to_wire(np.zeros((1, 2), np.int8)).data
        b'\x00\x00'
    """
    dtype = known(field + ".dtype", array.dtype)
    return tensor_pb2.Tensor(dtype=_TO_WIRE[dtype], shape=array.shape, data=array.tobytes())


def message_with(
    number: int, dtype: np.dtype, shape: Sequence[int], rest: bytes = b"", field: str = "tensor"
) -> tuple[bytes, NDArray[Any]]:
    """A message whose field `number` is a tensor, and the array in it that is to be filled before it is sent.

    Args:
        number: of the field.
        dtype: of the tensor.
        shape: likewise.
        rest: the other fields, on the wire.
        field: what errors call the tensor.

    Raises:
        InvalidArgumentError: a dtype that does not travel, or more than a message can hold.
    """
    code = _TO_WIRE.get(dtype) or _TO_WIRE[known(field + ".dtype", dtype)]
    try:
        return laid_out(number, dtype, code, shape, rest)
    except ValueError as error:
        raise InvalidArgumentError(field, "less than 2 GiB", f"{error} bytes") from None


def placed(dtype: np.dtype, shape: tuple[int, ...], region: str, offset: int) -> tensor_pb2.Tensor:
    """A tensor whose elements lie in shared memory."""
    place = tensor_pb2.Place(region=region, offset=offset, byte_size=math.prod(shape) * dtype.itemsize)
    return tensor_pb2.Tensor(dtype=_TO_WIRE[dtype], shape=shape, place=place)


def from_wire(
    tensor: tensor_pb2.Tensor,
    field: str = "tensor",
    data: bytes | memoryview | None = None,
    *,
    batch: bool = False,
) -> NDArray[Any]:
    """The array of a message, read-only, over one copy of its bytes.

    Args:
        tensor: the message.
        field: what errors call it.
        data: its bytes where `codec.scan` took them out; if they lie aligned, they are not copied.
        batch: whether the first axis is a batch, which may be empty.

    Raises:
        InvalidArgumentError: an unknown dtype, too many dimensions, an extent that cannot be, or bytes that do not fit
            the shape.

    Example:
        >>> from_wire(to_wire(np.eye(2, dtype=np.float32)))
        array([[1., 0.],
               [0., 1.]], dtype=float32)
    """
    dtype, shape = type_from_wire(tensor, field, batch=batch)
    if data is None:
        data = tensor.data  # protobuf copies at each read: once
    expected = math.prod(shape) * dtype.itemsize  # Python's integers do not overflow
    if len(data) != expected:
        wanted = f"{expected} bytes for shape {list(shape)} {dtype}"
        raise InvalidArgumentError(f"{field}.data", wanted, f"{len(data)} bytes")
    array = np.frombuffer(data, dtype=dtype).reshape(shape)
    return array if array.flags.aligned else array.copy()


def type_to_wire(dtype: np.dtype, shape: tuple[int, ...], field: str = "tensor") -> tensor_pb2.TensorType:
    """Shape and dtype alone."""
    return tensor_pb2.TensorType(dtype=_TO_WIRE[known(field + ".dtype", dtype)], shape=shape)


def type_from_wire(
    tensor: tensor_pb2.Tensor | tensor_pb2.TensorType, field: str = "tensor", *, batch: bool = False
) -> tuple[np.dtype, tuple[int, ...]]:
    """Dtype and shape of a message.

    Args:
        tensor: the message.
        field: what errors call it.
        batch: whether the first axis is a batch, which may be empty.

    Raises:
        InvalidArgumentError: an unknown dtype, more dimensions than a convolution has, an extent that cannot be.
    """
    dtype = _FROM_WIRE.get(tensor.dtype)
    if dtype is None:
        raise InvalidArgumentError(f"{field}.dtype", f"one of {', '.join(DTYPES)}", tensor.dtype)
    return dtype, checked_shape(tensor.shape, f"{field}.shape", batch=batch)


def checked_shape(shape: Sequence[int], field: str, *, batch: bool = False) -> tuple[int, ...]:
    """A shape that NumPy can have, if there is memory for it; arguments and errors as of `type_from_wire`."""
    if len(shape) > MAX_DIMENSIONS:
        raise InvalidArgumentError(field, f"at most {MAX_DIMENSIONS} dimensions", f"{len(shape)} of them")
    for i, extent in enumerate(shape):
        least = 0 if batch and i == 0 else 1
        if extent < least:
            raise InvalidArgumentError(f"{field}[{i}]", f"an extent of at least {least}", extent)
    if shape and not shape[0] and math.prod(shape[1:]) > MAX_SAMPLE:  # no count of bytes tells of it
        raise InvalidArgumentError(field, f"samples of less than {MAX_SAMPLE} elements", list(shape))
    return tuple(shape)
