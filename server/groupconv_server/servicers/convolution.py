"""ConvolutionService: Convolve and PlanConvolution."""

import time
from collections.abc import Iterable

import grpc

from groupconv.errors import InvalidArgumentError
from groupconv.requests import Array, Step
from groupconv.spec import ConvSpec
from groupconv.tensors import from_wire, to_wire, type_from_wire
from groupconv.v1 import convolution_pb2, convolution_pb2_grpc, layer_pb2, spec_pb2
from groupconv.wire import plan_to_wire, report_to_wire, spec_from_wire
from groupconv_server.coordinator import Coordinator
from groupconv_server.layers import Layers
from groupconv_server.servicers.errors import answers_errors, deadline_of


class ConvolutionServicer(convolution_pb2_grpc.ConvolutionServiceServicer):
    """Convolutions of any variant, split over the coordinator's workers."""

    def __init__(self, coordinator: Coordinator, layers: Layers) -> None:
        self.coordinator, self.layers = coordinator, layers

    @answers_errors
    def Convolve(  # noqa: N802 - the RPC's name
        self, request: convolution_pb2.ConvolveRequest, context: grpc.ServicerContext
    ) -> convolution_pb2.ConvolveResponse:
        """Run the steps and return the last output."""
        start = time.perf_counter()
        x, steps = parse(request)
        parsed = time.perf_counter() - start
        deadline, reordering = deadline_of(context), request.allow_reordering
        if request.layer:
            if steps:
                raise InvalidArgumentError("steps", "none where a layer is named", len(steps))
            with self.layers.using(request.layer, len(x) if x.ndim else 1) as layer:
                outcome = self.coordinator.convolve(x, layer.steps, deadline=deadline, reordering=reordering)
        else:
            outcome = self.coordinator.convolve(x, steps, deadline=deadline, reordering=reordering)
        response = convolution_pb2.ConvolveResponse(output=to_wire(outcome.output))
        if request.without_report:
            return response
        response.phases.add(name="parse", seconds=parsed)
        report_to_wire(outcome.report, response)
        return response

    @answers_errors
    def PlanConvolution(  # noqa: N802 - the RPC's name
        self,
        request: convolution_pb2.PlanConvolutionRequest,
        context: grpc.ServicerContext,  # noqa: ARG002
    ) -> convolution_pb2.PlanConvolutionResponse:
        """Say how a request of these shapes would be cut."""
        dtype, shape = type_from_wire(request.input, "input")
        kernels = [type_from_wire(s.kernel, f"steps[{i}].kernel") for i, s in enumerate(request.steps)]
        plan = self.coordinator.plan(
            shape, dtype, specs_of(request.steps), [(s, d) for d, s in kernels], reordering=request.allow_reordering
        )
        return convolution_pb2.PlanConvolutionResponse(plan=plan_to_wire(plan))


def parse(request: convolution_pb2.ConvolveRequest) -> tuple[Array, list[Step]]:
    """The arrays and specs of a request; the arrays are read-only views of one copy of their bytes.

    Raises:
        InvalidArgumentError: naming the field, what was expected and what came.
    """
    x = from_wire(request.input, "input")
    specs = specs_of(request.steps)
    steps = []
    for i, (message, spec) in enumerate(zip(request.steps, specs, strict=True)):
        kernel = from_wire(message.kernel, f"steps[{i}].kernel")
        bias = from_wire(message.bias, f"steps[{i}].bias") if message.HasField("bias") else None
        steps.append(Step(kernel, bias, spec))
    return x, steps


def specs_of(steps: Iterable[spec_pb2.Step | spec_pb2.StepType | layer_pb2.LayerStep]) -> list[ConvSpec]:
    """The spec of every step.

    Raises:
        InvalidArgumentError: with the path of the field, as `steps[0].spec.stride`.
    """
    specs = []
    for i, step in enumerate(steps):
        try:
            specs.append(spec_from_wire(step.spec))
        except InvalidArgumentError as error:
            raise error.within(f"steps[{i}].spec") from None
    return specs
