"""The blocking client: `groupconv.connect(...)`.

The functions take the names and defaults of torch.nn.functional; arrays are anything with `__array__` or DLPack,
answers are NumPy arrays. A failed call raises the exception of its gRPC status from `groupconv.errors`.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from types import TracebackType
from typing import Any, Self, Unpack

import grpc

from groupconv.errors import InvalidArgumentError
from groupconv.options import Conv, ConvTranspose, split
from groupconv.plan import Plan, Report
from groupconv.requests import (
    Array,
    Step,
    convolve_request,
    depthwise_separable_steps,
    geometries,
    output_of,
    plan_request,
    pointwise,
    prepare,
    spatially_separable_steps,
)
from groupconv.rpc import from_rpc_error, open_channel
from groupconv.spec import Activation, ActivationKind, ConvSpec
from groupconv.tensors import MAX_MESSAGE_BYTES, as_array
from groupconv.v1 import cluster_pb2, cluster_pb2_grpc, convolution_pb2_grpc
from groupconv.wire import plan_from_wire, report_from_wire


@dataclass(frozen=True)
class Result:
    """An answer and how it was made.

    Attributes:
        output: (N, M, *spatial).
        report: the plan, each shard's worker and times, the times of each phase.
    """

    output: Array
    report: Report


def connect(
    target: str,
    *,
    timeout: float | None = 300.0,
    token: str | None = None,
    tls: bool = False,
    root_certificates: bytes | None = None,
    max_message_bytes: int = MAX_MESSAGE_BYTES,
) -> "Client":
    """A client of the server at `target`. Nothing is sent until the first call.

    Args:
        target: "host:port" or "unix:path".
        timeout: seconds a call may take, unless the call says otherwise; None waits for ever.
        token: bearer token, sent only over TLS.
        tls: encrypt, trusting the system's certificates.
        root_certificates: PEM to trust in their place; implies TLS.
        max_message_bytes: the largest request or answer.

    Raises:
        InvalidArgumentError: a token without TLS, which would travel in the clear.

    Example:
        >>> with connect("localhost:50051") as client:
        ...     client.target
        'localhost:50051'
    """
    if token is not None and not (tls or root_certificates):
        raise InvalidArgumentError("token", "TLS, or the token would travel in the clear", "no TLS")
    channel = open_channel(
        target, max_message_bytes=max_message_bytes, token=token, root_certificates=root_certificates, tls=tls
    )
    return Client(channel, target=target, timeout=timeout)


class Client:
    """Calls a groupconv server. Safe to share between threads; close it, or use it as a context manager.

    Keywords of every convolution: stride, padding, dilation, groups, padding_mode, activation, flip_kernel as in
    `ConvSpec`; out (an array to fill), timeout (seconds, for this call).
    """

    def __init__(self, channel: grpc.Channel, *, target: str, timeout: float | None) -> None:
        self.target, self.timeout = target, timeout
        self._channel = channel
        self._convolution = convolution_pb2_grpc.ConvolutionServiceStub(channel)
        self._cluster = cluster_pb2_grpc.ClusterServiceStub(channel)

    def conv1d(self, x: Any, weight: Any, bias: Any = None, **options: Unpack[Conv]) -> Array:
        """(N, C, L) * (M, C/g, K) -> (N, M, L')."""
        return self._conv(1, x, weight, bias, options)

    def conv2d(self, x: Any, weight: Any, bias: Any = None, **options: Unpack[Conv]) -> Array:
        """(N, C, H, W) * (M, C/g, K, K) -> (N, M, H', W').

        Example:
            y = client.conv2d(x, w, bias, stride=1, padding=2, groups=2, activation="relu")
        """
        return self._conv(2, x, weight, bias, options)

    def conv3d(self, x: Any, weight: Any, bias: Any = None, **options: Unpack[Conv]) -> Array:
        """(N, C, D, H, W) * (M, C/g, K, K, K) -> (N, M, D', H', W')."""
        return self._conv(3, x, weight, bias, options)

    def conv_transpose1d(self, x: Any, weight: Any, bias: Any = None, **options: Unpack[ConvTranspose]) -> Array:
        """(N, C, L) * (C, M/g, K) -> (N, M, L')."""
        return self._conv(1, x, weight, bias, options, transposed=True)

    def conv_transpose2d(self, x: Any, weight: Any, bias: Any = None, **options: Unpack[ConvTranspose]) -> Array:
        """(N, C, H, W) * (C, M/g, K, K) -> (N, M, H', W')."""
        return self._conv(2, x, weight, bias, options, transposed=True)

    def conv_transpose3d(self, x: Any, weight: Any, bias: Any = None, **options: Unpack[ConvTranspose]) -> Array:
        """(N, C, D, H, W) * (C, M/g, K, K, K) -> (N, M, D', H', W')."""
        return self._conv(3, x, weight, bias, options, transposed=True)

    def pointwise_conv2d(self, x: Any, weight: Any, bias: Any = None, **options: Unpack[Conv]) -> Array:
        """1×1: (N, C, H, W) with a weight (M, C) or (M, C, 1, 1) -> (N, M, H, W)."""
        return self._conv(2, x, pointwise(weight, 2), bias, options)

    def depthwise_conv2d(self, x: Any, weight: Any, bias: Any = None, **options: Unpack[Conv]) -> Array:
        """One group per channel: (N, C, H, W) with a weight (C·multiplier, 1, K, K)."""
        x = as_array(x)
        return self._conv(2, x, weight, bias, {"groups": x.shape[-3] if x.ndim >= 3 else 1, **options})

    def depthwise_separable_conv2d(
        self,
        x: Any,
        depthwise_weight: Any,
        pointwise_weight: Any,
        bias: Any = None,
        *,
        depthwise_bias: Any = None,
        depthwise_activation: ActivationKind | Activation | None = None,
        **options: Unpack[Conv],
    ) -> Array:
        """Depthwise (C, 1, K, K) with the stride, padding and dilation, then pointwise (M, C) with the activation."""
        spec, call = split(options)
        steps = depthwise_separable_steps(
            depthwise_weight,
            pointwise_weight,
            bias,
            spec,
            depthwise_bias=depthwise_bias,
            depthwise_activation=depthwise_activation,
        )
        return self.run(x, steps, **call).output

    def spatially_separable_conv2d(
        self, x: Any, column: Any, row: Any, bias: Any = None, **options: Unpack[Conv]
    ) -> Array:
        """The rank-1 kernel column·rowᵀ on every channel, as K×1 then 1×K.

        Args:
            x: (N, C, H, W).
            column: (K,) for every channel, or (C, K).
            row: likewise.
            bias: (C,).
            options: as in conv2d, without groups.
        """
        x = as_array(x)
        spec, call = split(options)
        channels = x.shape[-3] if x.ndim >= 3 else 1
        return self.run(x, spatially_separable_steps(column, row, bias, spec, channels), **call).output

    def convolve(
        self,
        x: Any,
        weight: Any,
        bias: Any = None,
        spec: ConvSpec | None = None,
        *,
        out: Array | None = None,
        timeout: float | None = None,
    ) -> Array:
        """The general form: the rank is the weight's, everything else is in `spec`."""
        return self.run(x, [Step(weight, bias, spec or ConvSpec())], out=out, timeout=timeout).output

    def run(self, x: Any, steps: Sequence[Step], *, out: Array | None = None, timeout: float | None = None) -> Result:
        """Run steps one after another on `x` in one request, and tell how it was done.

        Args:
            x: (N, C, *spatial), or (C, *spatial) for one sample.
            steps: at least one; the output of each is the input of the next.
            out: array of the answer's shape and dtype to fill.
            timeout: seconds, in place of the client's.

        Raises:
            InvalidArgumentError: naming the field, what was expected and what came.
            GroupconvError: the subclass of the status the server answered with.
        """
        array, ready, unbatched = prepare(x, steps)
        response = self._call(self._convolution.Convolve, convolve_request(array, ready), timeout)
        output = output_of(response, unbatched=unbatched, out=out)
        return Result(output, report_from_wire(response))

    def plan(
        self,
        input_shape: Sequence[int],
        weight_shape: Sequence[int],
        spec: ConvSpec | None = None,
        *,
        dtype: Any = "float32",
        timeout: float | None = None,
    ) -> Plan:
        """How the server would cut a convolution of these shapes; `print(plan)` shows the table."""
        spec = spec or ConvSpec()
        geometries([spec], input_shape, [weight_shape])
        request = plan_request(input_shape, [weight_shape], [spec], dtype)
        return plan_from_wire(self._call(self._convolution.PlanConvolution, request, timeout).plan)

    def status(self, *, timeout: float | None = None) -> cluster_pb2.GetClusterResponse:
        """Version, executor and workers of the server."""
        response: cluster_pb2.GetClusterResponse = self._call(
            self._cluster.GetCluster, cluster_pb2.GetClusterRequest(), timeout
        )
        return response

    def close(self) -> None:
        """Close the channel; calls in flight are cancelled."""
        self._channel.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        self.close()

    def _conv(self, rank: int, x: Any, weight: Any, bias: Any, options: Any, *, transposed: bool = False) -> Array:
        spec, call = split({**options, "transposed": transposed})
        kernel = as_array(weight)
        if kernel.ndim != rank + 2:
            raise InvalidArgumentError("weight", f"{rank + 2} dimensions for {rank}-D", kernel.shape)
        return self.run(x, [Step(kernel, bias, spec)], **call).output

    def _call(self, method: Any, request: Any, timeout: float | None) -> Any:
        try:
            return method(request, timeout=self.timeout if timeout is None else timeout)
        except grpc.RpcError as error:
            raise from_rpc_error(error) from None
