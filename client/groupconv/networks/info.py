"""A loaded network as the server describes it."""

from dataclasses import dataclass

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

    def __str__(self) -> str:
        lines = [f"{self.name}, version {self.version}: {self.nodes} nodes, {self.weights:,} weights"]
        lines += [f"input  {info}" for info in self.inputs] + [f"output {info}" for info in self.outputs]
        return "\n".join(lines)
