"""Every cut of a network gives the bits of the whole one on the reference."""

from importlib import import_module
from pathlib import Path

import numpy as np
import onnx
import pytest
from fully_convolutional import unet
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from networks import LIGHT
from onnx import numpy_helper

from groupconv_server.planner.networks.costs import Costs
from groupconv_server.planner.networks.search import search
from groupconv_server.planner.rates import Rates
from groupconv_worker.graph.graph import Graph
from groupconv_worker.graph.importing import Optimized
from groupconv_worker.graph.model import read_model
from groupconv_worker.graph.needed.box import Box, Range
from groupconv_worker.graph.operators.matrices import ordered_product
from groupconv_worker.graph.operators.table import run_reference
from groupconv_worker.graph.partition.cut import Cut, even
from groupconv_worker.graph.partition.partition import partition
from groupconv_worker.graph.partition.reference import run_partition

from .drawn import networks

BENCH = Path(__file__).parents[3] / "bench"
QUIET = [HealthCheck.too_slow, HealthCheck.data_too_large, HealthCheck.filter_too_much]


def image(shape):
    return np.random.default_rng(1).standard_normal(shape).astype(np.float32)


def check(graph, cuts, workers, inputs, wanted=None):
    """The partition gives the same bits; its exchanges are those of its parts."""
    if wanted is None:
        wanted = run_reference(graph, inputs, ordered_product)
    made = partition(graph, cuts, workers)
    found = run_partition(made, inputs)
    assert found.keys() == wanted.keys()
    for name, array in wanted.items():
        np.testing.assert_array_equal(found[name], array, strict=True)
    for op, ends in (("Send", ("sender", "receiver")), ("Receive", ("receiver", "sender"))):
        stages = [(p.worker, n.attributes) for p in made.parts for n in p.graph.nodes if n.op == op]
        listed = {
            (a["tensor"], box, worker, peer)
            for worker, a in stages
            for peer, box in zip(a["peers"], a["boxes"], strict=True)
        }
        assert listed == {(e.tensor, e.box, *(getattr(e, end) for end in ends)) for e in made.exchanges}
    return made


def draw_cut(draw, shape, workers):
    """Any cut: along one or two axes with uneven bounds, on one worker, on all, or cut and then held by several."""
    whole = Box.whole(shape)
    long = [axis for axis, extent in enumerate(shape) if extent > 1]
    kind = draw(st.sampled_from(["along", "along", "along", "grid", "on", "replicated"]))
    if kind == "replicated":
        return Cut.replicated(shape, workers)
    if kind == "on" or not long:
        return Cut.on(shape, workers, draw(st.integers(0, workers - 1)))
    axis = draw(st.sampled_from(long))
    inner = sorted(draw(st.integers(0, shape[axis])) for _ in range(workers - 1))
    bounds = (0, *inner, shape[axis])
    if kind == "along" or workers < 4:
        return Cut.along(shape, axis, bounds)
    other = draw(st.sampled_from(long))
    if other == axis:
        return Cut.along(shape, axis, bounds)
    a, b = draw(st.integers(1, shape[axis] - 1)), draw(st.integers(1, shape[other] - 1))
    boxes = [
        whole.along(axis, r).along(other, s)
        for r in (Range(0, a), Range(a, shape[axis]))
        for s in (Range(0, b), Range(b, shape[other]))
    ]
    return Cut(tuple(boxes) + (None,) * (workers - 4))


def check_drawn(drawn, data):
    proto, shape = drawn
    optimized = Optimized(read_model(proto.SerializeToString()))
    graph = (optimized.canonical if data.draw(st.booleans()) else optimized.bind)({"x": shape})
    workers = data.draw(st.integers(2, 5))
    cuts = {name: draw_cut(data.draw, graph.tensors[name].shape, workers) for name in graph.makers}
    check(graph, cuts, workers, {"x": image(shape)})


@settings(max_examples=20, deadline=None, suppress_health_check=QUIET)
@given(networks(blocks=3), st.data())
def test_some_cuts_of_some_networks(drawn, data):
    check_drawn(drawn, data)


@pytest.mark.slow
@settings(max_examples=150, deadline=None, suppress_health_check=QUIET)
@given(networks(blocks=5), st.data())
def test_many_cuts_of_many_networks(drawn, data):
    check_drawn(drawn, data)


def along(graph, axis, workers):
    """Maps cut along one axis, as far as it is long enough; everything else on every worker."""
    cuts = {}
    for name in graph.makers:
        shape = graph.tensors[name].shape
        fits = len(shape) > axis and shape[axis] >= workers and (axis < 2 or len(shape) == 4)
        cuts[name] = Cut.along(shape, axis, even(shape[axis], workers)) if fits else Cut.replicated(shape, workers)
    return cuts


def seeded(path: Path | bytes, shapes=None):
    """A graph in canonical form, large constants drawn at random: those of the onnx package are all alike."""
    model = read_model(path if isinstance(path, bytes) else path.read_bytes())
    shapes = shapes or {info.name: info.shape for info in model.inputs}
    graph = Optimized(model).canonical(shapes)
    rng = np.random.default_rng(0)
    constants = {}
    for name, array in graph.constants.items():
        drawn = rng.standard_normal(array.shape) / max(1, np.prod(array.shape[1:])) ** 0.5
        constants[name] = drawn.astype(array.dtype) if array.size > 16 else array
    return Graph(graph.inputs, graph.outputs, graph.nodes, graph.tensors, constants), shapes


def check_axes(graph, shapes, axes=(1, 2, 3)):
    """Every map along one axis, each along one of them at random, and all as the planner says."""
    inputs = {name: image(shape) for name, shape in shapes.items()}
    wanted = run_reference(graph, inputs, ordered_product)
    for axis in axes:
        assert check(graph, along(graph, axis, 3), 3, inputs, wanted).exchanges
    rng, mixed = np.random.default_rng(2), [along(graph, axis, 3) for axis in (1, 2, 3)]
    check(graph, {name: mixed[rng.integers(3)][name] for name in graph.makers}, 3, inputs, wanted)
    planned = search(graph, (3,), Costs(Rates())).cuts
    assert len({cut.axes for cut in planned.values()}) > 1
    check(graph, planned, 3, inputs, wanted)


def test_u_net():
    shapes = {"x": (2, 2, 32, 24)}
    graph, _ = seeded(unet(levels=4, base=4).SerializeToString(), shapes)
    check_axes(graph, shapes)
    made = check(graph, along(graph, 0, 2), 2, {"x": image(shapes["x"])})
    assert not made.exchanges


@pytest.mark.slow
@pytest.mark.parametrize("name", ["bvlc_alexnet", "inception_v1", "inception_v2", "shufflenet", "squeezenet"])
def test_light_networks(name):
    check_axes(*seeded(LIGHT / f"light_{name}.onnx"), axes=())


def smaller(proto, size):
    """A network for smaller images: a pool of the whole last map, and the first matrix, fit its extents."""
    graph = proto.graph
    constants = {tensor.name: tensor for tensor in graph.initializer}
    (data,) = (info for info in graph.input if info.name not in constants)
    batch, _, *extents = data.type.tensor_type.shape.dim
    batch.dim_value = 1
    for extent in extents:
        extent.dim_value = size
    for node in graph.node:
        windows = [a.ints[0] for a in node.attribute if a.name == "kernel_shape"]
        if (node.op_type, windows) == ("AveragePool", [7]):
            node.op_type = "GlobalAveragePool"
            del node.attribute[:]
    inferred = onnx.shape_inference.infer_shapes(proto).graph.value_info
    shapes = {info.name: [dim.dim_value for dim in info.type.tensor_type.shape.dim] for info in inferred}
    makers = {output: node for node in graph.node for output in node.output}
    for node in graph.node:
        flat = makers.get(node.input[0])
        if node.op_type == "Gemm" and flat is not None and flat.op_type == "Reshape":
            features = int(np.prod(shapes[flat.input[0]]))
            extents = constants[makers[node.input[1]].input[0]]
            for tensor, first in ((constants[flat.input[1]], 1), (extents, numpy_helper.to_array(extents)[0])):
                tensor.CopyFrom(numpy_helper.from_array(np.array([first, features]), tensor.name))
    return proto.SerializeToString()


@pytest.mark.slow
@pytest.mark.parametrize(("name", "size"), [("resnet50", 96), ("densenet121", 64), ("vgg19", 48), ("zfnet512", 96)])
def test_light_networks_of_smaller_images(name, size):
    check_axes(*seeded(smaller(onnx.load(LIGHT / f"light_{name}.onnx"), size)), axes=())


@pytest.mark.slow
@pytest.mark.parametrize("name", ["mobilenet_v2", "mobilenet_v3", "efficientnet_b0", "convnext_t", "dcgan", "pnet"])
def test_networks_of_the_papers_shapes(monkeypatch, name):
    monkeypatch.syspath_prepend(BENCH)
    proto = import_module("network_models").DRAWN[name]()
    check_axes(*seeded(smaller(proto, 1 if name == "dcgan" else 64)), axes=())


def test_a_cut_that_covers_nothing_is_refused():
    graph, _ = seeded(unet(levels=2, base=4).SerializeToString(), {"x": (1, 2, 8, 8)})
    cuts = along(graph, 2, 2)
    name = graph.nodes[0].outputs[0]
    cuts[name] = Cut((cuts[name].boxes[0], None))
    with pytest.raises(ValueError, match="do not cover"):
        partition(graph, cuts, 2)
