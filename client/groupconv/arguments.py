"""Callers' arrays and steps: converted to supported dtypes and checked before anything is sent."""

from collections.abc import Sequence
from typing import Any, overload

import numpy as np

from groupconv.convolution.dtypes import DTYPES, is_float, known
from groupconv.convolution.steps import Array, Step, geometries
from groupconv.cuda_driver import has_driver
from groupconv.device import DeviceArray, Tensor, device_array
from groupconv.errors import InvalidArgumentError


def as_array(x: Any) -> Array:
    """`x` as a NumPy array, without a copy where possible.

    Args:
        x: anything with `__array__` or DLPack (torch and CuPy tensors, also on a device), or nested lists.
    """
    if isinstance(x, np.ndarray):
        return x
    on_device = device_array(x)
    if on_device is not None and has_driver():
        return on_device.host()
    try:
        return np.asarray(x)
    except TypeError:  # an array on a device that NumPy may not copy implicitly
        if not hasattr(x, "__dlpack__"):
            raise
        return np.from_dlpack(x, device="cpu")


def as_tensor(x: Any) -> Tensor:
    """`as_array`, but a `DeviceArray` stays on its device."""
    return x if isinstance(x, DeviceArray) else as_array(x)


def empty(shape: int | Sequence[int], dtype: Any) -> Array:
    """A new array on the host, with arbitrary elements.

    Raises:
        InvalidArgumentError: the dtype is not supported.
    """
    found = DTYPES.get(dtype) if isinstance(dtype, str) else np.dtype(dtype)
    if found is None:
        raise InvalidArgumentError("dtype", f"one of {', '.join(DTYPES)}", dtype)
    return np.empty(shape, known("dtype", found))


def prepare(x: Any, steps: Sequence[Step]) -> tuple[Tensor, list[Step], bool]:
    """Arrays ready to send, with shapes and dtypes checked.

    Kernels and biases are converted to the input's dtype if that is a float, so lists and float64 arrays are welcome.
    Integers of dtypes that are not supported become int32. An input without a batch axis gets one.

    Args:
        x: (N, C, *spatial) or (C, *spatial).
        steps: at least one.

    Returns:
        The input (N, C, *spatial), the steps with arrays, and whether a batch axis was added.

    Raises:
        InvalidArgumentError: naming the field, what was expected and what came.
    """
    if not steps:
        raise InvalidArgumentError("steps", "at least one step", 0)
    tensor = supported("input", as_tensor(x))
    unbatched = tensor.ndim == as_array(steps[0].kernel).ndim - 1
    if unbatched:
        tensor = tensor.reshape((1, *tensor.shape))
    ready = ready_steps(steps, tensor.dtype)
    geometries([s.spec for s in ready], tensor.shape, [s.kernel.shape for s in ready])
    return tensor, ready, unbatched


def ready_steps(steps: Sequence[Step], dtype: np.dtype) -> list[Step]:
    """Steps whose kernels and biases are arrays that fit an input of `dtype`.

    Raises:
        InvalidArgumentError: a kernel or bias has a dtype that is not supported.
    """
    ready = []
    for i, step in enumerate(steps):
        kernel = supported(f"steps[{i}].kernel", as_array(step.kernel), dtype)
        bias = None if step.bias is None else as_array(step.bias)
        if bias is not None:
            wanted = dtype if is_float(dtype) else kernel.dtype
            bias = supported(f"steps[{i}].bias", bias, wanted if is_float(wanted) else None)
        ready.append(Step(kernel, bias, step.spec))
    return ready


@overload
def supported(field: str, x: Array, like: np.dtype | None = None) -> Array: ...
@overload
def supported(field: str, x: Tensor, like: np.dtype | None = None) -> Tensor: ...
def supported(field: str, x: Tensor, like: np.dtype | None = None) -> Tensor:
    """`x` in a supported dtype and the machine's byte order.

    Args:
        field: what errors call it.
        x: the array.
        like: the dtype to convert to if that is a float.

    Raises:
        InvalidArgumentError: the dtype is not supported, or an integer does not fit int32.
    """
    if like is not None and is_float(like) and x.dtype != like:
        return x.astype(like)
    if x.dtype.byteorder == ">":
        x = x.astype(x.dtype.newbyteorder("="))
    if isinstance(x, DeviceArray) or x.dtype in DTYPES.values() or x.dtype.kind not in "iub":
        known(f"{field}.dtype", x.dtype)
        return x
    if x.size and (x.min() < -(2**31) or x.max() >= 2**31):
        raise InvalidArgumentError(field, "integers that fit int32", str(x.dtype))
    return x.astype(np.int32)
