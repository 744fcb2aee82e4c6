"""The calls of networks without their transport, as exchanges that both clients drive."""

import contextlib
import html
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from groupconv.arguments import as_array
from groupconv.convolution.html import html_table
from groupconv.convolution.steps import described
from groupconv.errors import DataLossError, FailedPreconditionError, InvalidArgumentError
from groupconv.networks.cuts import NetworkCuts
from groupconv.networks.info import NetworkInfo
from groupconv.networks.plan import NetworkPlan, NetworkReport
from groupconv.networks.state import NetworkState, Settling, StateCallback
from groupconv.networks.tensors import TensorInfo, check_shapes, converted, named_inputs, with_fixed_shapes
from groupconv.networks.windows import StreamPlan
from groupconv.text import milliseconds
from groupconv.transport.bounded import LONGEST, read_at_most
from groupconv.transport.exchange import Exchange, Request, call_method, decode
from groupconv.v1 import network_pb2
from groupconv.wire import networks as wire
from groupconv.wire.cuts import cuts_to_wire
from groupconv.wire.streams import stream_plan_from_wire

Array = NDArray[Any]
CutOfNetwork = str | NetworkPlan | NetworkCuts | None
"""The way to cut a network: an axis, or a plan with the cut of each tensor; None leaves it to the server."""
NOT_CALLED_YET = "network {} was not called yet, so nothing is compiled: give wait() the inputs of a call"
RUN = "/groupconv.v1.NetworkService/RunNetwork"
LOAD = "/groupconv.v1.NetworkService/LoadNetwork"
"""The streaming method that takes the messages of `load`."""


@dataclass(frozen=True, slots=True)
class NetworkResult:
    """The outputs of a call, and how they were made.

    Attributes:
        outputs: arrays by name, in the model's order.
        report: how the call was answered.
    """

    outputs: dict[str, Array]
    report: NetworkReport

    def __repr__(self) -> str:
        outputs = ", ".join(f"{name} {described(y)}" for name, y in self.outputs.items())
        return f"NetworkResult({outputs}; {milliseconds(self.report.seconds)} on {self.report.worker})"

    def _repr_html_(self) -> str:
        rows = [("output", "array"), *((name, described(y)) for name, y in self.outputs.items())]
        lines = map(html.escape, str(self.report).splitlines())
        return f"{html_table(rows)}<p>{'<br>'.join(lines)}</p>"


def model_bytes(model: Any) -> bytes:
    """An ONNX model as bytes.

    Args:
        model: a path, bytes, or anything with `SerializeToString()`, such as an `onnx.ModelProto`.

    Raises:
        InvalidArgumentError: something else, or a file that is longer than an ONNX file can be.
        OSError: a file that cannot be read.
    """
    if isinstance(model, bytes | bytearray | memoryview):
        return bytes(model)
    if hasattr(model, "SerializeToString"):
        return bytes(model.SerializeToString())
    if isinstance(model, str | Path):
        return read_at_most(model, LONGEST, "model", "an ONNX file")
    raise InvalidArgumentError("model", "a path, bytes or an onnx.ModelProto", type(model).__name__)


def load(name: str, model: bytes, inputs: Sequence[Any]) -> Callable[[], Iterator[bytes]]:
    """The messages that load a network.

    Args:
        name: of the network.
        model: an ONNX file's bytes.
        inputs: mappings of the inputs' names to shapes.

    Raises:
        InvalidArgumentError: the name is no string, or an entry of `inputs` is no mapping.
    """
    _check_name(name)
    for i, shapes in enumerate(inputs):
        if not isinstance(shapes, Mapping):
            raise InvalidArgumentError(f"inputs[{i}]", "a mapping of input names to shapes", type(shapes).__name__)
    return lambda: wire.load_messages(name, model, inputs)


def loaded(answer: bytes) -> NetworkInfo:
    """The description of the network that was loaded."""
    return wire.network_from_wire(decode(answer, network_pb2.LoadNetworkResponse).network)


def get_network(name: str) -> Exchange[NetworkInfo]:
    """The description of a network."""
    _check_name(name)
    request = network_pb2.GetNetworkRequest(name=name)
    answer = yield from call_method("NetworkService/GetNetwork", request, network_pb2.GetNetworkResponse)
    return wire.network_from_wire(answer.network)


def list_networks() -> Exchange[list[NetworkInfo]]:
    """The descriptions of all networks, by name."""
    request = network_pb2.ListNetworksRequest()
    answer = yield from call_method("NetworkService/ListNetworks", request, network_pb2.ListNetworksResponse)
    return [wire.network_from_wire(network) for network in answer.networks]


def unload_network(name: str) -> Exchange[None]:
    """Remove a network."""
    _check_name(name)
    request = network_pb2.UnloadNetworkRequest(name=name)
    yield from call_method("NetworkService/UnloadNetwork", request, network_pb2.UnloadNetworkResponse)


def plan(
    info: NetworkInfo,
    shapes: Sequence[Sequence[int]],
    named: Mapping[str, Sequence[int]],
    workers: int = 0,
    in_flight: int = 1,
    nodes: int = 1,
) -> Exchange[NetworkPlan]:
    """What a call with inputs of these shapes would compute, and how it would be cut over workers."""
    input_shapes = with_fixed_shapes(info.inputs, named_inputs(info.inputs, shapes, named))
    check_shapes(info.inputs, input_shapes)
    for field, value, least in (("workers", workers, 0), ("in_flight", in_flight, 1), ("nodes", nodes, 1)):
        if not least <= value < 2**31:
            raise InvalidArgumentError(field, f"a number from {least}", value)
    request = network_pb2.PlanNetworkRequest(
        network=info.name, inputs=wire.shapes_to_wire(input_shapes), workers=workers, in_flight=in_flight, nodes=nodes
    )
    answer = yield from call_method("NetworkService/PlanNetwork", request, network_pb2.PlanNetworkResponse)
    return wire.plan_from_wire(answer)


def plan_stream(
    info: NetworkInfo, shapes: Mapping[str, Sequence[int]], outputs: Sequence[str], window_bytes: int
) -> Exchange[StreamPlan]:
    """How maps of these shapes go through a network in windows."""
    check_shapes(info.inputs, shapes)
    _check_outputs(info, outputs)
    request = network_pb2.PlanNetworkStreamRequest(
        network=info.name, inputs=wire.shapes_to_wire(shapes), outputs=outputs, window_bytes=window_bytes
    )
    answer = yield from call_method("NetworkService/PlanNetworkStream", request, network_pb2.PlanNetworkStreamResponse)
    first = answer.maps[0] if answer.maps else ""
    if first not in shapes:
        raise DataLossError(f"the server plans a stream of {list(answer.maps)}, which are no inputs")
    return stream_plan_from_wire(answer, tuple(shapes[first]))


def run(
    info: NetworkInfo,
    arrays: Sequence[Any],
    named: Mapping[str, Any],
    *,
    outputs: Sequence[str] = (),
    report: bool,
    version: int = 0,
    cut: CutOfNetwork = None,
    times: bool = False,
) -> Exchange[NetworkResult]:
    """Run a network.

    Args:
        info: of the network.
        arrays: inputs in the network's order.
        named: the other inputs, by name.
        outputs: names of those wanted; none means all.
        report: whether the answer should say how it was made.
        version: that must answer; 0 is the one that is loaded.
        cut: what to cut it along, or a plan; None leaves it to the server.
        times: whether to take the time of each node, for plans.
    """
    inputs = _inputs(info.inputs, named_inputs(info.inputs, arrays, named))
    _check_outputs(info, outputs)
    request = network_pb2.RunNetworkRequest(
        network=info.name, outputs=outputs, without_report=not report, version=version, times=times, **_cut(cut)
    )
    answer = yield Request(RUN, wire.run_request(request, inputs))
    response, arrays_out = wire.read_run_answer(answer)
    return NetworkResult(dict(zip(response.names, arrays_out, strict=True)), wire.report_from_wire(response.report))


def wait(
    info: NetworkInfo,
    arrays: Sequence[Any],
    named: Mapping[str, Any] | None,
    progress: StateCallback | bool | None,
    timeout: float | None,
) -> Generator[Exchange[Any] | float, Any, NetworkState]:
    """The exchanges of `Network.wait`, and the seconds to pause between them; arguments and errors are those there."""
    given = bool(arrays or named)
    with contextlib.closing(Settling(progress, timeout)) as settling:
        for _ in range(2 if given else 0):  # where other shapes came before, these have to come twice
            yield run(info, arrays, named or {}, report=True)
        now: NetworkInfo = yield get_network(info.name)
        if not given and not now.requests:
            raise FailedPreconditionError(NOT_CALLED_YET.format(info.name))
        while not settling.look(info.name, now.state, settled=now.settled):
            yield Settling.PAUSE
            now = yield get_network(info.name)
        if given:  # answered by who does from now on, so that plans say it
            yield run(info, arrays, named or {}, report=True)
        return now.state


def _cut(cut: CutOfNetwork) -> dict[str, Any]:
    """The fields of a request that say how the network is to be cut."""
    if cut is None or isinstance(cut, str):
        return {"cut": cut or ""}
    cuts = cut.cuts if isinstance(cut, NetworkPlan) else cut
    if not isinstance(cuts, NetworkCuts):
        raise InvalidArgumentError("cut", "a name, or a plan over workers: net.plan(shape, workers=2)", cut)
    return {"cut": "planned", "cuts": cuts_to_wire(cuts).tensors}


def _check_name(name: Any) -> None:
    if not isinstance(name, str):
        raise InvalidArgumentError("name", "a network's name, such as 'ocr/det'", name)


def _check_outputs(info: NetworkInfo, outputs: Sequence[str]) -> None:
    known = [output.name for output in info.outputs]
    for name in outputs:
        if name not in known:
            raise InvalidArgumentError("outputs", f"names of {', '.join(map(repr, known))}", name)


def _inputs(infos: Sequence[TensorInfo], values: Mapping[str, Any]) -> dict[str, Array]:
    """The arrays of a call, of the network's shapes and dtypes."""
    arrays = {name: as_array(value, f"inputs[{name!r}]") for name, value in values.items()}
    check_shapes(infos, {name: array.shape for name, array in arrays.items()})
    return {info.name: converted(info, np.asarray(arrays[info.name])) for info in infos}
