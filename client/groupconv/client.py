"""The blocking client: `groupconv.connect(...)`."""

from collections.abc import Sequence
from types import TracebackType
from typing import Any, Self

import grpc

from groupconv.convolutions import Convolutions
from groupconv.options import Call
from groupconv.plan import Plan
from groupconv.requests import Array, Result, Step, convolve_request, plan_request, prepare, result_of
from groupconv.rpc import Connection, from_rpc_error
from groupconv.spec import ConvSpec
from groupconv.tensors import MAX_MESSAGE_BYTES
from groupconv.v1 import cluster_pb2, cluster_pb2_grpc, convolution_pb2_grpc
from groupconv.wire import plan_from_wire


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
    connection = Connection(target, token, tls, root_certificates, max_message_bytes)
    return Client(connection.open(), target=target, timeout=timeout)


class Client(Convolutions[Array]):
    """Calls a groupconv server. Safe to share between threads; close it, or use it as a context manager.

    Beside the convolution functions: `run` for several steps and how they were done, `plan`, `status`.
    """

    def __init__(self, channel: grpc.Channel, *, target: str, timeout: float | None) -> None:
        self.target, self.timeout = target, timeout
        self._channel = channel
        self._convolution = convolution_pb2_grpc.ConvolutionServiceStub(channel)
        self._cluster = cluster_pb2_grpc.ClusterServiceStub(channel)

    def run(
        self,
        x: Any,
        steps: Sequence[Step],
        *,
        out: Array | None = None,
        timeout: float | None = None,
        allow_reordering: bool = False,
    ) -> Result:
        """Run steps one after another on `x` in one request, and tell how it was done.

        Args:
            x: (N, C, *spatial), or (C, *spatial) for one sample.
            steps: at least one; the output of each is the input of the next.
            out: array of the answer's shape and dtype to fill.
            timeout: seconds, in place of the client's.
            allow_reordering: whether sums over input channels may be taken in parts on several workers where that is
                faster; it changes how floats round.

        Raises:
            InvalidArgumentError: naming the field, what was expected and what came.
            GroupconvError: the subclass of the status the server answered with.
        """
        array, ready, unbatched = prepare(x, steps)
        request = convolve_request(array, ready, allow_reordering=allow_reordering)
        response = self._call(self._convolution.Convolve, request, timeout)
        return result_of(response, unbatched=unbatched, out=out)

    def plan(
        self,
        input_shape: Sequence[int],
        weight_shape: Sequence[int],
        spec: ConvSpec | None = None,
        *,
        dtype: Any = "float32",
        timeout: float | None = None,
        allow_reordering: bool = False,
    ) -> Plan:
        """How the server would cut a convolution of these shapes; `print(plan)` shows the table."""
        return self.plan_steps(
            input_shape,
            [weight_shape],
            [spec or ConvSpec()],
            dtype=dtype,
            timeout=timeout,
            allow_reordering=allow_reordering,
        )

    def plan_steps(
        self,
        input_shape: Sequence[int],
        weight_shapes: Sequence[Sequence[int]],
        specs: Sequence[ConvSpec],
        *,
        dtype: Any = "float32",
        timeout: float | None = None,
        allow_reordering: bool = False,
    ) -> Plan:
        """How the server would cut several steps, each on the output of the one before."""
        request = plan_request(input_shape, weight_shapes, specs, dtype, allow_reordering=allow_reordering)
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

    def _answer(self, x: Any, steps: Sequence[Step], call: Call) -> Array:
        return self.run(x, steps, **call).output

    def _call(self, method: Any, request: Any, timeout: float | None) -> Any:
        try:
            return method(request, timeout=self.timeout if timeout is None else timeout)
        except grpc.RpcError as error:
            raise from_rpc_error(error) from None
