"""Networks on the emulated device, or on a real one, and what they are held against."""

import importlib
import pkgutil
import threading
import warnings
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
from compiled_networks import model
from onnx import helper, numpy_helper
from onnx.backend.test.case import node
from worker.graph.operators.test_cases import NOT_OF_NETWORKS, array, cases, graph_and_inputs

from groupconv_worker.cuda.engine import CudaEngine
from groupconv_worker.cuda.network.network import DeviceNetwork
from groupconv_worker.cuda.network.operators import LOWER
from groupconv_worker.graph.graph import Graph
from groupconv_worker.graph.importing import Optimized
from groupconv_worker.graph.model import read_model
from groupconv_worker.graph.operators.table import run_reference

WEIGHTS = frozenset(
    ["Conv", "ConvTranspose", "Gemm", "BatchNormalization", "InstanceNormalization", "GroupNormalization",
     "LayerNormalization"]
)  # fmt: skip
"""Operators whose inputs, but for the first, are constants in networks."""
TOLERANCE = 1e-4
"""Of the largest element of an output."""


def check_graph(graph: Graph, given: Mapping[str, np.ndarray], engine: CudaEngine) -> DeviceNetwork:
    """Run a graph three times, by launches and by its graph, and compare with the float64 reference."""
    network, wanted = DeviceNetwork(graph, engine), run_reference(graph, given)
    for _ in range(3):
        found = network.run(given)
        for name in graph.outputs:
            assert found[name].dtype == graph.tensors[name].dtype
            assert found[name].shape == wanted[name].shape
            scale = max(float(np.abs(wanted[name]).max(initial=0)), 1e-30)
            np.testing.assert_allclose(found[name], wanted[name], rtol=0, atol=TOLERANCE * scale)
    return network


def check_model(data: bytes, given: Mapping[str, np.ndarray], engine: CudaEngine) -> DeviceNetwork:
    """`check_graph` of a model's canonical form."""
    shapes = {name: x.shape for name, x in given.items()}
    return check_graph(Optimized(read_model(data)).canonical(shapes), given, engine)


def check_threads(network: DeviceNetwork, shape: Sequence[int], *, threads: int, runs: int) -> None:
    """Run a network of one input in several threads, each on inputs of its own."""
    inputs = [np.random.default_rng(seed).standard_normal(shape).astype(np.float32) for seed in range(threads)]
    wanted = [network.run({"x": x})["y"] for x in inputs]
    found: list[list[np.ndarray]] = [[] for _ in inputs]

    def work(number: int) -> None:
        found[number].extend(network.run({"x": inputs[number]})["y"] for _ in range(runs))

    started = [threading.Thread(target=work, args=(number,)) for number in range(threads)]
    for thread in started:
        thread.start()
    for thread in started:
        thread.join()
    for want, several in zip(wanted, found, strict=True):
        assert len(several) == runs
        for y in several:
            np.testing.assert_allclose(y, want, rtol=1e-5, atol=1e-6)


def supported_cases() -> dict[str, list[Any]]:
    """ONNX's node cases of single operators that have a kernel."""
    return _by_operator(case for some in cases().values() for case in some)


def quick_cases() -> dict[str, list[Any]]:
    """Those of `supported_cases` that ONNX makes fast: of all operators but for pools, which take it seconds."""
    wanted = {op.lower() for op in LOWER} - {"averagepool", "maxpool"}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for module in pkgutil.iter_modules(node.__path__):
            if module.name.replace("_", "") in wanted:
                importlib.import_module(f"{node.__name__}.{module.name}")
    usual = [case for case in node._NodeTestCases if not any(word in case.name for word in NOT_OF_NETWORKS)]
    return _by_operator(usual)


def _by_operator(some: Iterable[Any]) -> dict[str, list[Any]]:
    found: dict[str, list[Any]] = {}
    for case in some:
        operators = [made.op_type for made in case.model.graph.node]
        if len(operators) == 1 and operators[0] in LOWER:
            found.setdefault(operators[0], []).append(case)
    return found


def check_case(case: Any, engine: CudaEngine) -> None:
    """Run a node case of ONNX's as it is written, and compare with its expected outputs."""
    inputs, outputs = case.data_sets[0]
    if case.model.graph.node[0].op_type in WEIGHTS:
        proto = type(case.model)()
        proto.CopyFrom(case.model)
        for value, x in list(zip(case.model.graph.input, inputs, strict=True))[1:]:
            proto.graph.initializer.append(numpy_helper.from_array(array(x), value.name))
            proto.graph.input.remove(value)
        del proto.graph.output[1:], proto.graph.node[0].output[1:]
        graph = Optimized(read_model(proto.SerializeToString())).bind(
            {proto.graph.input[0].name: array(inputs[0]).shape}
        )
        given = {proto.graph.input[0].name: array(inputs[0])}
    else:
        graph, given = graph_and_inputs(case, inputs)
    found = DeviceNetwork(graph, engine).run(given)
    for name, wanted in zip(graph.outputs, map(array, outputs), strict=False):
        assert found[name].dtype == wanted.dtype
        assert found[name].shape == wanted.shape
        if wanted.dtype.kind in "iub":
            np.testing.assert_array_equal(found[name], wanted)
        else:
            np.testing.assert_allclose(found[name], wanted, rtol=max(case.rtol, 1e-4), atol=2e-5)


class Builder:
    """A model that grows by one node after the other, with drawn weights.

    Args:
        seed: of the weights.
    """

    def __init__(self, seed: int = 0) -> None:
        self.rng, self.nodes, self.weights = np.random.default_rng(seed), list[Any](), dict[str, np.ndarray]()

    def weight(self, *shape: int, scale: float = 1.0, above: float | None = None) -> str:
        """A drawn constant."""
        name = f"w{len(self.weights)}"
        values = self.rng.standard_normal(shape) * scale
        self.weights[name] = (np.abs(values) + above if above is not None else values).astype(np.float32)
        return name

    def node(self, op: str, inputs: Sequence[str], **attributes: Any) -> str:
        """One more node; the name of its output."""
        name = f"t{len(self.nodes)}"
        self.nodes.append(helper.make_node(op, inputs, [name], name, **attributes))
        return name

    def conv(self, x: str, channels: int, filters: int, kernel: int, groups: int = 1, **attributes: Any) -> str:
        """A convolution with a bias, scaled so that values keep their size."""
        fan = channels // groups * kernel**2
        w = self.weight(filters, channels // groups, kernel, kernel, scale=(2 / fan) ** 0.5)
        return self.node("Conv", [x, w, self.weight(filters, scale=0.1)], group=groups, **attributes)

    def normalized(self, x: str, channels: int) -> str:
        """A batch normalization."""
        drawn = [self.weight(channels, above=0.5), self.weight(channels), self.weight(channels)]
        return self.node("BatchNormalization", [x, *drawn, self.weight(channels, above=0.5)])

    def model(self, y: str, shape: Sequence[int]) -> bytes:
        """The model whose input is `x`."""
        self.nodes.append(helper.make_node("Identity", [y], ["y"]))
        return model(self.nodes, {"x": shape}, self.weights)


def small_alexnet(seed: int = 0) -> tuple[bytes, tuple[int, ...]]:
    """AlexNet with an eighth of its channels: LRN, groups of two, pools, a classifier, softmax."""
    b = Builder(seed)
    x = b.node("Relu", [b.conv("x", 3, 12, 11, strides=[4, 4])])
    x = b.node("MaxPool", [b.node("LRN", [x], size=5, alpha=1e-2, bias=1.0)], kernel_shape=[3, 3], strides=[2, 2])
    x = b.node("Relu", [b.conv(x, 12, 32, 5, groups=2, pads=[2] * 4)])
    x = b.node("MaxPool", [b.node("LRN", [x], size=5, alpha=1e-2, bias=1.0)], kernel_shape=[3, 3], strides=[2, 2])
    x = b.node("Relu", [b.conv(x, 32, 48, 3, pads=[1] * 4)])
    x = b.node("Relu", [b.conv(x, 48, 32, 3, groups=2, pads=[1] * 4)])
    x = b.node("Flatten", [x])
    x = b.node("Relu", [b.node("Gemm", [x, b.weight(40, 288, scale=0.1), b.weight(40)], transB=1)])
    x = b.node("Gemm", [b.node("Dropout", [x]), b.weight(10, 40, scale=0.1), b.weight(10)], transB=1)
    return b.model(b.node("Softmax", [x]), (2, 3, 67, 67)), (2, 3, 67, 67)


def small_resnet(seed: int = 0) -> tuple[bytes, tuple[int, ...]]:
    """A stem and three bottlenecks of ResNet-50, narrower: residuals, strides, batch normalization, a global pool."""
    b = Builder(seed)
    x = b.node("Relu", [b.normalized(b.conv("x", 3, 8, 7, strides=[2, 2], pads=[3] * 4), 8)])
    x, channels = b.node("MaxPool", [x], kernel_shape=[3, 3], strides=[2, 2], pads=[1] * 4), 8
    for middle, stride in ((4, 1), (4, 1), (8, 2)):
        y = b.node("Relu", [b.normalized(b.conv(x, channels, middle, 1), middle)])
        y = b.node("Relu", [b.normalized(b.conv(y, middle, middle, 3, strides=[stride] * 2, pads=[1] * 4), middle)])
        y = b.normalized(b.conv(y, middle, 4 * middle, 1), 4 * middle)
        if channels != 4 * middle:
            x = b.normalized(b.conv(x, channels, 4 * middle, 1, strides=[stride] * 2), 4 * middle)
        x, channels = b.node("Relu", [b.node("Add", [y, x])]), 4 * middle
    x = b.node("Flatten", [b.node("GlobalAveragePool", [x])])
    return b.model(b.node("Gemm", [x, b.weight(channels, 10), b.weight(10)]), (1, 3, 32, 32)), (1, 3, 32, 32)
