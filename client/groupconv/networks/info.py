"""A loaded network as the server describes it."""

from dataclasses import dataclass

from groupconv.networks.state import NetworkState, Phase, foremost
from groupconv.networks.tensors import TensorInfo


@dataclass(frozen=True, slots=True)
class NetworkInfo:
    """A loaded network and its usage.

    Attributes:
        name: its name.
        version: its version; each load under a name gets a higher one.
        inputs, outputs: its tensors, in the model's order.
        nodes: number of operators.
        weights: number of weights.
        bytes: that it counts against the server's quota.
        requests: requests that this version answered.
        failures: requests that failed.
        seconds: total time from a parsed request to its outputs, over the answered requests.
        states: who answers calls, for each set of input shapes on each worker.
    """

    name: str
    version: int
    inputs: tuple[TensorInfo, ...]
    outputs: tuple[TensorInfo, ...]
    nodes: int
    weights: int
    bytes: int
    requests: int
    failures: int
    seconds: float
    states: tuple[NetworkState, ...] = ()

    @property
    def state(self) -> NetworkState:
        """One of `states`: one that is under way, else one that is settled."""
        if self.requests and not self.states:
            return NetworkState(Phase.WAITING, reason="no worker says more")
        return foremost(self.states)

    @property
    def settled(self) -> bool:
        """Whether nothing is compiled or measured."""
        return all(state.settled for state in self.states)

    def __str__(self) -> str:
        lines = [f"{self.name}, version {self.version}: {self.nodes} nodes, {self.weights:,} weights"]
        lines += [f"input  {info}" for info in self.inputs] + [f"output {info}" for info in self.outputs]
        return "\n".join(lines)
