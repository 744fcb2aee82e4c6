"""Resident layers of the SDK: `client.load_layer(...)` returns a `Layer`, which is called like a function."""

import math
from collections.abc import Callable, Sequence
from fractions import Fraction
from types import TracebackType
from typing import Any, NamedTuple, Self

import numpy as np

from groupconv.arguments import as_tensor, checked_output, supported, supported_input
from groupconv.convolution.cuts import cut_name
from groupconv.convolution.dtypes import is_float, types_of
from groupconv.convolution.steps import Array, Result, geometries
from groupconv.convolution.totals import Window
from groupconv.errors import InvalidArgumentError
from groupconv.gpu.arrays import Tensor, on_host
from groupconv.layouts import Layout, channels_first, channels_last, checked_out, is_channels_last
from groupconv.memory.shared import Shared
from groupconv.moved import moved_names
from groupconv.transport.exchange import Exchange, Request
from groupconv.wire.layers import LayerInfo
from groupconv.wire.requests import CONVOLVE, read_answer, request_fields, result_of, with_input

__all__ = ["Layer", "LayerInfo"]


class _Checked(NamedTuple):
    """A kind of input that fits a layer.

    Attributes:
        shape, dtype: of the input as the caller gave it.
        unbatched: whether it lacks the batch axis.
        output: dtype and bytes of its output.
    """

    shape: tuple[int, ...]
    dtype: np.dtype
    unbatched: bool
    output: tuple[np.dtype, int]


class BaseLayer:
    """What `Layer` and `AsyncLayer` share: the exchange of a call."""

    def __init__(self, info: LayerInfo, shared: Shared | None) -> None:
        self.info = info
        self._shared = shared
        self._checked: _Checked | None = None  # the last kind of input, not checked again

    @property
    def name(self) -> str:
        """The layer's name."""
        return self.info.name

    @property
    def windows(self) -> tuple[Window, ...]:
        """The window of each step, for `groupconv.receptive_field`."""
        return self.info.windows

    @property
    def weights(self) -> int:
        """Number of kernel weights of all steps, without biases."""
        return self.info.weights

    @property
    def stride(self) -> tuple[int | Fraction, ...]:
        """Input elements per axis between two neighboring outputs of the last step."""
        return self.info.stride

    @property
    def receptive_field(self) -> tuple[int, ...]:
        """Input elements per axis that one output of the last step depends on, from the first to the last."""
        return self.info.receptive_field

    def multiply_adds(self, input_shape: Sequence[int]) -> int:
        """Multiply-adds of all steps for an input (N, C, *spatial); InvalidArgumentError if it does not fit."""
        return self.info.multiply_adds(input_shape)

    def __repr__(self) -> str:
        return f"<groupconv.{type(self).__name__} {self.info.summary()}>"

    def _repr_html_(self) -> str:
        return self.info._repr_html_()

    def _exchange(
        self,
        x: Any,
        out: Any,
        *,
        allow_reordering: bool,
        report: bool,
        cut: str | None = None,
        layout: Layout | None = None,
    ) -> Exchange[Result]:
        """Run the layer on `x`.

        Args:
            x: (N, C, *spatial) or (C, *spatial), on the host or on a device.
            out: array to fill with the output, on the host or on a device; None makes one.
            allow_reordering: whether sums over input channels may be split between workers.
            report: whether the server reports how it ran the request.
            cut: what to cut along, or None.
            layout: of `x`, `out` and the answer.

        Raises:
            InvalidArgumentError: `x` does not fit the layer, or `out` cannot be filled.
        """
        if layout is not None and is_channels_last(layout):
            rank = len(self.info.kernel_shapes[0]) - 2
            first, output = channels_first(x, rank), checked_out(out, rank)
            result = yield from self._exchange(first, output, allow_reordering=allow_reordering, report=report, cut=cut)
            return result if output else Result(channels_last(result.output, rank, out), result.report)
        if self._shared is not None:
            x = self._shared.source(x)
        elif not isinstance(x, np.ndarray):
            x = on_host(x)
        tensor = self._converted(x)
        checked = self._checked
        if checked is None or (checked.shape, checked.dtype) != (tensor.shape, tensor.dtype):
            checked = self._checked = self._check(tensor)  # takes 19 µs, a small request 485
        if checked.unbatched:
            tensor = tensor.reshape((1, *tensor.shape))
        out_on_device = None if out is None else checked_output(out)
        fields = request_fields(self.info.name, report, allow_reordering, "" if cut is None else cut_name(cut))
        exchange = None
        if self._shared is not None:
            exchange = self._shared.run_layer(tensor, fields, checked.output, out=out_on_device)
        if exchange is not None:
            answer = yield from exchange
        else:
            assert isinstance(tensor, np.ndarray)  # a `DeviceArray` needs `shared`
            answer = read_answer((yield Request(CONVOLVE, with_input(tensor, fields))))
        return result_of(answer, unbatched=checked.unbatched, out=out_on_device or out)

    def _converted(self, x: Any) -> Tensor:
        """The input as an array of a supported dtype; a float layer takes floats of any dtype."""
        tensor = x if isinstance(x, np.ndarray) else as_tensor(x)
        if tensor.dtype == self.info.dtype:
            return tensor
        if is_float(self.info.dtype) and (is_float(tensor.dtype) or tensor.dtype.kind == "f"):
            return supported("input", tensor, self.info.dtype)
        tensor = supported_input(tensor, self.info.dtype)
        return tensor.astype(self.info.dtype) if is_float(tensor.dtype) and is_float(self.info.dtype) else tensor

    def _check(self, x: Tensor) -> _Checked:
        """Check an input against the layer.

        Raises:
            InvalidArgumentError: its shape or dtype does not fit.
        """
        spec, kernel, dtype = self.info.specs[0], self.info.kernel_shapes[0], self.info.dtype
        unbatched = x.ndim == len(kernel) - 1
        shape = (1, *x.shape) if unbatched else x.shape
        channels = kernel[0] if spec.transposed else kernel[1] * spec.groups
        if len(shape) == len(kernel) and shape[1] != channels:  # `geometries` would name the kernel
            raise InvalidArgumentError("input.shape[1]", f"{channels} channels, as the layer has", shape[1])
        if is_float(x.dtype) and x.dtype != dtype:
            raise InvalidArgumentError("input.dtype", f"integers, for a layer of {dtype}", str(x.dtype))
        output_shape = geometries(self.info.specs, shape, self.info.kernel_shapes)[-1].output_shape
        output_dtype = x.dtype
        for _ in self.info.specs:  # later kernels may have another dtype: then the output travels in the message
            output_dtype = types_of(output_dtype, dtype).output
        return _Checked(x.shape, x.dtype, unbatched, (output_dtype, math.prod(output_shape) * output_dtype.itemsize))


class Layer(BaseLayer):
    """A layer on the server: call it with an input. As a context manager it unloads the layer at the end.

    A call runs the version that is currently loaded under the name.

    Attributes:
        info: the server's description from when the layer was loaded.

    Example:
        with client.load_layer("alexnet/conv2", w, bias, ConvSpec(padding=2, groups=2)) as layer:
            y = layer(x)
    """

    def __init__(
        self,
        info: LayerInfo,
        shared: Shared | None,
        run: Callable[[Exchange[Result], float | None], Result],
        get: Callable[[str], "Layer"],
        unload: Callable[[str], None],
    ) -> None:
        super().__init__(info, shared)
        self._run, self._get, self._unload = run, get, unload

    def __call__(
        self,
        x: Any,
        *,
        out: Any = None,
        timeout: float | None = None,
        cut: str | None = None,
        layout: Layout | None = None,
    ) -> Array:
        """The layer's output for `x`.

        Args:
            x: (N, C, *spatial) or (C, *spatial), on the host or on a GPU. Floats are converted to the layer's dtype.
            out: array of the output's shape and dtype to fill, on the host or on a GPU; None makes a NumPy array.
            timeout: seconds; None takes the client's.
            cut: what to cut along, see `Client.run`.
            layout: see `Client.run`.

        Returns:
            (N, M, *spatial), or (M, *spatial) for an input without a batch axis.

        Raises:
            InvalidArgumentError: `x` or `out` does not fit.
            GroupconvError: the server's answer; the subclass stands for the gRPC status.
        """
        return self._run(
            self._exchange(x, out, allow_reordering=False, report=False, cut=cut, layout=layout), timeout
        ).output

    def run(
        self,
        x: Any,
        *,
        out: Any = None,
        timeout: float | None = None,
        allow_reordering: bool = False,
        cut: str | None = None,
        layout: Layout | None = None,
    ) -> Result:
        """The output for `x`, and a report of how the server computed it.

        Args:
            x: as in `__call__`.
            out: as in `__call__`.
            timeout: as in `__call__`.
            allow_reordering: whether sums over input channels may be split between workers; this changes how floats
                round.
            cut: what to cut along, see `Client.run`.
            layout: see `Client.run`.

        Raises:
            InvalidArgumentError: `x` or `out` does not fit, or the layer cannot be cut so.
            GroupconvError: the server's answer; the subclass stands for the gRPC status.
        """
        return self._run(
            self._exchange(x, out, allow_reordering=allow_reordering, report=True, cut=cut, layout=layout), timeout
        )

    def statistics(self) -> LayerInfo:
        """The server's current description: version, bytes, requests, samples, seconds.

        Raises:
            NotFoundError: the server no longer has the layer.
        """
        return self._get(self.name).info

    def unload(self) -> None:
        """Remove the layer from the server.

        Raises:
            NotFoundError: the server no longer has the layer.
        """
        self._unload(self.name)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        self.unload()


__getattr__ = moved_names(__name__, {"AsyncLayer": "groupconv.async_layer"})
