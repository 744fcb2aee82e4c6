"""How a network that is loaded would be cut over workers."""

import math
from collections.abc import Mapping, Sequence

from groupconv.errors import FailedPreconditionError, InvalidArgumentError, Words
from groupconv.networks.cuts import NetworkCuts
from groupconv_server.planner.networks.costs import Costs
from groupconv_server.planner.networks.plan import plan_network
from groupconv_server.planner.rates import Rates
from groupconv_worker.graph.importing import Optimized
from groupconv_worker.graph.model import Model
from groupconv_worker.graph.partition.sharding import read_cuts
from groupconv_worker.graph.translation import UnboundGraphError

MOST_WORKERS = 64
"""More of them take a search of minutes."""


def plan_cuts(
    model: Model, shapes: Mapping[str, Sequence[int]], workers: int, in_flight: int, rates: Rates
) -> NetworkCuts:
    """How a call with inputs of these shapes would be cut. Cuts in the model's file for as many workers are kept.

    Args:
        model: checked.
        shapes: of all inputs, which fit the model.
        workers: to cut it over.
        in_flight: calls at a time that share them.
        rates: of each worker.

    Raises:
        InvalidArgumentError: too many workers, or cuts in the file that do not make all of a tensor.
        FailedPreconditionError: the network has no graph that can be cut.
    """
    if not 1 <= workers <= MOST_WORKERS:
        raise InvalidArgumentError("workers", f"1 to {MOST_WORKERS}", workers)
    if in_flight < 1:
        raise InvalidArgumentError("in_flight", "at least 1", in_flight)
    try:
        graph = Optimized(model).canonical(shapes)
    except UnboundGraphError as error:
        raise FailedPreconditionError(f"the network cannot be cut: {error}") from None
    costs = Costs(rates) if math.isinf(rates.link) else Costs(rates, rates.link, rates.latency)
    given = read_cuts(model.data, graph)
    try:
        return plan_network(graph, workers, costs, in_flight, given.get(workers))[0]
    except ValueError as error:
        raise InvalidArgumentError("model", "cuts that make all of each tensor", Words(str(error))) from None
