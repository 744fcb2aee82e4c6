"""Messages of streams through networks."""

from groupconv.networks.windows import OutputAxis, OutputPart, StreamPlan, WindowAxis
from groupconv.v1 import network_pb2
from groupconv.wire.networks import info_from_wire, info_to_wire


def stream_plan_to_wire(plan: StreamPlan) -> network_pb2.PlanNetworkStreamResponse:
    """How maps go through a network."""
    return network_pb2.PlanNetworkStreamResponse(
        version=plan.version,
        maps=plan.maps,
        outputs=map(info_to_wire, plan.outputs),
        axes=[
            network_pb2.WindowAxis(
                axis=axis.axis,
                step=axis.step,
                receptive_field=axis.receptive_field,
                ranges=[network_pb2.IndexRange(start=start, stop=stop) for start, stop in axis.ranges],
                outputs=[_output_to_wire(axis.outputs[info.name]) for info in plan.outputs],
            )
            for axis in plan.axes
        ],
        window_bytes=plan.window_bytes,
        stream_bytes=plan.stream_bytes,
        recomputed=plan.recomputed,
        in_flight=plan.in_flight,
    )


def stream_plan_from_wire(message: network_pb2.PlanNetworkStreamResponse, shape: tuple[int, ...]) -> StreamPlan:
    """How maps of a shape go through a network."""
    outputs = tuple(map(info_from_wire, message.outputs))
    axes = (
        WindowAxis(
            axis.axis,
            axis.step,
            axis.receptive_field,
            tuple((r.start, r.stop) for r in axis.ranges),
            {info.name: _output_from_wire(output) for info, output in zip(outputs, axis.outputs, strict=True)},
        )
        for axis in message.axes
    )
    return StreamPlan(
        message.version,
        tuple(message.maps),
        shape,
        outputs,
        tuple(axes),
        message.window_bytes,
        message.stream_bytes,
        message.recomputed,
        message.in_flight,
    )


def _output_to_wire(output: OutputAxis) -> network_pb2.OutputAxis:
    return network_pb2.OutputAxis(
        axis=output.axis,
        parts=[network_pb2.IndexRange(start=part.start, stop=part.stop) for part in output.parts],
        origins=[part.origin for part in output.parts],
    )


def _output_from_wire(message: network_pb2.OutputAxis) -> OutputAxis:
    parts = (OutputPart(r.start, r.stop, origin) for r, origin in zip(message.parts, message.origins, strict=True))
    return OutputAxis(message.axis, tuple(parts))
