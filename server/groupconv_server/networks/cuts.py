"""How a network that is loaded would be cut over workers."""

from collections.abc import Mapping, Sequence

from groupconv.errors import FailedPreconditionError, InvalidArgumentError, Words
from groupconv.networks.cuts import NetworkCuts
from groupconv.v1 import network_pb2
from groupconv_server.planner.networks.costs import Costs
from groupconv_server.planner.networks.plan import plan_network
from groupconv_worker.graph.graph import Graph
from groupconv_worker.graph.importing import Optimized
from groupconv_worker.graph.model import Model
from groupconv_worker.graph.needed.box import Box, Range
from groupconv_worker.graph.partition.choice import Cuts
from groupconv_worker.graph.partition.cut import Cut
from groupconv_worker.graph.partition.sharding import fits, read_cuts
from groupconv_worker.graph.translation import UnboundGraphError

MOST_WORKERS = 64
"""Most workers of a plan. Planning DenseNet-121 for as many takes 4 CPU seconds (ADR 25)."""
MOST_CUTS = 2**14
"""Most tensors with a cut of their own in a call. Each may take half a KiB for a few bytes of the request."""


def plan_cuts(
    model: Model,
    shapes: Mapping[str, Sequence[int]],
    nodes: Sequence[int],
    in_flight: int,
    costs: Costs,
    given: Cuts | None = None,
) -> tuple[NetworkCuts, Cuts]:
    """How a call with inputs of these shapes would be cut. Cuts in the model's file for as many workers are kept.

    Args:
        model: checked.
        shapes: of all inputs, which fit the model.
        nodes: how many workers each node has, to cut it over all of them.
        in_flight: calls at a time that share them.
        costs: of nodes and exchanges.
        given: cuts of some tensors, which are kept in place of the file's.

    Returns:
        The plan, and the cut of each tensor.

    Raises:
        InvalidArgumentError: too many workers, or cuts that do not make all of a tensor.
        FailedPreconditionError: the network has no graph that can be cut.
    """
    workers = sum(nodes)
    _check_workers(workers)
    if in_flight < 1:
        raise InvalidArgumentError("in_flight", "at least 1", in_flight)
    try:
        graph = Optimized(model).canonical(shapes)
    except UnboundGraphError as error:
        raise FailedPreconditionError(f"the network cannot be cut: {error}") from None
    fixed = _checked(given, graph, workers) if given else read_cuts(model.data, graph).get(workers)
    try:
        return plan_network(graph, nodes, costs, in_flight, fixed)
    except ValueError as error:
        field = "cuts" if given else "model"
        raise InvalidArgumentError(field, "cuts that make all of each tensor", Words(str(error))) from None


def nodes_of(workers: int, nodes: int) -> tuple[int, ...]:
    """How many workers each node has, if all have nearly the same number.

    Raises:
        InvalidArgumentError: too many workers, or more nodes than workers.

    Example:
        >>> nodes_of(8, 2), nodes_of(5, 2)
        ((4, 4), (3, 2))
    """
    _check_workers(workers)
    if not 1 <= nodes <= workers:
        raise InvalidArgumentError("nodes", f"1 to {workers}, a worker for each", nodes)
    return tuple(workers // nodes + (node < workers % nodes) for node in range(nodes))


def _check_workers(workers: int) -> None:
    if not 1 <= workers <= MOST_WORKERS:
        raise InvalidArgumentError("workers", f"1 to {MOST_WORKERS}", workers)


def cuts_of(tensors: Sequence[network_pb2.TensorCut]) -> dict[str, Cut]:
    """The cuts that a caller gives.

    Raises:
        InvalidArgumentError: there are too many, they are for no number of workers, or a box is of none of these
            workers.
    """
    if len(tensors) > MOST_CUTS:
        raise InvalidArgumentError("cuts", f"at most {MOST_CUTS} tensors", len(tensors))
    cuts = {}
    for i, tensor in enumerate(tensors):
        field, workers = f"cuts[{i}]", tensor.used
        if not 1 <= workers <= MOST_WORKERS:
            raise InvalidArgumentError(f"{field}.used", f"1 to {MOST_WORKERS} workers", workers)
        boxes: list[Box | None] = [None] * workers
        for message in tensor.boxes:
            if not 0 <= message.worker < workers:
                raise InvalidArgumentError(f"{field}.boxes.worker", f"0 to {workers - 1}", message.worker)
            boxes[message.worker] = Box(tuple(Range(r.start, r.stop) for r in message.ranges))
        cuts[tensor.tensor] = Cut(tuple(boxes))
    return cuts


def _checked(fixed: Cuts, graph: Graph, workers: int) -> Cuts:
    """Given cuts as cuts over all workers, once they fit a graph."""
    cuts = {}
    for name, cut in fixed.items():
        field = f"cuts[{name!r}]"
        if name not in graph.makers:
            raise InvalidArgumentError(field, "a tensor that the plan of the network has", repr(name))
        if len(cut.boxes) > workers:
            raise InvalidArgumentError(field, f"boxes of at most {workers} workers", len(cut.boxes))
        cuts[name] = cut.over(workers)
        if not fits(cuts[name].boxes, graph.tensors[name].shape, workers):
            expected = f"boxes that make all of {list(graph.tensors[name].shape)}"
            raise InvalidArgumentError(field, expected, Words(str([b and b.shape for b in cut.boxes])))
    return cuts
