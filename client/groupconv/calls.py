"""Every call without its transport: what is asked of the server, and what its answer means.

Each is a generator as in `groupconv.transport.exchange`, which the blocking and the awaiting client drive alike.
"""

from collections.abc import Callable, Iterator, Sequence
from typing import Any, TypeVar

from google.protobuf.message import DecodeError, Message

from groupconv.convolution.plan import Plan
from groupconv.convolution.spec import ConvSpec
from groupconv.device import DeviceArray, destination, unnoted
from groupconv.errors import DataLossError
from groupconv.memory.shared import Shared
from groupconv.options import CallOptions
from groupconv.streaming.stream import Transfer, pays, transfer
from groupconv.transport.exchange import Exchange, Request
from groupconv.v1 import cluster_pb2, convolution_pb2, layer_pb2
from groupconv.wire.layers import LayerInfo, info_from_wire, load_messages
from groupconv.wire.requests import (
    CONVOLVE,
    Array,
    Result,
    Step,
    convolve_request,
    plan_request,
    prepare,
    read_answer,
    result_of,
)
from groupconv.wire.specs import plan_from_wire
from groupconv.wire.tensors import empty as ordinary

LOAD = "/groupconv.v1.LayerService/LoadLayer"
"""The call that `load` is the messages of."""
T = TypeVar("T")


def run(shared: Shared | None, x: Any, steps: Sequence[Step], call: CallOptions) -> Exchange[Result]:
    """Run steps, and tell how it was done."""
    array, ready, unbatched = prepare(unnoted(x) if shared is None else shared.source(x), steps)
    return (yield from _run(shared, array, ready, unbatched, call, report=True))


def output(shared: Shared | None, x: Any, steps: Sequence[Step], call: CallOptions) -> Exchange[Array | Transfer]:
    """Run steps for their output alone; or, where that is faster, the stream that is to bring it."""
    array, ready, unbatched = prepare(unnoted(x) if shared is None else shared.source(x), steps)
    if (
        not pays(array, ready)
        or destination(call.get("out")) is not None
        or (shared is not None and (yield from shared.fits(array, ready)))
    ):
        return (yield from _run(shared, array, ready, unbatched, call, report=False)).output
    if isinstance(array, DeviceArray):
        array = array.host()
    reordering = call.get("allow_reordering", False)
    return transfer(array[0] if unbatched else array, ready, out=call.get("out"), allow_reordering=reordering)


def _run(
    shared: Shared | None, x: Array, ready: Sequence[Step], unbatched: bool, call: CallOptions, *, report: bool
) -> Exchange[Result]:
    reordering = call.get("allow_reordering", False)
    there = destination(call.get("out"))
    if shared is None:
        request = convolve_request(x, ready, allow_reordering=reordering, report=report)
        answer = read_answer((yield Request(CONVOLVE, request)))
    else:
        answer = yield from shared.run_steps(x, ready, out=there, allow_reordering=reordering, report=report)
    return result_of(answer, unbatched=unbatched, out=there or call.get("out"))


def plan(
    input_shape: Sequence[int],
    weight_shapes: Sequence[Sequence[int]],
    specs: Sequence[ConvSpec],
    dtype: Any,
    *,
    allow_reordering: bool,
) -> Exchange[Plan]:
    """How the server would cut steps."""
    request = plan_request(input_shape, weight_shapes, specs, dtype, allow_reordering=allow_reordering)
    answer = yield from _asked("ConvolutionService/PlanConvolution", request, convolution_pb2.PlanConvolutionResponse)
    return plan_from_wire(answer.plan)


def load(
    name: str, steps: Sequence[Step], dtype: Any = None, inputs: Sequence[Sequence[int]] = ()
) -> Callable[[], Iterator[bytes]]:
    """What makes the messages of `LOAD`, from the first one at each call; it raises as `load_messages`."""
    return lambda: (message.SerializeToString() for message in load_messages(name, steps, dtype, inputs))


def loaded(answer: bytes) -> LayerInfo:
    """The layer that was loaded."""
    return info_from_wire(_read(answer, layer_pb2.LoadLayerResponse).layer)


def get_layer(name: str) -> Exchange[LayerInfo]:
    """What the server says of a layer."""
    request = layer_pb2.GetLayerRequest(name=name)
    answer = yield from _asked("LayerService/GetLayer", request, layer_pb2.GetLayerResponse)
    return info_from_wire(answer.layer)


def list_layers() -> Exchange[list[LayerInfo]]:
    """What the server says of every layer."""
    request = layer_pb2.ListLayersRequest()
    answer = yield from _asked("LayerService/ListLayers", request, layer_pb2.ListLayersResponse)
    return [info_from_wire(layer) for layer in answer.layers]


def unload_layer(name: str) -> Exchange[None]:
    """Let the server forget a layer."""
    request = layer_pb2.UnloadLayerRequest(name=name)
    yield from _asked("LayerService/UnloadLayer", request, layer_pb2.UnloadLayerResponse)


def status() -> Exchange[cluster_pb2.GetClusterResponse]:
    """What the server says of itself."""
    return _asked("ClusterService/GetCluster", cluster_pb2.GetClusterRequest(), cluster_pb2.GetClusterResponse)


def empty(shared: Shared | None, shape: int | Sequence[int], dtype: Any) -> Exchange[Array]:
    """An array to be filled, in shared memory where there is room."""
    made = ordinary(shape, dtype)
    return made if shared is None else (yield from shared.empty(made))


M = TypeVar("M", bound=Message)


def _asked(method: str, request: Message, kind: type[M]) -> Exchange[M]:
    return _read((yield Request(f"/groupconv.v1.{method}", request.SerializeToString())), kind)


def _read(answer: bytes, kind: type[M]) -> M:
    try:
        return kind.FromString(answer)
    except DecodeError:
        raise DataLossError(f"the server answered {len(answer)} bytes that are no {kind.DESCRIPTOR.name}") from None
