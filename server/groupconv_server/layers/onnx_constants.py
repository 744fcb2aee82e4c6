"""Reading of ONNX files: functions are inlined, and weights that depend on constants alone are computed.

onnx-ir reads and inlines, and onnxscript's optimizer folds constants. This file also makes sparse tensors dense.
"""

import contextlib
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from groupconv.errors import FailedPreconditionError, InvalidArgumentError
from groupconv.text import human_bytes
from groupconv.transport.bounded import LONGEST

DENSE_BYTES = 2**31
"""Limit of a sparse tensor's bytes when it is dense: that of a tensor in a protobuf."""


def read_model(path: Path) -> Any:
    """The model in a file as an `onnx_ir.Model`. Functions are inlined if the libraries can.

    Args:
        path: of the file; weights in files beside it (external data) are read, too.

    Raises:
        FailedPreconditionError: onnx, onnx-ir or onnxscript is not installed.
        InvalidArgumentError: it is not an ONNX file, or its weights are missing.
    """
    try:
        import onnx
        import onnx_ir
        import onnxscript.optimizer  # noqa: F401 - used by `fold`
        from onnx_ir.passes import common
    except ImportError as error:
        raise FailedPreconditionError(
            f"to read ONNX files, install what the server needs: pip install 'groupconv[server]' ({error})"
        ) from None
    if path.is_char_device() or path.stat().st_size > LONGEST:  # before the library reads all of it
        what = "a device" if path.is_char_device() else "a larger file"
        raise InvalidArgumentError("file", "an ONNX model below 2 GiB", f"{path.name}, {what}")
    try:
        proto = onnx.load(path)
        _make_dense(proto)
        for node in (node for function in proto.functions for node in function.node):
            node.name = node.name or next(iter(node.output), "")  # inlining would name it "node"
        model = onnx_ir.from_proto(proto)
        for function in model.functions.values():
            _take_opsets(function, model.opset_imports)
        try:
            common.InlinePass(lambda function: _agree(function.opset_imports, model.opset_imports))(model)
        except Exception:  # noqa: BLE001 - a function calls itself or takes a graph: all functions stay, and are reported
            model = onnx_ir.from_proto(proto)
        common.RemoveInitializersFromInputsPass()(model)
    except InvalidArgumentError:
        raise
    except Exception as error:  # noqa: BLE001 - of protobuf, the libraries or the file system
        raise InvalidArgumentError("file", "an ONNX model with its weights", first_line(error)) from None
    return model


def _take_opsets(function: Any, opsets: Mapping[str, int]) -> None:
    """Give a function the opsets of its model, if its operators are equal in both."""
    from onnx.defs import get_schema
    from onnx_ir.traversal import RecursiveGraphIterator

    own = function.opset_imports
    used = {
        (n.op_type, n.domain) for n in RecursiveGraphIterator(function) if own.get(n.domain) != opsets.get(n.domain)
    }
    with contextlib.suppress(Exception):  # an operator that onnx does not know
        if all(
            get_schema(name, own[domain], domain).since_version
            == get_schema(name, opsets.get(domain, own[domain]), domain).since_version
            for name, domain in used
        ):
            own.update({domain: version for domain, version in opsets.items() if domain in own})


def _agree(one: Mapping[str, int], other: Mapping[str, int]) -> bool:
    """Whether two sets of opsets have the same version of each common domain."""
    return all(other.get(domain, version) == version for domain, version in one.items())


def fold(model: Any, convolutions: Sequence[Any]) -> dict[str, str]:
    """Compute those weights of convolutions that depend on constants alone.

    onnxscript's optimizer computes operators that onnx's reference implementation has. onnxruntime computes others,
    such as DequantizeLinear of an older opset.

    Args:
        model: from `read_model`; it is changed.
        convolutions: nodes of the model. Weights are their inputs after the first.

    Returns:
        Errors of values that could not be computed, by the value's name.
    """
    from onnxscript import optimizer

    wanted = {id(node) for node in _before(convolutions)}
    if not wanted:
        return {}
    with contextlib.suppress(Exception):  # the rest is tried below, node by node
        optimizer.fold_constants_ir(model, onnx_shape_inference=False, should_fold=lambda node: id(node) in wanted)
    failed = {}
    for node in _before(convolutions):
        constant = node.outputs and all(v is None or v.const_value is not None for v in node.inputs)
        if constant and node.outputs[0].const_value is None:
            try:
                node.outputs[0].const_value = _by_onnxruntime(node, model.opset_imports)
            except Exception as error:  # noqa: BLE001 - of any operator
                failed[node.outputs[0].name] = first_line(error)
    return failed


def _before(convolutions: Sequence[Any]) -> list[Any]:
    """The nodes that compute the weights, in topological order."""
    needed: list[Any] = []
    seen: set[int] = set()  # a broken file may have cycles
    waiting = [(v.producer(), False) for node in convolutions for v in node.inputs[1:] if v is not None]
    while waiting:
        node, after_its_inputs = waiting.pop()
        if after_its_inputs:
            needed.append(node)
        elif node is not None and id(node) not in seen:
            seen.add(id(node))
            waiting.append((node, True))
            waiting += [(v.producer(), False) for v in node.inputs if v is not None]
    return needed


def _by_onnxruntime(node: Any, opsets: Mapping[str, int]) -> Any:
    """The first output of a node with constant inputs, computed by onnxruntime."""
    import onnx_ir
    import onnxruntime
    from onnx import ValueInfoProto, helper

    proto = onnx_ir.to_proto(node)
    weights = {v.name: onnx_ir.to_proto(v.const_value) for v in node.inputs if v is not None}
    for name, tensor in weights.items():
        tensor.name = name
    graph = helper.make_graph([proto], "constant", [], [ValueInfoProto(name=proto.output[0])], list(weights.values()))
    imports = [helper.make_opsetid(domain, version) for domain, version in opsets.items()]
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4
    model = helper.make_model(graph, opset_imports=imports, ir_version=10).SerializeToString()
    session = onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])
    return onnx_ir.tensor(session.run([proto.output[0]], {})[0])


def _make_dense(model: Any) -> None:
    """Replace the sparse tensors of a model, in its graphs and functions, by dense ones."""
    from onnx import helper

    graphs, bodies = [model.graph], [model.graph.node, *(function.node for function in model.functions)]
    while bodies:
        for node in bodies.pop():
            for attribute in node.attribute:
                inner = [attribute.g, *attribute.graphs] if attribute.HasField("g") else list(attribute.graphs)
                graphs += inner
                bodies += [graph.node for graph in inner]
                if attribute.name == "sparse_value" and node.op_type == "Constant":
                    attribute.CopyFrom(helper.make_attribute("value", _dense(attribute.sparse_tensor, "value")))
    for graph in graphs:
        graph.initializer.extend(_dense(sparse, sparse.values.name) for sparse in graph.sparse_initializer)
        del graph.sparse_initializer[:]


def _dense(sparse: Any, name: str) -> Any:
    """A SparseTensorProto as a TensorProto. Its indices are linear, or rows of coordinates."""
    from onnx import numpy_helper

    values, indices = numpy_helper.to_array(sparse.values), numpy_helper.to_array(sparse.indices)
    shape = tuple(sparse.dims)
    nbytes = math.prod(shape) * values.dtype.itemsize
    if not 0 <= nbytes <= DENSE_BYTES:
        expected = f"at most {human_bytes(DENSE_BYTES)} when it is dense"
        raise InvalidArgumentError(f"sparse tensor {name}", expected, human_bytes(nbytes))
    dense = np.zeros(shape, values.dtype)
    at = indices if indices.ndim == 1 else np.ravel_multi_index(tuple(indices.T), shape)
    dense.reshape(-1)[at] = values
    return numpy_helper.from_array(dense, name)


def first_line(error: BaseException) -> str:
    """The first line of an error's message, or of its cause's."""
    cause = error.__cause__ or error
    return (str(cause).splitlines() or [type(cause).__name__])[0]
