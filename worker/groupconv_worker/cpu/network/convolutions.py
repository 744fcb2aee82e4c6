"""Lowering of convolutions of maps, with bias, residual and activation."""

import math
from dataclasses import replace

from groupconv.convolution.geometry import Geometry
from groupconv_worker.contract import Array
from groupconv_worker.cpu.algorithms.plane import phases
from groupconv_worker.cpu.blocked.convolution import convolution
from groupconv_worker.cpu.blocked.epilogue import FUSED, Epilogue
from groupconv_worker.cpu.blocked.layout import Blocked, Plain
from groupconv_worker.cpu.blocked.lowered import Lowered, beyond
from groupconv_worker.cpu.kernels.forms import NotCompiledError
from groupconv_worker.cpu.network.lowering import CpuLowering, Map
from groupconv_worker.cpu.network.planning import NO_MARGIN, Margin, is_map, widest
from groupconv_worker.cpu.network.pointwise import apply_in_place
from groupconv_worker.cpu.stages import Address
from groupconv_worker.graph.convolution import geometry as convolution_geometry
from groupconv_worker.graph.graph import Graph, Node, UnsupportedNodeError

STEM = 4
"""Channels up to which a convolution reads the network's input as it lies."""
ALONG = ("strides", "dilations", "output_padding")
"""Attributes of a window with a number for each axis."""


def geometry(graph: Graph, node: Node) -> Geometry:
    """The geometry of a convolution of maps; of volumes that of a slice of the filters, on slices.

    Raises:
        UnsupportedNodeError: it is not of maps or volumes of float32, or has another fault.
    """
    x, w = (graph.tensors[name] for name in node.inputs[:2])
    if not is_map(x) or node.inputs[1] not in graph.constants:
        raise UnsupportedNodeError(f"{x.dtype} {list(x.shape)} as input, or weights that are no constants")
    if len(x.shape) == 4:
        return convolution_geometry(graph, node)
    flat = {name: replace(t, shape=(*t.shape[:2], *t.shape[-2:])) for name, t in zip(node.inputs, (x, w), strict=False)}
    pads = node.attributes["pads"]
    window = {name: node.attributes[name][-2:] for name in ALONG if name in node.attributes}
    attributes = dict(node.attributes) | window | {"pads": (*pads[1:3], *pads[4:])}
    return convolution_geometry(replace(graph, tensors=flat), replace(node, attributes=attributes))


def margin(graph: Graph, node: Node) -> Margin:
    """The margin around its input that a convolution reads."""
    try:
        g = geometry(graph, node)
    except (UnsupportedNodeError, ValueError):
        return NO_MARGIN
    widest_margin = NO_MARGIN
    for phase in phases(g):
        (top, bottom), (left, right) = (beyond(phase.plane, axis) for axis in (0, 1))
        widest_margin = widest(widest_margin, (top, left, bottom, right))
    return widest_margin


def lower_convolution(low: CpuLowering, node: Node) -> None:
    """Conv and ConvTranspose, with bias, residual and activation."""
    g, name = geometry(low.graph, node), node.inputs[0]
    weight, bias, residual = operands(low, node)
    raw = not low.has_map(name) and g.in_channels <= STEM and g.groups == 1 and not g.transposed
    source = None if raw else low.map(name)
    y = low.new_map(node.outputs[0])
    after = node.attribute("activation", ())
    fused = not after or after[0] in FUSED
    epilogue = Epilogue(after if fused else (), None if residual is None else residual.layout)
    layout = Plain(g.in_channels, *g.input) if source is None else source.layout
    lowered = stages_of(low, node, g, (layout, y.layout), weight, bias, epilogue)
    if lowered is None:
        return
    for n in range(y.samples):
        scratch = low.assembly.block(lowered.scratch)
        x = _raw(low, name, n) if source is None else source.sample(n)
        added = x if residual is None else residual.sample(n)
        low.assembly.extend(lowered.stages, (scratch, scratch, x, y.sample(n), added))
    if not fused:
        apply_in_place(low, y, after)


def operands(low: CpuLowering, node: Node) -> tuple[Array, Array | None, Map | None]:
    """Weight, bias and residual of a convolution with a geometry.

    Raises:
        UnsupportedNodeError: the bias is no constant.
    """
    weight = low.constant(node.inputs[1])
    assert weight is not None
    bias = low.constant(node.inputs[2]) if len(node.inputs) > 2 else None
    if len(node.inputs) > 2 and node.inputs[2] and bias is None:
        raise UnsupportedNodeError("a bias that is no constant")
    return weight, bias, low.map(node.inputs[3]) if len(node.inputs) > 3 and node.inputs[3] else None


def stages_of(
    low: CpuLowering,
    node: Node,
    g: Geometry,
    layouts: tuple[Blocked | Plain, Blocked],
    weight: Array,
    bias: Array | None,
    epilogue: Epilogue,
) -> Lowered | None:
    """The stages of a convolution of one sample; None if kernels have to be compiled first, which `low` then lists.

    Args:
        low: of the network.
        node: the convolution.
        g: its geometry.
        layouts: of input and output.
        weight: as of `convolution`.
        bias: as of `convolution`.
        epilogue: as of `convolution`.
    """
    try:
        use = False if node.outputs[0] in low.direct else None
        return convolution(g, *layouts, weight, bias, epilogue, use_winograd=use)
    except NotCompiledError as missing:
        if missing.form is None:
            raise
        low.assembly.missing[missing.form] = None
        return None
    except ValueError as error:
        raise UnsupportedNodeError(str(error)) from None


def _raw(low: CpuLowering, name: str, sample: int) -> Address:
    """The address of a sample of a tensor in C order."""
    location = low.array(name)
    if not isinstance(location, Address):
        raise UnsupportedNodeError("an input that is a constant")
    return location.plus(4 * sample * math.prod(low.shape(name)[1:]))
