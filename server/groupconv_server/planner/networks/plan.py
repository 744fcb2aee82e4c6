"""The plan of a network over a number of workers: how many of them share a call, and how it is cut."""

from collections.abc import Mapping, Sequence
from itertools import accumulate

from groupconv.networks.cuts import NetworkCuts
from groupconv.networks.tensor_cut import Box, TensorCut
from groupconv.text import milliseconds
from groupconv_server.planner.networks.costs import Costs
from groupconv_server.planner.networks.search import CheapestCuts, search
from groupconv_worker.graph.graph import Graph
from groupconv_worker.graph.needed.box import Box as WorkerBox
from groupconv_worker.graph.partition.cut import Cut
from groupconv_worker.graph.partition.partition import traffic


def plan_network(
    graph: Graph, per_node: Sequence[int], costs: Costs, in_flight: int = 1, given: Mapping[str, Cut] | None = None
) -> tuple[NetworkCuts, Mapping[str, Cut]]:
    """The plan with the least predicted time of a call.

    Args:
        graph: in canonical form.
        per_node: how many workers each node of the cluster has. Workers are numbered by node.
        costs: of nodes and exchanges.
        in_flight: calls at a time, which share the workers: each gets one of them if there are as many calls.
        given: cuts of some tensors, for all workers, that are to be kept.

    Returns:
        The plan, and the cut of each tensor, from which `partition` derives what each worker computes and sends.

    Raises:
        ValueError: given cuts do not make all of a tensor.

    Example:
        >>> import numpy as np
        >>> from groupconv_server.planner.rates import Rates
        >>> from groupconv_worker.graph.graph import Node, Tensor
        >>> f32, shape = np.dtype("float32"), (1, 64, 256, 256)
        >>> attributes = {"kernel_shape": (3, 3), "strides": (1, 1), "dilations": (1, 1), "pads": (1,) * 4}
        >>> tensors = {name: Tensor(name, f32, shape) for name in "xy"} | {"w": Tensor("w", f32, (64, 64, 3, 3))}
        >>> node = Node("Conv", ("x", "w"), ("y",), attributes)
        >>> graph = Graph(("x",), ("y",), (node,), tensors, {"w": np.ones((64, 64, 3, 3), f32)})
        >>> plan_network(graph, (4,), Costs(Rates()))[0].tensors[0].cut
        'rows 64|64|64|64'
        >>> plan_network(graph, (4,), Costs(Rates()), in_flight=4)[0].used
        1
    """
    for name, cut in (given or {}).items():
        if missing := cut.missing(graph.tensors[name].shape):
            raise ValueError(f"no worker makes {missing.shape} of {name!r}: the boxes of its cut do not cover it")
    workers = sum(per_node)
    most = max(1, workers // in_flight)
    counts = (
        [workers] if given else sorted({1, most, min(most, per_node[0]), *(2**k for k in range(1, most.bit_length()))})
    )
    searched = {count: search(graph, _first(per_node, count), costs, given) for count in counts}
    best = min(searched, key=lambda count: (searched[count].seconds, count))
    cuts = searched[best].cuts
    used = _first(per_node, best)
    sent, between, received = traffic(graph, cuts, used)
    plan = NetworkCuts(
        workers,
        _tensors(graph, searched[best], sent),
        searched[best].seconds,
        tuple((count, searched[count].seconds) for count in counts),
        received,
        sum(graph.tensors[name].nbytes for name in graph.outputs),
        "the cuts were given" if given else _reason(searched, best, workers, in_flight),
        tuple(per_node),
        between,
    )
    return plan, cuts


def _first(per_node: Sequence[int], count: int) -> tuple[int, ...]:
    """The nodes of the first workers.

    Example:
        >>> _first((4, 4), 6), _first((4, 4), 2)
        ((4, 2), (2,))
    """
    begins = (0, *accumulate(per_node))
    return tuple(min(node, count - begin) for node, begin in zip(per_node, begins, strict=False) if begin < count)


def _reason(searched: Mapping[int, CheapestCuts], best: int, workers: int, in_flight: int) -> str:
    exchanges = sum(cost.received for cost in searched[best].nodes)
    if best == 1 and in_flight >= workers:
        return f"{in_flight} calls at a time on {workers} workers: each is whole on one, and nothing crosses"
    if best == 1:
        return "one worker alone is fastest: exchanges would take longer than they save"
    gain = searched[1].seconds / searched[best].seconds
    return f"{gain:.2f} × as fast as one worker; input and exchanges take {milliseconds(exchanges)} of the time"


def _tensors(graph: Graph, chosen: CheapestCuts, sent: Mapping[str, int]) -> tuple[TensorCut, ...]:
    tensors = []
    for node, cost in zip(graph.nodes, chosen.nodes, strict=True):
        for i, name in enumerate(name for name in node.outputs if name):
            boxes = [None if box is None else _pairs(box) for box in chosen.cuts[name].boxes]
            times = (cost.seconds, cost.received) if i == 0 else (0.0, 0.0)
            tensors.append(
                TensorCut(
                    node.name,
                    node.op,
                    name,
                    graph.tensors[name].shape,
                    str(chosen.cuts[name]),
                    tuple(boxes),
                    sent.get(name, 0),
                    *times,
                )
            )
    return tuple(tensors)


def _pairs(box: WorkerBox) -> Box:
    return tuple((r.start, r.stop) for r in box.ranges)
