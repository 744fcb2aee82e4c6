"""Resident layers of the SDK: `client.load_layer(...)` gives a `Layer`, which is called like a function.

What travels is shared by the blocking and the awaiting client.
"""

import functools
from collections.abc import Awaitable, Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from types import TracebackType
from typing import Any, Self

import numpy as np

from groupconv.convolution.dtypes import is_float
from groupconv.convolution.spec import ConvSpec
from groupconv.errors import InvalidArgumentError
from groupconv.v1 import convolution_pb2, layer_pb2
from groupconv.wire.requests import Array, Result, Step, geometries, travelling
from groupconv.wire.specs import spec_from_wire, spec_to_wire
from groupconv.wire.tensors import as_array, type_from_wire, type_to_wire

CHUNK_BYTES = 2**20
"""Bytes of weights in one message."""


@dataclass(frozen=True)
class LayerInfo:
    """A loaded layer as the server describes it.

    Attributes:
        name, version: every load has a higher version.
        specs: of its steps.
        kernel_shapes: likewise.
        dtype: of its first kernel.
        bytes: of its weights.
        requests, failures: answered and failed by this version.
        samples: in the requests answered.
        seconds: from a parsed request to its output, over the requests answered.
        batches: runs by the samples in them, where the server may join requests; else empty.
    """

    name: str
    version: int
    specs: tuple[ConvSpec, ...]
    kernel_shapes: tuple[tuple[int, ...], ...]
    dtype: np.dtype
    bytes: int
    requests: int
    failures: int
    samples: int
    seconds: float
    batches: Mapping[int, int] = field(default_factory=dict)
    _fitting: dict[tuple[np.dtype, tuple[int, ...]], bool] = field(
        default_factory=dict, init=False, repr=False, compare=False
    )
    """Inputs as they are sent that were found to fit, by dtype and shape: whether a batch axis is to be added."""


def load_messages(
    name: str, steps: Sequence[Step], dtype: Any = None, inputs: Sequence[Sequence[int]] = ()
) -> Iterator[layer_pb2.LoadLayerRequest]:
    """The stream that loads a layer.

    Args:
        name: segments of letters, digits, '.', '_' and '-' with '/' between them.
        steps: at least one.
        dtype: of kernels and biases; None leaves each as it is.
        inputs: shapes to expect, of the first kernel's dtype.

    Raises:
        InvalidArgumentError: no steps, or a dtype that does not travel.
    """
    if not steps:
        raise InvalidArgumentError("steps", "at least one step", 0)
    header = layer_pb2.LayerHeader(name=name)
    arrays: list[Array] = []
    like = None if dtype is None else np.dtype(dtype)
    for i, step in enumerate(steps):
        kernel = travelling(f"steps[{i}].kernel", as_array(step.kernel), like)
        message = header.steps.add(kernel=type_to_wire(kernel.dtype, kernel.shape), spec=spec_to_wire(step.spec))
        arrays.append(kernel)
        if step.bias is not None:
            wanted = kernel.dtype if is_float(kernel.dtype) else None
            bias = travelling(f"steps[{i}].bias", as_array(step.bias), wanted)
            message.bias.CopyFrom(type_to_wire(bias.dtype, bias.shape))
            arrays.append(bias)
    header.inputs.extend(type_to_wire(arrays[0].dtype, tuple(shape), "inputs") for shape in inputs)
    return _messages(header, arrays)


def _messages(header: layer_pb2.LayerHeader, arrays: Sequence[Array]) -> Iterator[layer_pb2.LoadLayerRequest]:
    yield layer_pb2.LoadLayerRequest(header=header)
    for array in arrays:
        data = np.ascontiguousarray(array).reshape(-1).view(np.uint8)
        for at in range(0, data.size, CHUNK_BYTES):
            yield layer_pb2.LoadLayerRequest(chunk=data[at : at + CHUNK_BYTES].tobytes())


def info_from_wire(message: layer_pb2.Layer) -> LayerInfo:
    """A message as a description."""
    kernels = [type_from_wire(s.kernel, f"steps[{i}].kernel") for i, s in enumerate(message.steps)]
    return LayerInfo(
        message.name,
        message.version,
        tuple(spec_from_wire(s.spec) for s in message.steps),
        tuple(shape for _, shape in kernels),
        kernels[0][0],
        message.bytes,
        message.requests,
        message.failures,
        message.samples,
        message.seconds,
        {b.samples: b.runs for b in message.batches},
    )


def layer_input(info: LayerInfo, x: Any) -> tuple[Array, bool]:
    """The array that a layer is run on, and whether a batch axis was added.

    A float input takes the dtype of a float layer, as an input's kernels do in `Client.run`.

    Raises:
        InvalidArgumentError: an input that does not fit the layer.
    """
    array = as_array(x)
    unbatched = info._fitting.get((array.dtype, array.shape))  # noqa: SLF001 - this room's own
    if unbatched is None:
        convertible = is_float(info.dtype) and (is_float(array.dtype) or array.dtype.kind == "f")
        array = travelling("input", array, info.dtype if convertible else None)
        unbatched = _checked(info.specs, info.kernel_shapes, array.shape)
        if len(info._fitting) < FITTING:  # noqa: SLF001
            info._fitting[array.dtype, array.shape] = unbatched  # noqa: SLF001
    return array.reshape((1, *array.shape)) if unbatched else array, unbatched


FITTING = 1024
"""Inputs of a layer that are remembered as fitting."""


@functools.lru_cache(maxsize=1024)
def _checked(specs: tuple[ConvSpec, ...], kernel_shapes: tuple[tuple[int, ...], ...], shape: tuple[int, ...]) -> bool:
    """Whether an input of this shape, which fits the layer, needs a batch axis."""
    spec, kernel = specs[0], kernel_shapes[0]
    unbatched = len(shape) == len(kernel) - 1
    if unbatched:
        shape = (1, *shape)
    channels = kernel[0] if spec.transposed else kernel[1] * spec.groups
    if len(shape) == len(kernel) and shape[1] != channels:  # the layer is given, so it is the input that is wrong
        raise InvalidArgumentError("input.shape[1]", f"{channels} channels, as the layer has", shape[1])
    geometries(specs, shape, kernel_shapes)
    return unbatched


@functools.lru_cache(maxsize=1024)
def layer_fields(name: str, report: bool, allow_reordering: bool) -> bytes:
    """The fields of the request beside the input."""
    return convolution_pb2.ConvolveRequest(
        layer=name, allow_reordering=allow_reordering, without_report=not report
    ).SerializeToString()


class Layer:
    """A layer on the server: call it with an input. As a context manager it is unloaded at the end.

    It runs whatever version is loaded under its name. Attributes: `info`, as of when it was loaded.

    Example:
        with client.load_layer("alexnet/conv2", w, bias, ConvSpec(padding=2, groups=2)) as layer:
            y = layer(x)
    """

    def __init__(
        self,
        info: LayerInfo,
        run: Callable[..., Result],
        get: Callable[[str], "Layer"],
        unload: Callable[[str], None],
    ) -> None:
        self.info = info
        self._run, self._get, self._unload = run, get, unload

    @property
    def name(self) -> str:
        """Its name."""
        return self.info.name

    def __call__(self, x: Any, *, out: Any = None, timeout: float | None = None) -> Array:
        """The output for `x` (N, C, *spatial) or (C, *spatial), in a new array or in `out`; either may be on a GPU."""
        return self._run(self.info, x, out=out, timeout=timeout).output

    def run(self, x: Any, *, out: Any = None, timeout: float | None = None, allow_reordering: bool = False) -> Result:
        """Output and report; arguments as in `Client.run`."""
        return self._run(self.info, x, out=out, timeout=timeout, allow_reordering=allow_reordering, report=True)

    def statistics(self) -> LayerInfo:
        """What the server says of it now: version, bytes, requests, samples, seconds."""
        return self._get(self.name).info

    def unload(self) -> None:
        """Let the server forget it.

        Raises:
            NotFoundError: it is not there any more.
        """
        self._unload(self.name)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        self.unload()


class AsyncLayer:
    """`Layer` with `await`; an async context manager."""

    def __init__(
        self,
        info: LayerInfo,
        run: Callable[..., Awaitable[Result]],
        get: Callable[[str], Awaitable["AsyncLayer"]],
        unload: Callable[[str], Awaitable[None]],
    ) -> None:
        self.info = info
        self._run, self._get, self._unload = run, get, unload

    @property
    def name(self) -> str:
        """Its name."""
        return self.info.name

    async def __call__(self, x: Any, *, out: Any = None, timeout: float | None = None) -> Array:
        """As `Layer.__call__`."""
        return (await self._run(self.info, x, out=out, timeout=timeout)).output

    async def run(
        self, x: Any, *, out: Any = None, timeout: float | None = None, allow_reordering: bool = False
    ) -> Result:
        """As `Layer.run`."""
        return await self._run(self.info, x, out=out, timeout=timeout, allow_reordering=allow_reordering, report=True)

    async def statistics(self) -> LayerInfo:
        """As `Layer.statistics`."""
        return (await self._get(self.name)).info

    async def unload(self) -> None:
        """As `Layer.unload`."""
        await self._unload(self.name)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None
    ) -> None:
        await self.unload()
