"""A call of a network that another process sends: its header, the inputs that follow it, and the answer.

Headers travel as JSON. Arrays follow the frames on the socket, on one node, too: a network computes for much longer
than its arrays travel, and it may keep its inputs to measure with.
"""

import json
import math
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any, Literal, Protocol, Self

import numpy as np

from groupconv.convolution.dtypes import DTYPES
from groupconv.networks.plan import ExchangeReport, PartReport
from groupconv.networks.state import NetworkState, Phase
from groupconv_worker.contract import Array
from groupconv_worker.graph.graph import Tensor, output_arrays
from groupconv_worker.graph.profiling import NodeTimes
from groupconv_worker.networks.runner import NetworkCall, NetworkRun, States


@dataclass(frozen=True)
class NetworkHeader:
    """What precedes the arrays of a call.

    Attributes:
        call: its network, version, outputs and memory are sent; its other fields are not.
        inputs: the arrays that follow, after the model.
        model: bytes of the model, which follow the header; 0 if it is not sent.
        expires: on the clock of time.time(); infinity for never.
        task: what to do: run the call; prepare the network only; or say who answers calls of all networks.
    """

    call: NetworkCall
    inputs: tuple[Tensor, ...] = ()
    model: int = 0
    expires: float = math.inf
    task: Literal["run", "prepare", "states"] = "run"

    def to_json(self) -> bytes:
        """As JSON.

        Example:
            >>> header = NetworkHeader(NetworkCall("ocr", 3, {}, ("y",)), (Tensor("x", np.dtype("f4"), (1, 2)),), 5)
            >>> NetworkHeader.from_json(header.to_json()) == header
            True
        """
        c = self.call
        call = [c.network, c.version, c.outputs, c.peak_bytes, c.spare, c.times]
        return json.dumps([call, _to_json(self.inputs), self.model, self.expires, self.task]).encode()

    @classmethod
    def from_json(cls, text: bytes) -> Self:
        """From JSON.

        Raises:
            ValueError, TypeError: it is not a header.
        """
        (name, version, outputs, peak, spare, times), inputs, model, expires, task = json.loads(text)
        call = NetworkCall(name, version, {}, tuple(outputs), peak_bytes=peak, spare=spare, times=times)
        return cls(call, _from_json(inputs), model, expires, task)


class Networks(Protocol):
    """Runs networks; see `groupconv_worker.actor.Worker`."""

    def prepare_network(self, network: str, version: int, data: bytes) -> None:
        """Prepare a version."""

    def network_states(self) -> States:
        """Who answers calls of each version."""

    def compute_network(
        self, call: NetworkCall, data: bytes | None, expires: float | None, dropped: Callable[[], bool]
    ) -> NetworkRun | None:
        """Run a call; None if the model was not sent and is not here."""


def answer(
    networks: Networks, body: bytes, receive: Callable[[Sequence[Array]], None], dropped: Callable[[], bool]
) -> tuple[bytes, Sequence[Array]] | None:
    """Answer a call.

    Args:
        networks: run it.
        body: of a header.
        receive: fills arrays with what follows the header.
        dropped: whether the caller has gone.

    Returns:
        The body of the answer and the arrays that follow it; None if the model is missing.

    Raises:
        ValueError, TypeError: the body is no header.
        GroupconvError: as of `Networks`.
    """
    header = NetworkHeader.from_json(body)
    model = np.empty(header.model, np.uint8)
    inputs = output_arrays(header.inputs)
    receive([model, *inputs.values()])
    data, call = model.tobytes() if header.model else None, replace(header.call, inputs=inputs)
    if header.task == "states":
        return states_to(networks.network_states()), ()
    if header.task == "prepare":
        networks.prepare_network(call.network, call.version, data or b"")
        return b"", ()
    expires = None if math.isinf(header.expires) else header.expires
    ran = networks.compute_network(call, data, expires, dropped)
    return None if ran is None else answer_to(ran)


def answer_to(ran: NetworkRun) -> tuple[bytes, list[Array]]:
    """The answer of a worker, and the outputs that follow it."""
    about = ran._replace(outputs={})._asdict() | {
        "parts": [asdict(part) for part in ran.parts],
        "exchanges": [asdict(exchange) for exchange in ran.exchanges],
    }
    outputs = [Tensor(name, array.dtype, array.shape) for name, array in ran.outputs.items()]
    return json.dumps([about, _to_json(outputs)]).encode(), list(ran.outputs.values())


def answer_from(text: bytes) -> tuple[NetworkRun, tuple[Tensor, ...]]:
    """The answer without the elements of its outputs, and the symbols of these.

    Raises:
        ValueError, TypeError, KeyError: it is not an answer.
    """
    about, outputs = json.loads(text)
    about["parts"] = tuple(PartReport(**part) for part in about["parts"])
    about["exchanges"] = tuple(ExchangeReport(**exchange) for exchange in about["exchanges"])
    about["theirs"] = tuple(about["theirs"])
    about["node_times"] = None if about["node_times"] is None else NodeTimes(*about["node_times"])
    return NetworkRun(**about), _from_json(outputs)


def states_to(states: States) -> bytes:
    """Who answers calls, as JSON."""
    rows = [(*version, [asdict(s) | {"phase": s.phase.value} for s in several]) for version, several in states.items()]
    return json.dumps(rows).encode()


def states_from(text: bytes) -> States:
    """From JSON.

    Raises:
        ValueError, TypeError, KeyError: it is not that.
    """
    return {(name, version): tuple(map(_state, several)) for name, version, several in json.loads(text)}


def _state(about: dict[str, Any]) -> NetworkState:
    shapes = {name: tuple(shape) for name, shape in about["shapes"].items()}
    return NetworkState(**about | {"phase": Phase(about["phase"]), "shapes": shapes})


def _to_json(tensors: Sequence[Tensor]) -> list[tuple[str, str, tuple[int, ...]]]:
    return [(tensor.name, tensor.dtype.name, tensor.shape) for tensor in tensors]


def _from_json(tensors: Sequence[Sequence[Any]]) -> tuple[Tensor, ...]:
    return tuple(Tensor(name, DTYPES.get(dtype) or np.dtype(dtype), tuple(shape)) for name, dtype, shape in tensors)
