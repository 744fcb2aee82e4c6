"""Plans and reports to messages and back, and the request for a plan."""

from collections.abc import Sequence
from typing import Any

from groupconv.convolution.dtypes import as_dtype
from groupconv.convolution.plan import Alternative, Plan, Range, Shard, StepPlan
from groupconv.convolution.report import Report, ShardReport
from groupconv.convolution.spec import ConvSpec
from groupconv.convolution.steps import geometries
from groupconv.v1 import convolution_pb2, plan_pb2, spec_pb2
from groupconv.wire.specs import spec_to_wire
from groupconv.wire.tensors import type_to_wire


def plan_request(
    input_shape: Sequence[int],
    kernel_shapes: Sequence[Sequence[int]],
    specs: Sequence[ConvSpec],
    dtype: Any,
    *,
    allow_reordering: bool = False,
    cut: str = "",
) -> convolution_pb2.PlanConvolutionRequest:
    """The message that asks for a plan.

    Raises:
        InvalidArgumentError: the shapes do not fit, or the dtype is not supported.
    """
    geometries(specs, input_shape, kernel_shapes)
    of = as_dtype("dtype", dtype)
    return convolution_pb2.PlanConvolutionRequest(
        allow_reordering=allow_reordering,
        cut=cut,
        input=type_to_wire(of, tuple(input_shape)),
        steps=[
            spec_pb2.StepType(kernel=type_to_wire(of, tuple(shape)), spec=spec_to_wire(spec))
            for shape, spec in zip(kernel_shapes, specs, strict=True)
        ],
    )


def plan_to_wire(plan: Plan) -> plan_pb2.Plan:
    """A plan as a message."""
    return plan_pb2.Plan(
        steps=[
            plan_pb2.StepPlan(
                variant=s.variant,
                input_shape=s.input_shape,
                kernel_shape=s.kernel_shape,
                output_shape=s.output_shape,
                groups=s.groups,
                cut=s.cut,
                reason=s.reason,
                shards=map(_shard_to_wire, s.shards),
                predicted_seconds=s.seconds,
                alternatives=[
                    plan_pb2.Alternative(cut=a.cut, shards=a.shards, predicted_seconds=a.seconds, measured=a.measured)
                    for a in s.alternatives
                ],
                joined=s.joined,
                stride=s.stride,
                dilation=s.dilation,
                transposed=s.transposed,
                measured=s.measured,
            )
            for s in plan.steps
        ]
    )


def plan_from_wire(message: plan_pb2.Plan) -> Plan:
    """A message as a plan."""
    return Plan(
        tuple(
            StepPlan(
                variant=s.variant,
                input_shape=tuple(s.input_shape),
                kernel_shape=tuple(s.kernel_shape),
                output_shape=tuple(s.output_shape),
                groups=s.groups,
                cut=s.cut,
                reason=s.reason,
                shards=tuple(map(_shard_from_wire, s.shards)),
                seconds=s.predicted_seconds,
                alternatives=tuple(
                    Alternative(a.cut, a.shards, a.predicted_seconds, a.measured) for a in s.alternatives
                ),
                joined=s.joined,
                stride=tuple(s.stride),
                dilation=tuple(s.dilation),
                transposed=s.transposed,
                measured=s.measured,
            )
            for s in message.steps
        )
    )


def report_to_wire(report: Report, response: convolution_pb2.ConvolveResponse) -> None:
    """Write a report into a response."""
    response.plan.CopyFrom(plan_to_wire(report.plan))
    for shards in report.steps:
        step = response.steps.add()
        for s in shards:
            step.shards.add(
                index=s.index,
                worker=s.worker,
                algorithm=s.algorithm,
                seconds=s.seconds,
                compute_seconds=s.compute_seconds,
                attempts=s.attempts,
                improving=s.improving,
            )
    for name, seconds in report.phases.items():
        response.phases.add(name=name, seconds=seconds)


def report_from_wire(response: convolution_pb2.ConvolveResponse) -> Report:
    """The report of a response, or `NO_REPORT`."""
    if not response.HasField("plan"):
        return NO_REPORT
    return Report(
        plan=plan_from_wire(response.plan),
        steps=tuple(
            tuple(
                ShardReport(s.index, s.worker, s.algorithm, s.seconds, s.compute_seconds, s.attempts, s.improving)
                for s in step.shards
            )
            for step in response.steps
        ),
        phases={phase.name: phase.seconds for phase in response.phases},
    )


NO_REPORT = Report(Plan(()), ())
"""Stands for the report of a response without one."""


def _shard_to_wire(s: Shard) -> plan_pb2.ShardPlan:
    return plan_pb2.ShardPlan(
        index=s.index,
        worker=s.worker,
        input=[plan_pb2.Range(start=r.start, stop=r.stop) for r in s.input],
        kernel=[plan_pb2.Range(start=r.start, stop=r.stop) for r in s.kernel],
        output=[plan_pb2.Range(start=r.start, stop=r.stop) for r in s.output],
        bytes_in=s.bytes_in,
        bytes_out=s.bytes_out,
        multiply_adds=s.multiply_adds,
        predicted_seconds=s.seconds,
        partial=s.partial,
    )


def _shard_from_wire(s: plan_pb2.ShardPlan) -> Shard:
    return Shard(
        index=s.index,
        worker=s.worker,
        input=tuple(Range(r.start, r.stop) for r in s.input),
        kernel=tuple(Range(r.start, r.stop) for r in s.kernel),
        output=tuple(Range(r.start, r.stop) for r in s.output),
        bytes_in=s.bytes_in,
        bytes_out=s.bytes_out,
        multiply_adds=s.multiply_adds,
        seconds=s.predicted_seconds,
        partial=s.partial,
    )
