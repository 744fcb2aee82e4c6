"""ModelInfer without gRPC: runs one request on a resident layer."""

import time
from collections.abc import Callable, Sequence
from typing import Any

from groupconv.convolution.steps import Step
from groupconv.errors import InvalidArgumentError
from groupconv_server.admission.gate import reserve
from groupconv_server.coordinator.batching import Batcher
from groupconv_server.coordinator.footprint import IN_MESSAGE, IN_PLACE
from groupconv_server.inference import models
from groupconv_server.inference.networks import NetworkInference
from groupconv_server.inference.statistics import ModelStatistics, phases_of
from groupconv_server.inference.tensors import Destination, input_of, output_reference, parameter
from groupconv_server.inference.v2 import infer_pb2
from groupconv_server.layers.registry import Layers
from groupconv_server.layers.version import LayerVersion, NetworkVersion, Version
from groupconv_server.memory.client_memory import ClientMemory
from groupconv_worker.job import Job

FINAL = "triton_final_response"
"""The parameter that marks the last answer to a request. Here each request has one answer."""
_SEQUENCE = ("sequence_id", "sequence_start", "sequence_end")


class Inference:
    """Runs requests of the protocol on resident layers and networks.

    Args:
        batcher: runs convolutions.
        layers: the models.
        memory: of the server's clients.
        statistics: counts each request.
        networks: runs networks.
    """

    def __init__(
        self,
        batcher: Batcher,
        layers: Layers,
        memory: ClientMemory,
        statistics: ModelStatistics,
        networks: NetworkInference,
    ) -> None:
        self.batcher, self.layers, self.memory, self.statistics = batcher, layers, memory, statistics
        self._networks = networks

    def infer(
        self,
        request: infer_pb2.ModelInferRequest,
        contents: Sequence[memoryview | bytes],
        deadline: float | None = None,
        *,
        final: bool = False,
        alive: Callable[[], bool] = lambda: True,
    ) -> bytes:
        """Run one request.

        Args:
            request: its parameter `timeout` (microseconds) shortens the deadline; `priority` (an integer) is that of
                `Batcher.execute`; `exact` (true or false) and `math` (a string) are those of
                `ConvSpec`.
            contents: the raw contents of the request, from `messages.parse`.
            deadline: by time.monotonic().
            final: whether the answer carries the parameter `triton_final_response`.
            alive: whether the client still waits for the answer.

        Returns:
            A serialized ModelInferResponse.

        Raises:
            NotFoundError: there is no such layer, version or region.
            InvalidArgumentError: a field of the request is invalid.
            DeadlineExceededError, ResourceExhaustedError, UnavailableError: as `Coordinator.convolve`.
        """
        start = time.perf_counter()
        samples = request.inputs[0].shape[0] if request.inputs and request.inputs[0].shape else 1
        with self.layers.using(request.model_name, max(1, samples), kind=Version) as layer:
            try:
                models.check_version(layer, request.model_version)
                response = infer_pb2.ModelInferResponse(
                    model_name=layer.name, model_version=str(layer.version), id=request.id
                )
                if final:
                    response.parameters[FINAL].bool_param = True
                deadline = _shortened(request, deadline)
                if isinstance(layer, NetworkVersion):
                    _check_no_sequence(request)
                    return self._networks.infer(layer, request, contents, response, Job(deadline, alive), start)
                assert isinstance(layer, LayerVersion)
                return self._answer(layer, request, contents, response, deadline, start, alive)
            except BaseException:
                self.statistics.failed(layer, time.perf_counter() - start)
                raise

    def _answer(
        self,
        layer: LayerVersion,
        request: infer_pb2.ModelInferRequest,
        contents: Sequence[memoryview | bytes],
        response: infer_pb2.ModelInferResponse,
        deadline: float | None,
        start: float,
        alive: Callable[[], bool],
    ) -> bytes:
        priority = _checked_priority(request)
        steps = _steps_of(layer, request)
        x = input_of(request, contents, self.memory, models.input_kind(layer))
        answer = Destination(output_reference(request.outputs), self.memory, x, response)
        coordinator = self.batcher.coordinator
        call = coordinator.compile(x.shape, x.dtype, steps)
        if answer.at is None:
            coordinator.limits.check_message(call.output_bytes)
        reserve(call.working_bytes + call.output_bytes * (IN_MESSAGE if answer.at is None else IN_PLACE))
        y = answer.allocate(call.output_shape, call.output_dtype)
        ready = time.perf_counter()
        outcome = self.batcher.execute(call, x, Job(deadline, alive, priority), y)
        ran = time.perf_counter()
        message = answer.message()
        end = time.perf_counter()
        phases = phases_of(len(x), end - start, ready - start, end - ran, outcome.report)
        self.statistics.answered(layer, phases, outcome.report.plan.steps[0].input_shape[0])
        return message


def _steps_of(layer: LayerVersion, request: infer_pb2.ModelInferRequest) -> Sequence[Step]:
    """The layer's steps, with the parameters `exact` and `math` of the request."""
    if not request.parameters:
        return layer.steps
    exact: bool = parameter(request.parameters, "exact", bool) or False
    math: Any = parameter(request.parameters, "math", str)
    try:
        return layer.steps_with(exact=exact, math=math)
    except InvalidArgumentError as error:
        raise error.within("parameters") from None


def _check_no_sequence(request: infer_pb2.ModelInferRequest) -> None:
    if not request.parameters:
        return
    for name in _SEQUENCE:
        if name in request.parameters:
            raise InvalidArgumentError(
                f"parameters.{name}", "no sequences: a model keeps no state between requests", "one"
            )


def _checked_priority(request: infer_pb2.ModelInferRequest) -> int:
    _check_no_sequence(request)
    priority: int = parameter(request.parameters, "priority", int) or 0
    if priority < 0:
        raise InvalidArgumentError("parameters.priority", "an integer from 0 on", priority)
    return priority


def _shortened(request: infer_pb2.ModelInferRequest, deadline: float | None) -> float | None:
    """The earlier of the caller's deadline and the request's own timeout."""
    timeout: int = parameter(request.parameters, "timeout", int) or 0
    if timeout == 0:
        return deadline
    if timeout < 0:
        raise InvalidArgumentError("parameters.timeout", "microseconds from 0 on", timeout)
    own = time.monotonic() + timeout * 1e-6
    return own if deadline is None else min(own, deadline)
