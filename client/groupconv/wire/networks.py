"""Messages of networks: the stream that loads one, calls and their answers, plans and reports."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, TypeVar

import numpy as np
from google.protobuf.message import DecodeError, Message
from numpy.typing import NDArray

from groupconv.errors import InvalidArgumentError
from groupconv.networks.info import NetworkInfo
from groupconv.networks.nodes import NodePlan
from groupconv.networks.plan import ExchangeReport, NetworkPlan, NetworkReport, PartReport
from groupconv.networks.state import NetworkState, Phase
from groupconv.networks.tensors import MAX_AXES, NETWORK_DTYPES, TensorInfo
from groupconv.v1 import network_pb2, tensor_pb2
from groupconv.wire.chunks import packed
from groupconv.wire.codec import message_with, offset, writable
from groupconv.wire.cuts import cuts_from_wire, cuts_to_wire
from groupconv.wire.layers import CHUNK_BYTES
from groupconv.wire.scan import scan
from groupconv.wire.tensors import array_over

Array = NDArray[Any]
M = TypeVar("M", bound=Message)
_TO_WIRE: dict[np.dtype, tensor_pb2.DataType.ValueType] = {
    dtype: tensor_pb2.DataType.Value(f"DATA_TYPE_{name.upper()}") for name, dtype in NETWORK_DTYPES.items()
}
_PHASES: dict[Phase, network_pb2.NetworkPhase.ValueType] = {
    phase: network_pb2.NetworkPhase.Value(f"NETWORK_PHASE_{phase.name}") for phase in Phase
}
_FROM_WIRE = {code: dtype for dtype, code in _TO_WIRE.items()}


def load_messages(name: str, model: bytes, inputs: Sequence[Mapping[str, Sequence[int]]] = ()) -> Iterator[bytes]:
    """Yield the serialized messages of the stream that loads a network: a header, then the model in chunks.

    Args:
        name: segments of letters, digits, '.', '_' and '-' with '/' between them.
        model: an ONNX file's bytes.
        inputs: sets of input shapes that the server should prepare for.
    """
    header = network_pb2.NetworkHeader(name=name, byte_size=len(model))
    header.inputs.extend(network_pb2.NetworkInputs(inputs=shapes_to_wire(shapes)) for shapes in inputs)
    yield network_pb2.LoadNetworkRequest(header=header).SerializeToString()
    view = memoryview(model)
    for start in range(0, len(model), CHUNK_BYTES):
        yield packed(view[start : start + CHUNK_BYTES])  # field 2, `chunk`


def shapes_to_wire(shapes: Mapping[str, Sequence[int]]) -> list[network_pb2.TensorInfo]:
    """Input shapes by name."""
    return [
        network_pb2.TensorInfo(name=name, axes=[network_pb2.Axis(extent=extent) for extent in shape])
        for name, shape in shapes.items()
    ]


def shapes_from_wire(messages: Sequence[network_pb2.TensorInfo], field: str) -> dict[str, tuple[int, ...]]:
    """Input shapes by name.

    Raises:
        InvalidArgumentError: a name twice, or too many axes.
    """
    shapes: dict[str, tuple[int, ...]] = {}
    for i, message in enumerate(messages):
        if message.name in shapes:
            raise InvalidArgumentError(f"{field}[{i}].name", "a name of its own", repr(message.name))
        if len(message.axes) > MAX_AXES:
            raise InvalidArgumentError(f"{field}[{i}].axes", f"at most {MAX_AXES} axes", len(message.axes))
        shapes[message.name] = tuple(axis.extent for axis in message.axes)
    return shapes


def run_request(message: network_pb2.RunNetworkRequest, inputs: Mapping[str, Array]) -> bytes:
    """A request on the wire.

    Args:
        message: without inputs.
        inputs: by name; of a single one the elements are copied once.
    """
    message.names.extend(inputs)
    return with_tensors(3, inputs.values(), message.SerializeToString())


def with_tensors(number: int, arrays: Iterable[Array], rest: bytes) -> bytes:
    """A message whose repeated field `number` is these tensors, beside its other fields `rest`."""
    parts: list[bytes] = []
    for array in arrays:
        part, elements = tensor_space(number, array.dtype, array.shape, b"" if parts else rest)
        elements[...] = array
        parts.append(part)
    return parts[0] if len(parts) == 1 else b"".join(parts) or rest


def tensor_space(number: int, dtype: np.dtype, shape: Sequence[int], rest: bytes) -> tuple[bytes, Array]:
    """A message whose repeated field `number` is one tensor; fill the array before the message is sent."""
    return message_with(number, dtype, shape, rest, types=_TO_WIRE)


def read_run_request(raw: bytes) -> tuple[network_pb2.RunNetworkRequest, list[Array]]:
    """A request, and the arrays of its inputs, read-only.

    Raises:
        InvalidArgumentError: the bytes are not a RunNetworkRequest, or a tensor is malformed.
    """
    request, _, arrays = _read_tensors(raw, network_pb2.RunNetworkRequest, 3, "inputs")
    return request, arrays


def read_run_answer(raw: bytes) -> tuple[network_pb2.RunNetworkResponse, list[Array]]:
    """An answer, and the arrays of its outputs, writable: nothing else refers to the answer.

    Raises:
        InvalidArgumentError: the bytes are not a RunNetworkResponse, or a tensor is malformed.
    """
    response, payload, arrays = _read_tensors(raw, network_pb2.RunNetworkResponse, 1, "outputs")
    if payload is not None and np.may_share_memory(arrays[0], payload):
        return response, [writable(raw, offset(raw, payload), arrays[0].dtype, arrays[0].shape)]
    return response, [array.copy() for array in arrays]


def _read_tensors(raw: bytes, kind: type[M], number: int, name: str) -> tuple[M, memoryview | None, list[Array]]:
    """A message, the elements of its tensor if there is one alone, and the arrays of its tensors.

    A single tensor's array is a view of `raw` if it is aligned there.
    """
    small, payload = scan(raw, (number, 3))
    try:
        message = kind.FromString(small)
        tensors: Sequence[tensor_pb2.Tensor] = getattr(message, name)
        if len(tensors) > 1:
            payload, message = None, kind.FromString(raw)
            tensors = getattr(message, name)
    except DecodeError:
        raise InvalidArgumentError("message", f"a {kind.DESCRIPTOR.name}", f"{len(raw)} other bytes") from None
    arrays = [tensor_from_wire(tensor, f"{name}[{i}]", payload) for i, tensor in enumerate(tensors)]
    return message, payload, arrays


def tensor_from_wire(message: tensor_pb2.Tensor, field: str, payload: memoryview | None = None) -> Array:
    """The array of a tensor, read-only.

    Args:
        message: the tensor.
        field: what errors call it.
        payload: its elements, if `scan` separated them from the message.

    Raises:
        InvalidArgumentError: an unknown dtype, too many axes, an extent below 0, or bytes that do not fit the shape.
    """
    dtype, shape = _FROM_WIRE.get(message.dtype), tuple(message.shape)
    if dtype is None:
        raise InvalidArgumentError(f"{field}.dtype", f"one of {', '.join(NETWORK_DTYPES)}", message.dtype)
    if len(shape) > MAX_AXES:
        raise InvalidArgumentError(f"{field}.shape", f"at most {MAX_AXES} axes", len(shape))
    if message.HasField("place"):
        raise InvalidArgumentError(f"{field}.place", "elements in `data`: networks read no shared memory", "a place")
    if any(extent < 0 for extent in shape):
        raise InvalidArgumentError(f"{field}.shape", "extents of at least 0", list(shape))
    return array_over(message.data if payload is None else payload, dtype, shape, field)


def info_to_wire(info: TensorInfo) -> network_pb2.TensorInfo:
    """An input or output of a network."""
    axes = [
        network_pb2.Axis(extent=extent) if isinstance(extent, int) else network_pb2.Axis(name=extent or "")
        for extent in info.shape
    ]
    return network_pb2.TensorInfo(name=info.name, dtype=_TO_WIRE[info.dtype], axes=axes)


def info_from_wire(message: network_pb2.TensorInfo) -> TensorInfo:
    """An input or output of a network."""
    shape = tuple(axis.name or axis.extent or None for axis in message.axes)
    return TensorInfo(message.name, _FROM_WIRE[message.dtype], shape)


def network_from_wire(message: network_pb2.Network) -> NetworkInfo:
    """The description of a network."""
    return NetworkInfo(
        message.name,
        message.version,
        tuple(map(info_from_wire, message.inputs)),
        tuple(map(info_from_wire, message.outputs)),
        message.nodes,
        message.weights,
        message.bytes,
        message.requests,
        message.failures,
        message.seconds,
        tuple(map(state_from_wire, message.states)),
    )


def state_to_wire(state: NetworkState) -> network_pb2.NetworkState:
    """Who answers calls."""
    return network_pb2.NetworkState(
        worker=state.worker,
        inputs=shapes_to_wire(state.shapes),
        phase=_PHASES[state.phase],
        kernels_compiled=state.compiled,
        kernels=state.kernels,
        reason=state.reason,
        since=state.since,
    )


def state_from_wire(message: network_pb2.NetworkState) -> NetworkState:
    """Who answers calls; a phase that this client does not know is one that waits."""
    phase = next((phase for phase, code in _PHASES.items() if code == message.phase), Phase.WAITING)
    shapes = {info.name: tuple(axis.extent for axis in info.axes) for info in message.inputs}
    counts = message.kernels_compiled, message.kernels
    return NetworkState(phase, message.worker, shapes, *counts, message.reason, message.since)


def plan_to_wire(plan: NetworkPlan) -> network_pb2.PlanNetworkResponse:
    """What a call computes."""
    return network_pb2.PlanNetworkResponse(
        nodes=[
            network_pb2.NetworkNode(
                name=node.name,
                op=node.op,
                shape=None if node.shape is None else network_pb2.Shape(extents=node.shape),
                weights=node.weights,
                multiply_adds=node.multiply_adds,
                algorithm=node.algorithm,
                inputs=node.inputs,
                outputs=node.outputs,
                receptive_field=node.receptive_field or (),
                stride=node.stride or (),
                window=node.window,
                seconds=node.seconds,
                fused_into=node.fused_into,
            )
            for node in plan.nodes
        ],
        outputs=map(info_to_wire, plan.outputs),
        peak_bytes=plan.peak_bytes,
        last=None if plan.last is None else report_to_wire(plan.last),
        cuts=None if plan.cuts is None else cuts_to_wire(plan.cuts),
    )


def plan_from_wire(message: network_pb2.PlanNetworkResponse) -> NetworkPlan:
    """What a call computes."""
    nodes = (
        NodePlan(
            node.name,
            node.op,
            tuple(node.shape.extents) if node.HasField("shape") else None,
            node.weights,
            node.multiply_adds,
            node.algorithm,
            tuple(node.inputs),
            tuple(node.outputs),
            tuple(node.receptive_field) or None,
            tuple(node.stride) or None,
            node.window,
            node.seconds if node.HasField("seconds") else None,
            node.fused_into,
        )
        for node in message.nodes
    )
    last = report_from_wire(message.last) if message.HasField("last") else None
    cuts = cuts_from_wire(message.cuts) if message.HasField("cuts") else None
    return NetworkPlan(tuple(nodes), tuple(map(info_from_wire, message.outputs)), message.peak_bytes, last, cuts)


def report_to_wire(report: NetworkReport) -> network_pb2.NetworkReport:
    """How a call was answered."""
    return network_pb2.NetworkReport(
        worker=report.worker,
        parts=[
            network_pb2.NetworkPart(algorithm=p.algorithm, nodes=p.nodes, seconds=p.seconds, reason=p.reason)
            for p in report.parts
        ],
        coordinator_bytes=report.coordinator_bytes,
        seconds=report.seconds,
        exchanges=[
            network_pb2.NetworkExchange(tensor=e.tensor, bytes=e.bytes, source=e.source, target=e.target)
            for e in report.exchanges
        ],
        cut=report.cut,
    )


def report_from_wire(message: network_pb2.NetworkReport) -> NetworkReport:
    """How a call was answered."""
    parts = tuple(PartReport(p.algorithm, p.nodes, p.seconds, p.reason) for p in message.parts)
    exchanges = tuple(ExchangeReport(e.tensor, e.bytes, e.source, e.target) for e in message.exchanges)
    cut = message.cut or "nothing"
    return NetworkReport(message.worker, parts, message.coordinator_bytes, message.seconds, exchanges, cut)
