"""Callers' arrays and steps: checked, and converted to supported dtypes, before anything is sent.

The dtypes and the rules of conversion are in `groupconv.convolution.dtypes`.
"""

from collections.abc import Iterable, Sequence
from typing import Any, overload

import numpy as np

from groupconv.convolution.dtypes import DTYPES, as_dtype, is_float, known
from groupconv.convolution.steps import Array, Step, geometries
from groupconv.errors import InvalidArgumentError, Words
from groupconv.gpu.arrays import DeviceArray, Tensor, device_array, device_output
from groupconv.gpu.driver import has_driver


def as_array(x: Any, field: str = "array") -> Array:
    """`x` as a NumPy array, without a copy where possible.

    Args:
        x: anything with `__array__` or DLPack (torch and CuPy tensors, also on a device), or nested lists.
        field: what errors call it.

    Raises:
        InvalidArgumentError: NumPy cannot make an array of it, or some of its elements are masked.

    Example:
        >>> as_array([[1.0], [2.0, 3.0]], "weight")
        Traceback (most recent call last):
        ...
        groupconv.errors.InvalidArgumentError: weight: expected an array, got list: setting an array element ...
    """
    if isinstance(x, np.ndarray):
        return _unmasked(x, field) if isinstance(x, np.ma.MaskedArray) else x
    if isinstance(x, list | tuple):
        for part in x:
            if isinstance(part, np.ma.MaskedArray):
                _unmasked(part, field)  # NumPy would take the masked values, too
    on_device = device_array(x)
    if on_device is not None and has_driver():
        return on_device.host()
    try:
        try:
            return np.asarray(x)
        except TypeError:  # an array on a device that NumPy may not copy implicitly
            if not hasattr(x, "__dlpack__"):
                raise
            return np.from_dlpack(x, device="cpu")
    except (TypeError, ValueError, RuntimeError, BufferError) as error:
        raise InvalidArgumentError(field, "an array", Words(f"{type(x).__name__}: {error}")) from None


def _unmasked(x: Any, field: str) -> Array:
    """The elements of a masked array, such as those that netCDF4 reads, if none is masked.

    Raises:
        InvalidArgumentError: some are masked. Their values would be computed with, though they mean nothing.
    """
    if masked := x.size - int(x.count()):
        raise InvalidArgumentError(
            field, "an array without masked elements (`.filled(value)`)", f"{masked} masked ones"
        )
    return np.asarray(x)


def as_tensor(x: Any) -> Tensor:
    """An input as a NumPy array; a `DeviceArray` stays on its device."""
    return x if isinstance(x, DeviceArray) else as_array(x, "input")


def empty(shape: int | Sequence[int], dtype: Any) -> Array:
    """A new array on the host, with arbitrary elements.

    Raises:
        InvalidArgumentError: the dtype is not supported, or the shape is not one.
    """
    checked_dtype = as_dtype("dtype", dtype)
    try:
        return np.empty(shape, checked_dtype)
    except (TypeError, ValueError):
        raise InvalidArgumentError("shape", "extents of at least 0", shape) from None


def checked_steps(steps: Iterable[Step]) -> list[Step]:
    """Steps as a list.

    Raises:
        InvalidArgumentError: there is no step, or something that is not a step.
    """
    if isinstance(steps, Step):
        raise InvalidArgumentError("steps", "a list of steps, such as [step]", steps)
    try:
        listed = list(steps)
    except TypeError:
        raise InvalidArgumentError("steps", "a list of groupconv.Step", steps) from None
    if not listed:
        raise InvalidArgumentError("steps", "at least one step", 0)
    for i, step in enumerate(listed):
        if not isinstance(step, Step):
            raise InvalidArgumentError(f"steps[{i}]", "a groupconv.Step", step)
    return listed


def checked_output(out: Any) -> DeviceArray | None:
    """`device_output` of an array to fill, which may also be on the host, or None.

    Raises:
        InvalidArgumentError: it is not a writable array.
    """
    if isinstance(out, np.ndarray):
        if not out.flags.writeable:
            raise InvalidArgumentError("out", "a writable array", "a read-only one")
        return None
    device_array = device_output(out)
    if device_array is None and out is not None and not all(hasattr(out, a) for a in ("shape", "dtype", "__setitem__")):
        raise InvalidArgumentError("out", "a writable array", out)
    return device_array


def fill(out: Any, y: Tensor) -> Any:
    """Copy an output into the caller's array, and return that. On a device the server may have filled it already.

    Args:
        out: a `DeviceArray`, or an array on the host that `checked_output` has seen.
        y: the output.

    Raises:
        InvalidArgumentError: `out` has another shape or dtype.
    """
    # NumPy views a torch tensor; an array in a file (Zarr, HDF5) it would copy, so that one is assigned to as it is.
    target = out if isinstance(out.dtype, np.dtype) else as_array(out, "out")
    if target.shape != y.shape or target.dtype != y.dtype:
        raise InvalidArgumentError("out", f"shape {y.shape} and dtype {y.dtype}", f"{out.shape}, {out.dtype}")
    if not isinstance(target, DeviceArray):
        target[...] = y
        return out
    if not isinstance(y, DeviceArray):
        target.fill(y)
    return target.owner


def prepare(x: Any, steps: Sequence[Step]) -> tuple[Tensor, list[Step], bool]:
    """Arrays ready to send, with shapes and dtypes checked.

    Kernels and biases are converted to the input's dtype if that is a float, so lists and float64 arrays are welcome.
    An input without a batch axis gets one.

    Args:
        x: (N, C, *spatial) or (C, *spatial).
        steps: at least one.

    Returns:
        The input (N, C, *spatial), the steps with arrays, and whether a batch axis was added.

    Raises:
        InvalidArgumentError: naming the field, what was expected and what came.
    """
    steps = checked_steps(steps)
    kernel = as_array(steps[0].kernel, "steps[0].kernel")
    tensor = supported_input(as_tensor(x), kernel.dtype)
    unbatched = tensor.ndim == kernel.ndim - 1
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
        kernel = supported(f"steps[{i}].kernel", as_array(step.kernel, f"steps[{i}].kernel"), dtype)
        bias = None if step.bias is None else as_array(step.bias, f"steps[{i}].bias")
        if bias is not None:
            wanted = dtype if is_float(dtype) else kernel.dtype
            bias = supported(f"steps[{i}].bias", bias, wanted if is_float(wanted) else None)
        ready.append(Step(kernel, bias, step.spec))
    return ready


def input_dtype(dtype: np.dtype, kernel: np.dtype) -> np.dtype:
    """The dtype in which an input is sent: its own if it is supported. Longer integers have two, see `supported_input`.

    Args:
        dtype: of the input.
        kernel: dtype of the first kernel.

    Example:
        >>> [str(input_dtype(np.dtype(d), np.dtype("float32"))) for d in ("uint16", "bool", "int64", "float16")]
        ['float32', 'uint8', 'int32', 'float16']
    """
    native = dtype.newbyteorder("=")
    if native in DTYPES.values() or native.kind not in "iub":
        return native
    if native.kind == "b":
        return DTYPES["uint8"]
    return kernel.newbyteorder("=") if native.itemsize == 2 and _is_wide(kernel) else DTYPES["int32"]


def supported_input(x: Tensor, kernel: np.dtype) -> Tensor:
    """An input in a supported dtype.

    Args:
        x: the input.
        kernel: dtype of the first kernel, which decides whether integers become floats.

    Raises:
        InvalidArgumentError: the dtype is not supported, or integers do not fit int32 and the kernel is not a float.
    """
    if isinstance(x, DeviceArray):
        return x
    wanted = input_dtype(x.dtype, kernel)
    if wanted == DTYPES["int32"] and x.dtype.itemsize > 2 and _is_wide(kernel) and not _fits_int32(x):
        wanted = DTYPES["float64"]
    return x.astype(wanted) if is_float(wanted) and x.dtype.kind in "iu" else supported("input", x)


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
        InvalidArgumentError: the dtype is not supported, or integers do not fit int32.
    """
    if like is not None and is_float(like) and x.dtype != like and (x.dtype.kind in "iubf" or is_float(x.dtype)):
        return x.astype(like)
    if isinstance(x, DeviceArray) or x.dtype in DTYPES.values():
        known(f"{field}.dtype", x.dtype)
        return x
    if x.dtype.newbyteorder("=") in DTYPES.values():
        return x.astype(x.dtype.newbyteorder("="))
    if x.dtype.kind not in "iub":
        expected = f"one of {', '.join(DTYPES)}, or bool or other integers, which are converted"
        raise InvalidArgumentError(f"{field}.dtype", expected, str(x.dtype))
    if x.dtype.kind == "b":
        return x.astype(np.uint8)
    if not _fits_int32(x):
        raise InvalidArgumentError(field, "integers that fit int32", str(x.dtype))
    return x.astype(np.int32)


def _fits_int32(x: Array) -> bool:
    return not x.size or bool(x.min() >= -(2**31) and x.max() < 2**31)


def _is_wide(dtype: np.dtype) -> bool:
    """Whether results are float32 or float64, which hold 16-bit integers exactly."""
    return dtype.kind == "f" and dtype.itemsize >= 4
