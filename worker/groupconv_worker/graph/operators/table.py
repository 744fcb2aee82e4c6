"""All operators of a graph, and their evaluation one after another."""

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import numpy as np

from groupconv_worker.contract import Array
from groupconv_worker.graph.graph import Graph, Node
from groupconv_worker.graph.operators.call import Call, Definition, Product
from groupconv_worker.graph.operators.epilogue import RESIDUAL, activation_node
from groupconv_worker.graph.operators.matrices import MATRICES
from groupconv_worker.graph.operators.movement import MOVEMENT
from groupconv_worker.graph.operators.normalization import NORMALIZATION
from groupconv_worker.graph.operators.pointwise import POINTWISE
from groupconv_worker.graph.operators.reductions import REDUCTIONS
from groupconv_worker.graph.operators.resize import RESIZE
from groupconv_worker.graph.operators.windows import WINDOWS

DEFINITIONS: dict[str, Definition] = {
    **MATRICES,
    **MOVEMENT,
    **NORMALIZATION,
    **POINTWISE,
    **REDUCTIONS,
    **RESIZE,
    **WINDOWS,
}
"""By ONNX's name of the operator."""


def run_reference(graph: Graph, inputs: Mapping[str, Array], product: Product = np.matmul) -> dict[str, Array]:
    """Compute a graph in float64 (integers as they are), node by node.

    Args:
        graph: whose operators all have a definition.
        inputs: by name.
        product: multiplies matrices; `ordered_product` for sums that do not depend on extents.

    Returns:
        The outputs by name; floats are float64.

    Raises:
        KeyError: naming an operator without a definition.

    Example:
        >>> from groupconv_worker.graph.graph import Tensor
        >>> x, y = (Tensor(name, np.dtype("float32"), (2,)) for name in "xy")
        >>> graph = Graph(("x",), ("y",), (Node("Exp", ("x",), ("y",)),), {"x": x, "y": y}, {})
        >>> run_reference(graph, {"x": np.zeros(2, np.float32)})["y"]
        array([1., 1.])
    """
    values = {name: wide(array) for name, array in {**graph.constants, **inputs}.items()}
    last = {name: i for i, node in enumerate(graph.nodes) for name in node.inputs}
    for i, node in enumerate(graph.nodes):
        values.update(run_node(graph, node, values, product))
        for name in node.inputs:
            if last[name] == i and name not in graph.outputs:
                values.pop(name, None)
    return {name: values[name] for name in graph.outputs}


@np.errstate(all="ignore")  # NaN and infinity are data
def run_node(graph: Graph, node: Node, values: Mapping[str, Array], product: Product = np.matmul) -> dict[str, Array]:
    """The outputs of one node by name, from the values of its inputs."""
    call = Call(
        node,
        [values[name] if name else None for name in node.inputs],
        [graph.tensors[name] if name else None for name in node.outputs],
        product,
    )
    result = _with_epilogue(DEFINITIONS[node.op])(call)
    arrays = result if isinstance(result, tuple) else (result,)
    return {name: wide(np.asarray(array)) for name, array in zip(node.outputs, arrays, strict=False) if name}


def wide(array: Array) -> Array:
    """A value as definitions take it: in C order, floats as float64."""
    floating = array.dtype.kind == "f" or array.dtype.name == "bfloat16"
    return np.asarray(array, np.float64 if floating else None, order="C")


def _with_epilogue(definition: Definition) -> Definition:
    """A definition that also adds the residual and applies the activation, where a node has them."""

    def computed(call: Call) -> Any:
        residual = call.given(RESIDUAL) if call.node.op in ("Conv", "ConvTranspose") else None
        activation = call.attribute("activation")
        if residual is None and activation is None:
            return definition(call)
        result = definition(call)
        if residual is not None:
            result = result + residual
        if activation is not None:
            node = activation_node(activation)
            result = POINTWISE[node.op](replace(call, node=node, inputs=[result]))
        return result

    return computed
