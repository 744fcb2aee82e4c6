"""ConvolutionService: Convolve and PlanConvolution."""

import functools
import time
from collections.abc import Callable, Sequence
from typing import Any

import grpc
import numpy as np
from google.protobuf.message import DecodeError

from groupconv.convolution.cuts import cut_name
from groupconv.convolution.steps import Array, Result, Step
from groupconv.errors import InvalidArgumentError
from groupconv.v1 import convolution_pb2
from groupconv.wire.codec import DecodeCache, message_with
from groupconv.wire.plans import plan_to_wire, report_to_wire
from groupconv.wire.scan import scan
from groupconv.wire.tensors import type_from_wire
from groupconv_server.admission.call import deadline_of
from groupconv_server.admission.gate import reserve
from groupconv_server.coordinator.batching import Batcher
from groupconv_server.coordinator.footprint import IN_MESSAGE
from groupconv_server.coordinator.steps import Shaped, specs_of
from groupconv_server.layers.registry import Layers
from groupconv_server.memory.client_memory import ClientMemory
from groupconv_server.servicers.regions import RequestOutput, RequestTensors
from groupconv_worker.job import Job

SERVICE = convolution_pb2.DESCRIPTOR.services_by_name["ConvolutionService"].full_name


class ConvolutionServicer:
    """Convolutions of any variant, split over the coordinator's workers.

    Convolve takes and returns bytes: the input is read in gRPC's message, and the output computed in the message that
    gRPC sends. Either may be in shared memory or on a device instead.

    Args:
        batcher: runs convolutions.
        layers: the resident layers.
        memory: of clients, shared or on a device; None allows none.
    """

    def __init__(self, batcher: Batcher, layers: Layers, memory: ClientMemory | None = None) -> None:
        self.batcher, self.layers, self._memory = batcher, layers, memory or ClientMemory()
        self.coordinator = batcher.coordinator
        self._most = self.coordinator.limits.most_output()

    def add_to(self, server: grpc.Server) -> None:
        """Serve the RPCs."""
        plan: Any = grpc.unary_unary_rpc_method_handler(
            self.PlanConvolution,
            convolution_pb2.PlanConvolutionRequest.FromString,
            convolution_pb2.PlanConvolutionResponse.SerializeToString,
        )
        handlers = {"Convolve": grpc.unary_unary_rpc_method_handler(self.Convolve), "PlanConvolution": plan}
        server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler(SERVICE, handlers),))

    def Convolve(  # noqa: N802 - the RPC's name
        self, raw: bytes, context: grpc.ServicerContext
    ) -> bytes:
        """Run the steps and return the last output."""
        start = time.perf_counter()
        tensors = functools.partial(RequestTensors, self._memory, context)
        request, x, steps = parse(raw, tensors)
        job = Job(deadline_of(context), context.is_active, request.priority)
        if not request.layer:
            return self._answer(request, x, steps, tensors, job, start)
        if steps:
            raise InvalidArgumentError("steps", "none where a layer is named", len(steps))
        with self.layers.using(request.layer, len(x) if x.ndim else 1) as layer:
            return self._answer(request, x, layer.steps, tensors, job, start)

    def _answer(
        self,
        request: convolution_pb2.ConvolveRequest,
        x: Array,
        steps: Sequence[Step],
        tensors: Callable[[], RequestTensors],
        job: Job,
        start: float,
    ) -> bytes:
        """Compile or find the call, run it, encode."""
        parsed = time.perf_counter() - start
        cut = request.cut and cut_name(request.cut)
        call = self.coordinator.compile(x.shape, x.dtype, steps, reordering=request.allow_reordering, cut=cut)
        if request.HasField("output_place"):
            reserve(call.working_bytes)
            read = (x, *(s.kernel for s in steps))
            output = RequestOutput(request.output_place, tensors(), read, self.coordinator.limits)
            y = output.allocate(call.output_shape, call.output_dtype)
            result = self.batcher.execute(call, x, job, y)
            return output.message(self._report(result, request, parsed))
        if call.output_bytes > self._most:
            self.coordinator.limits.check_message(call.output_bytes)
        if request.without_report:
            reserve(call.working_bytes + IN_MESSAGE * call.output_bytes)
            message, y = message_with(1, call.output_dtype, call.output_shape, field="output")
            self.batcher.execute(call, x, job, y)
            return message
        # the report is known after the run, so the output is copied into the message
        reserve(call.working_bytes + (IN_MESSAGE + 1) * call.output_bytes)
        result = self.batcher.execute(call, x, job, None)
        rest = self._report(result, request, parsed)
        message, y = message_with(1, call.output_dtype, call.output_shape, rest, "output")
        y[...] = result.output
        return message

    def _report(self, outcome: Result, request: convolution_pb2.ConvolveRequest, parsed: float) -> bytes:
        """The answer without its output, on the wire."""
        if request.without_report:
            return b""
        response = convolution_pb2.ConvolveResponse()
        response.phases.add(name="parse", seconds=parsed)
        report_to_wire(outcome.report, response)
        return response.SerializeToString()

    def PlanConvolution(  # noqa: N802 - the RPC's name
        self,
        request: convolution_pb2.PlanConvolutionRequest,
        context: grpc.ServicerContext,  # noqa: ARG002
    ) -> convolution_pb2.PlanConvolutionResponse:
        """Return the plan of a request of these shapes."""
        dtype, shape = type_from_wire(request.input, "input", batch=True)
        kernels = [Shaped(*type_from_wire(s.kernel, f"steps[{i}].kernel")) for i, s in enumerate(request.steps)]
        steps = [Step(kernel, None, spec) for kernel, spec in zip(kernels, specs_of(request.steps), strict=True)]
        cut = cut_name(request.cut)
        plan = self.coordinator.plan(shape, dtype, steps, reordering=request.allow_reordering, cut=cut)
        return convolution_pb2.PlanConvolutionResponse(plan=plan_to_wire(plan))


_requests: DecodeCache[tuple[convolution_pb2.ConvolveRequest, np.dtype, tuple[int, ...]]] = DecodeCache()


def parse(
    raw: bytes, tensors: Callable[[], RequestTensors]
) -> tuple[convolution_pb2.ConvolveRequest, Array, list[Step]]:
    """A request without its input's elements, its arrays and specs.

    Arrays of the message are read-only; the input is a view of `raw` where it lies aligned there.

    Args:
        raw: the message.
        tensors: finds the tensors of the request, where it is not one of a known form.

    Raises:
        InvalidArgumentError: naming the field, what was expected and what came.
        NotFoundError, FailedPreconditionError: as `RequestTensors.tensor`.
    """
    known = _requests.get(raw)
    if known is not None:
        (request, dtype, shape), start = known
        x = np.ndarray(shape, dtype, raw, start)
        return request, x if x.flags.aligned else x.copy(), []
    reader = tensors()
    request, data = (_brief if len(raw) <= BRIEF else _read)(raw)
    x = reader.tensor(request.input, "input", data, in_place=True, batch=True)
    if not request.steps:
        if data is not None and not request.HasField("output_place"):
            _requests.put(raw, data, (request, x.dtype, x.shape))
        return request, x, []
    specs = specs_of(request.steps)
    steps = []
    for i, (message, spec) in enumerate(zip(request.steps, specs, strict=True)):
        kernel = reader.tensor(message.kernel, f"steps[{i}].kernel")
        bias = reader.tensor(message.bias, f"steps[{i}].bias") if message.HasField("bias") else None
        steps.append(Step(kernel, bias, spec))
    return request, x, steps


def _read(raw: bytes) -> tuple[convolution_pb2.ConvolveRequest, memoryview | None]:
    """A request without its input's elements, and those where they are in the message."""
    small, data = scan(raw, (1, 3))
    try:
        return convolution_pb2.ConvolveRequest.FromString(small), data
    except DecodeError:
        raise InvalidArgumentError("message", "a ConvolveRequest", f"{len(raw)} other bytes") from None


BRIEF = 512
"""Bytes of a request that is remembered whole: one that says where its tensors lie says the same again and again."""
_brief = functools.lru_cache(maxsize=1024)(_read)
