"""The geometry of a graph's convolution nodes."""

from groupconv import ConvSpec
from groupconv.convolution.geometry import Geometry, resolve
from groupconv_worker.graph.graph import Graph, Node


def geometry(graph: Graph, node: Node) -> Geometry:
    """The geometry of a Conv or ConvTranspose, without its activation.

    Raises:
        InvalidArgumentError: its weights do not fit its input.

    Example:
        >>> import numpy as np
        >>> from groupconv_worker.graph.graph import Tensor
        >>> f32 = np.dtype("float32")
        >>> tensors = {"x": Tensor("x", f32, (1, 2, 9)), "w": Tensor("w", f32, (4, 2, 3))}
        >>> window = {"strides": (2,), "pads": (1, 1), "dilations": (1,)}
        >>> geometry(Graph(("x",), ("y",), (), tensors, {}), Node("Conv", ("x", "w"), ("y",), window)).output
        (5,)
    """
    x, w = (graph.tensors[name] for name in node.inputs[:2])
    pads, rank = node.attributes["pads"], len(x.shape) - 2
    spec = ConvSpec(
        stride=node.attributes["strides"],
        padding=tuple(zip(pads[:rank], pads[rank:], strict=True)),
        dilation=node.attributes["dilations"],
        groups=node.attributes.get("group", 1),
        transposed=node.op == "ConvTranspose",
        output_padding=node.attributes.get("output_padding", (0,) * rank),
    )
    return resolve(spec, x.shape, w.shape)
