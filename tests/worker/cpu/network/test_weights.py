"""Which convolutions have memory for Winograd's weights."""

import numpy as np

from groupconv_worker.cpu.network.weights import GROWTH, LEAST, SHARE, without_winograd
from groupconv_worker.graph.graph import Graph, Node, Tensor

F32 = np.dtype("float32")


def chain(*layers):
    """3×3 convolutions: (channels, extent of the map) each; weights without memory of their own."""
    nodes, tensors, constants = [], {}, {}
    for i, (channels, extent) in enumerate(layers):
        tensors |= {name: Tensor(name, F32, (1, channels, extent, extent)) for name in (f"x{i}", f"y{i}")}
        constants[f"w{i}"] = np.broadcast_to(np.float32(1), (channels, channels, 3, 3))
        attributes = {"strides": (1, 1), "dilations": (1, 1), "group": 1}
        nodes.append(Node("Conv", (f"x{i}", f"w{i}"), (f"y{i}",), attributes))
    return Graph(("x0",), (nodes[-1].outputs[0],), tuple(nodes), tensors, constants)


def test_small_networks_have_memory_for_all():
    assert not without_winograd(chain(*[(64, 56)] * 4))


def test_filters_of_large_maps_come_first():
    graph = chain((512, 28), (512, 56), *[(512, 28)] * 7)
    refused = without_winograd(graph)
    assert refused
    assert "y1" not in refused
    total = sum(w.nbytes for w in graph.constants.values())
    kept = [w.nbytes for name, w in graph.constants.items() if name.replace("w", "y") not in refused]
    assert GROWTH * sum(kept) <= max(LEAST, SHARE * total)
