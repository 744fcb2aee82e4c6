"""Every call of the SDK without its transport: the requests to send, and what their answers mean.

Each call is an exchange (`groupconv.transport.exchange`), which the blocking and the awaiting client run alike.
"""

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np

from groupconv.arguments import as_array, checked_output, checked_steps, prepare, supported
from groupconv.arguments import empty as empty_on_host
from groupconv.convolution.cuts import cut_name
from groupconv.convolution.plan import Plan
from groupconv.convolution.spec import ConvSpec
from groupconv.convolution.steps import Array, Result, Step
from groupconv.errors import InvalidArgumentError
from groupconv.gpu.arrays import Tensor, on_host
from groupconv.layouts import channels_first, channels_last, checked_out, is_channels_last
from groupconv.memory.shared import Shared
from groupconv.options import CallOptions, spec_or_default
from groupconv.streaming.overlap import overlaps
from groupconv.streaming.stream import Transfer, better_streamed, transfer
from groupconv.transport.exchange import Exchange, Request, call_method, decode
from groupconv.v1 import cluster_pb2, convolution_pb2, layer_pb2
from groupconv.wire.layers import LayerInfo, info_from_wire, load_messages
from groupconv.wire.plans import plan_from_wire, plan_request
from groupconv.wire.requests import CONVOLVE, convolve_request, read_answer, request_fields, result_of

LOAD = "/groupconv.v1.LayerService/LoadLayer"
"""The streaming method that takes the messages of `load`."""


def run(shared: Shared | None, x: Any, steps: Sequence[Step], call: CallOptions) -> Exchange[Result]:
    """Run steps; the result has a report."""
    if is_channels_last(call.get("layout")):
        return (yield from _run_last(shared, x, steps, call, report=True))
    tensor, ready, unbatched = prepare(on_host(x) if shared is None else shared.source(x), steps)
    return (yield from _run(shared, tensor, ready, unbatched, call, report=True))


def output(shared: Shared | None, x: Any, steps: Sequence[Step], call: CallOptions) -> Exchange[Array | Transfer]:
    """Run steps and return the output; or, for large arrays, return the stream that will run them faster."""
    if is_channels_last(call.get("layout")):
        return (yield from _run_last(shared, x, steps, call, report=False)).output
    out_on_device = checked_output(call.get("out"))
    tensor, ready, unbatched = prepare(on_host(x) if shared is None else shared.source(x), steps)
    if (
        call.get("cut")  # bands of a stream are cut as the planner likes
        or not better_streamed(tensor, ready)
        or out_on_device is not None
        or (shared is not None and (yield from shared.fits(tensor, ready)))
    ):
        return (yield from _run(shared, tensor, ready, unbatched, call, report=False)).output
    array = on_host(tensor)
    if overlaps(array, call.get("out")):
        array = array.copy()
    reordering = call.get("allow_reordering", False)
    return transfer(array[0] if unbatched else array, ready, out=call.get("out"), allow_reordering=reordering)


def _run_last(
    shared: Shared | None, x: Any, steps: Sequence[Step], call: CallOptions, *, report: bool
) -> Exchange[Result]:
    """Run steps on an array with channels last: a view of it travels, and a view of the answer is returned."""
    steps = checked_steps(steps)
    rank, out = as_array(steps[0].kernel, "steps[0].kernel").ndim - 2, call.get("out")
    output = checked_out(out, rank)
    first = CallOptions(allow_reordering=call.get("allow_reordering", False), cut=call.get("cut"), out=output)
    view = channels_first(x, rank)
    tensor, ready, unbatched = prepare(on_host(view) if shared is None else shared.source(view), steps)
    result = yield from _run(shared, tensor, ready, unbatched, first, report=report)
    return result if output else Result(channels_last(result.output, rank, out), result.report)


def _run(
    shared: Shared | None, x: Tensor, ready: Sequence[Step], unbatched: bool, call: CallOptions, *, report: bool
) -> Exchange[Result]:
    reordering, cut = call.get("allow_reordering", False), cut_name(call.get("cut"))
    out_on_device = checked_output(call.get("out"))
    if shared is None:
        assert isinstance(x, np.ndarray)  # a `DeviceArray` needs `shared`
        request = convolve_request(x, ready, allow_reordering=reordering, report=report, cut=cut)
        answer = read_answer((yield Request(CONVOLVE, request)))
    else:
        fields = request_fields("", report, reordering, cut)
        answer = yield from shared.run_steps(x, ready, fields, out=out_on_device)
    return result_of(answer, unbatched=unbatched, out=out_on_device or call.get("out"))


def plan(
    input_shape: Sequence[int],
    weight: Any,
    spec: ConvSpec | None,
    dtype: Any,
    *,
    allow_reordering: bool,
    cut: str | None,
) -> Exchange[Plan]:
    """Ask how the server would cut a convolution, or steps; arguments as in `Client.plan`.

    Raises:
        InvalidArgumentError: `spec` together with steps, or something that is not a step among steps.
    """
    if not (isinstance(weight, Sequence) and any(isinstance(step, Step) for step in weight)):
        shapes, specs = [weight], [spec_or_default(spec)]
        dtype = "float32" if dtype is None else dtype
    else:
        steps = checked_steps(weight)
        if spec is not None:
            raise InvalidArgumentError("spec", "None with steps, which have their own", spec)
        kernels = [as_array(step.kernel, f"steps[{i}].kernel") for i, step in enumerate(steps)]
        shapes, specs = [kernel.shape for kernel in kernels], [step.spec for step in steps]
        dtype = supported("steps[0].kernel", kernels[0]).dtype if dtype is None else dtype
    return (yield from plan_steps(input_shape, shapes, specs, dtype, allow_reordering=allow_reordering, cut=cut))


def plan_steps(
    input_shape: Sequence[int],
    weight_shapes: Sequence[Sequence[int]],
    specs: Sequence[ConvSpec],
    dtype: Any,
    *,
    allow_reordering: bool,
    cut: str | None,
) -> Exchange[Plan]:
    """Ask how the server would cut steps, by their shapes."""
    for field, value in (("input.shape", input_shape), ("weight_shapes", weight_shapes), ("specs", specs)):
        if not isinstance(value, Sequence):
            raise InvalidArgumentError(field, "a sequence", value)
    specs = [spec_or_default(spec) for spec in specs]
    if len(specs) != len(weight_shapes):
        raise InvalidArgumentError("specs", f"{len(weight_shapes)}, one for each weight shape", len(specs))
    request = plan_request(
        input_shape, weight_shapes, specs, dtype, allow_reordering=allow_reordering, cut=cut_name(cut)
    )
    answer = yield from call_method(
        "ConvolutionService/PlanConvolution", request, convolution_pb2.PlanConvolutionResponse
    )
    return plan_from_wire(answer.plan)


def load(
    name: str, steps: Sequence[Step], dtype: Any = None, inputs: Sequence[Sequence[int]] = ()
) -> Callable[[], Iterator[bytes]]:
    """Make a function for the messages of `LOAD`: each call starts them again. It raises as `load_messages`."""
    _check_name(name)
    return lambda: (message.SerializeToString() for message in load_messages(name, steps, dtype, inputs))


def loaded(answer: bytes) -> LayerInfo:
    """The layer that the server loaded, from its answer to `LOAD`."""
    return info_from_wire(decode(answer, layer_pb2.LoadLayerResponse).layer)


def get_layer(name: str) -> Exchange[LayerInfo]:
    """Get the server's description of a layer."""
    _check_name(name)
    request = layer_pb2.GetLayerRequest(name=name)
    answer = yield from call_method("LayerService/GetLayer", request, layer_pb2.GetLayerResponse)
    return info_from_wire(answer.layer)


def list_layers() -> Exchange[list[LayerInfo]]:
    """Get the server's descriptions of all layers."""
    request = layer_pb2.ListLayersRequest()
    answer = yield from call_method("LayerService/ListLayers", request, layer_pb2.ListLayersResponse)
    return [info_from_wire(layer) for layer in answer.layers]


def unload_layer(name: str) -> Exchange[None]:
    """Remove a layer from the server."""
    _check_name(name)
    request = layer_pb2.UnloadLayerRequest(name=name)
    yield from call_method("LayerService/UnloadLayer", request, layer_pb2.UnloadLayerResponse)


def status() -> Exchange[cluster_pb2.GetClusterResponse]:
    """Get the server's version, executor and workers."""
    return call_method("ClusterService/GetCluster", cluster_pb2.GetClusterRequest(), cluster_pb2.GetClusterResponse)


def empty(shared: Shared | None, shape: int | Sequence[int], dtype: Any) -> Exchange[Array]:
    """Make an array for the caller to fill, in shared memory if there is space."""
    array = empty_on_host(shape, dtype)
    return array if shared is None else (yield from shared.empty(array))


def _check_name(name: Any) -> None:
    if not isinstance(name, str):
        raise InvalidArgumentError("name", "a layer's name, such as 'alexnet/conv2'", name)
