"""The memory of transformed weights: which convolutions of a network may have those of Winograd's algorithm."""

from groupconv_worker.cpu.blocked.winograd import worth
from groupconv_worker.graph.graph import Graph

SHARE, LEAST = 0.5, 2**24
"""Transformed filters may take this share of the bytes of all weights, or at least so many bytes."""
GROWTH = 3
"""Bytes of transformed 3×3 filters, less those of the filters themselves, in parts of these."""


def without_winograd(graph: Graph) -> frozenset[str]:
    """The first outputs of convolutions that are computed directly, as their transformed filters do not fit.

    Filters of large maps come first: they save the most work for each byte.

    Args:
        graph: in canonical form.
    """
    wanted: list[tuple[int, int, str]] = []
    for node in graph.nodes:
        w = graph.constants.get(node.inputs[1]) if node.op == "Conv" else None
        if (
            w is None
            or w.ndim < 4
            or w.shape[-2:] != (3, 3)
            or any(s != 1 for name in ("strides", "dilations") for s in node.attributes[name][-2:])
        ):
            continue
        *_, rows, columns = graph.tensors[node.outputs[0]].shape
        if worth(w.shape[1], w.shape[0] // node.attributes.get("group", 1), (rows, columns)):
            wanted.append((-rows * columns, GROWTH * w.nbytes, node.outputs[0]))
    left = max(LEAST, SHARE * sum(array.nbytes for array in graph.constants.values()))
    refused = set()
    for _, nbytes, name in sorted(wanted):
        if nbytes <= left:
            left -= nbytes
        else:
            refused.add(name)
    return frozenset(refused)
