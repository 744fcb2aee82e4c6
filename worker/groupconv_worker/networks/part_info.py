"""What a coordinator and the workers say about parts of a network that is cut."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import NamedTuple

from groupconv_worker.graph.needed.box import Box
from groupconv_worker.graph.partition.partition import Exchange
from groupconv_worker.lanes.sockets import Address

MODEL_MISSING = "the worker does not have the model"
"""The answer of a worker that has to be sent the model."""


class PartKey(NamedTuple):
    """A worker's part of a network's version with inputs of certain shapes.

    Attributes:
        network, version: what is cut.
        shapes: of the whole inputs.
        cut: the key of a `CutChoice`.
        workers: over how many.
        worker: whose part this is.
    """

    network: str
    version: int
    shapes: tuple[tuple[str, tuple[int, ...]], ...]
    cut: str
    workers: int
    worker: int


@dataclass(frozen=True, slots=True)
class PartInfo:
    """What a coordinator needs to know of a part that is compiled.

    Attributes:
        nodes: of its graph.
        nbytes: of its program.
        shared_bytes: of the memory that all parts share.
        inputs: the box of each input that it is brought.
        outputs: for each output, the boxes that it gives.
        exchanges: of the whole network.
        kind: of workers that can exchange boxes with each other.
        direct: whether parts of a node may reach each other's memory.
    """

    nodes: int
    nbytes: int
    shared_bytes: int
    inputs: Mapping[str, Box]
    outputs: tuple[tuple[str, Box], ...]
    exchanges: tuple[Exchange, ...]
    kind: str
    direct: bool


class MemoryHandle(NamedTuple):
    """A memfd of another process on this node: its pid, descriptor and size, and the nonce at its start."""

    pid: int
    descriptor: int
    size: int
    nonce: bytes


class PartAddress(NamedTuple):
    """Where a part receives boxes from workers of other nodes.

    Attributes:
        endpoint: of its worker.
        ticket: of the part.
    """

    endpoint: Address
    ticket: bytes
