"""The calls of networks without their transport, as exchanges that both clients drive."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
from google.protobuf.message import DecodeError, Message
from numpy.typing import NDArray

from groupconv.arguments import as_array
from groupconv.errors import DataLossError, InvalidArgumentError
from groupconv.networks.info import NetworkInfo
from groupconv.networks.plan import NetworkPlan, NetworkReport
from groupconv.networks.tensors import TensorInfo, check_shapes, converted, named_inputs
from groupconv.transport.exchange import Exchange, Request
from groupconv.v1 import network_pb2
from groupconv.wire import networks as wire

Array = NDArray[Any]
M = TypeVar("M", bound=Message)
SERVICE = "/groupconv.v1.NetworkService/"
LOAD = SERVICE + "LoadNetwork"


@dataclass(frozen=True, slots=True)
class NetworkResult:
    """The outputs of a call, and how they were made.

    Attributes:
        outputs: arrays by name, in the model's order.
        report: how the call was answered.
    """

    outputs: dict[str, Array]
    report: NetworkReport


def model_bytes(model: Any) -> bytes:
    """An ONNX model as bytes.

    Args:
        model: a path, bytes, or anything with `SerializeToString()`, such as an `onnx.ModelProto`.

    Raises:
        InvalidArgumentError: something else.
        OSError: a file that cannot be read.
    """
    if isinstance(model, bytes | bytearray | memoryview):
        return bytes(model)
    if hasattr(model, "SerializeToString"):
        return bytes(model.SerializeToString())
    if isinstance(model, str | Path):
        return Path(model).read_bytes()
    raise InvalidArgumentError("model", "a path, bytes or an onnx.ModelProto", type(model).__name__)


def load(name: str, model: bytes, inputs: Sequence[Any]) -> Callable[[], Iterator[bytes]]:
    """The messages that load a network; each entry of `inputs` maps the inputs' names to shapes."""
    for i, shapes in enumerate(inputs):
        if not isinstance(shapes, Mapping):
            raise InvalidArgumentError(f"inputs[{i}]", "a mapping of input names to shapes", type(shapes).__name__)
    return lambda: (message.SerializeToString() for message in wire.load_messages(name, model, inputs))


def loaded(answer: bytes) -> NetworkInfo:
    """What was loaded."""
    return wire.network_from_wire(_read(answer, network_pb2.LoadNetworkResponse()).network)


def get_network(name: str) -> Exchange[NetworkInfo]:
    """A network that is loaded."""
    answer = yield Request(SERVICE + "GetNetwork", network_pb2.GetNetworkRequest(name=name).SerializeToString())
    return wire.network_from_wire(_read(answer, network_pb2.GetNetworkResponse()).network)


def list_networks() -> Exchange[list[NetworkInfo]]:
    """Every network, by name."""
    answer = yield Request(SERVICE + "ListNetworks", network_pb2.ListNetworksRequest().SerializeToString())
    found = _read(answer, network_pb2.ListNetworksResponse())
    return [wire.network_from_wire(network) for network in found.networks]


def unload_network(name: str) -> Exchange[None]:
    """Remove a network."""
    yield Request(SERVICE + "UnloadNetwork", network_pb2.UnloadNetworkRequest(name=name).SerializeToString())


def plan(
    info: NetworkInfo, shapes: Sequence[Sequence[int]], named: Mapping[str, Sequence[int]]
) -> Exchange[NetworkPlan]:
    """What a call with inputs of these shapes would compute."""
    given = named_inputs(info.inputs, shapes, named)
    check_shapes(info.inputs, given)
    request = network_pb2.PlanNetworkRequest(network=info.name, inputs=wire.shapes_to_wire(given))
    answer = yield Request(SERVICE + "PlanNetwork", request.SerializeToString())
    return wire.plan_from_wire(_read(answer, network_pb2.PlanNetworkResponse()))


def run(
    info: NetworkInfo,
    arrays: Sequence[Any],
    named: Mapping[str, Any],
    *,
    outputs: Sequence[str] = (),
    report: bool,
) -> Exchange[NetworkResult]:
    """Run a network.

    Args:
        info: of the network.
        arrays: inputs in the network's order.
        named: the other inputs, by name.
        outputs: names of those wanted; none means all.
        report: whether the answer should say how it was made.
    """
    given = _inputs(info.inputs, named_inputs(info.inputs, arrays, named))
    known = [output.name for output in info.outputs]
    for name in outputs:
        if name not in known:
            raise InvalidArgumentError("outputs", f"names of {', '.join(map(repr, known))}", repr(name))
    request = network_pb2.RunNetworkRequest(
        network=info.name,
        outputs=outputs,
        without_report=not report,
    )
    answer = yield Request(SERVICE + "RunNetwork", wire.run_request(request, given))
    response, arrays = wire.read_run_answer(answer)
    return NetworkResult(dict(zip(response.names, arrays, strict=True)), wire.report_from_wire(response.report))


def _inputs(infos: Sequence[TensorInfo], given: Mapping[str, Any]) -> dict[str, Array]:
    """The arrays of a call, of the network's shapes and dtypes."""
    arrays = {name: as_array(value) for name, value in given.items()}
    check_shapes(infos, {name: array.shape for name, array in arrays.items()})
    return {info.name: converted(info, np.asarray(arrays[info.name])) for info in infos}


def _read(answer: bytes, message: M) -> M:
    try:
        message.ParseFromString(answer)
    except DecodeError:
        raise DataLossError(f"the server answered with something else than a {type(message).__name__}") from None
    return message
