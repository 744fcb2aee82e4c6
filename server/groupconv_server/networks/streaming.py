"""Plans of streams: how a map of any size goes through a network in windows."""

from collections.abc import Mapping, Sequence
from dataclasses import replace

from groupconv.errors import InvalidArgumentError, Words
from groupconv.networks.tensors import TensorInfo, check_shapes
from groupconv.networks.windows import StreamPlan
from groupconv_server.layers.version import NetworkVersion
from groupconv_server.networks.windows import Allowed, check_window, choose, window_axis
from groupconv_worker.graph.canonical.draft import Draft
from groupconv_worker.graph.graph import Graph
from groupconv_worker.graph.needed.cutting import CutAxis, cut_axis, receptive_field
from groupconv_worker.graph.translation import UnboundGraphError

FIRST_OF_SPACE = 2
"""Axis of an input behind samples and channels."""


def plan_stream(
    network: NetworkVersion,
    shapes: Mapping[str, Sequence[int]],
    outputs: Sequence[str],
    allowed: Allowed,
    window_bytes: int = 0,
) -> StreamPlan:
    """How maps of these shapes are streamed.

    Inputs with axes of space are maps; the others go along with each window. Axes whose extent the network leaves free
    are cut: those of space, and samples.

    Args:
        network: that is streamed through.
        shapes: of the whole inputs, by name.
        outputs: names of those wanted; none means all.
        allowed: limits.
        window_bytes: that one window may take; 0 leaves it to the server.

    Raises:
        InvalidArgumentError: an input does not fit, or the network has no free axes of space, or a node needs all of
            the map; it is named.
        ResourceExhaustedError: the smallest window is too large.
    """
    model = network.model
    check_shapes(model.inputs, shapes)
    known = [info.name for info in model.outputs]
    wanted = tuple(outputs) or tuple(known)
    for name in wanted:
        if name not in known:
            raise InvalidArgumentError("outputs", f"names of {', '.join(map(repr, known))}", repr(name))
    maps = [info for info in model.inputs if len(info.shape) > FIRST_OF_SPACE]
    for info in maps:
        if 0 in shapes[info.name]:
            raise InvalidArgumentError(f"inputs[{info.name!r}].shape", "a map with elements", list(shapes[info.name]))
    free = _free_axes(maps, shapes)
    whole = _of_outputs(_bound(network, shapes), wanted)
    axes = _cut_axes(whole, free, [info.name for info in maps])
    chosen = choose(whole, axes, allowed, window_bytes)
    cut_axes = tuple(
        window_axis(whole, axis, core, maps[0].name, receptive_field(whole, axis, maps[0].name))
        for axis, core in zip(axes, chosen.cores, strict=True)
    )
    plan = StreamPlan(
        network.version,
        tuple(info.name for info in maps),
        tuple(shapes[maps[0].name]),
        tuple(
            TensorInfo(info.name, info.dtype, whole.tensors[info.name].shape)
            for info in model.outputs
            if info.name in wanted
        ),
        cut_axes,
        chosen.window_bytes,
        chosen.stream_bytes,
        chosen.recomputed,
        chosen.in_flight,
    )
    if plan.count > 1:
        of_window = {info.name: plan.window_shape(shapes[info.name]) for info in maps}
        check_shapes(model.inputs, {**shapes, **of_window})
        window = _of_outputs(_bound(network, {**shapes, **of_window}), wanted)
        check_window(whole, window, axes, chosen.cores)
    return plan


def _free_axes(maps: Sequence[TensorInfo], shapes: Mapping[str, Sequence[int]]) -> list[int]:
    """The axes of all maps whose extents are free, and the same in this call."""
    if not maps:
        raise InvalidArgumentError("network.inputs", "an input with axes of space, (N, C, H, W)", "none")
    first = maps[0]
    ranks = {len(info.shape) for info in maps}
    free = [
        axis for axis in range(min(ranks)) if axis != 1 and not any(isinstance(info.shape[axis], int) for info in maps)
    ]
    if len(ranks) > 1 or not any(axis >= FIRST_OF_SPACE for axis in free):
        raise InvalidArgumentError(f"network.inputs[{first.name!r}]", "free axes of space", str(first))
    for info in maps[1:]:
        for axis in free:
            if shapes[info.name][axis] != shapes[first.name][axis]:
                raise InvalidArgumentError(
                    f"inputs[{info.name!r}].shape[{axis}]",
                    f"{shapes[first.name][axis]}, as {first.name!r} has",
                    shapes[info.name][axis],
                )
    return free


def _cut_axes(graph: Graph, free: Sequence[int], maps: Sequence[str]) -> list[CutAxis]:
    """How the axes are cut. Samples are not where a node joins them."""
    cut_axes = []
    for axis in free:
        try:
            cut_axes.append(cut_axis(graph, axis, maps))
        except InvalidArgumentError:
            if axis >= FIRST_OF_SPACE:
                raise
    return cut_axes


def _bound(network: NetworkVersion, shapes: Mapping[str, Sequence[int]]) -> Graph:
    """The graph of a call; its nodes have the names of the model's, also those that the optimizer replaced."""
    try:
        graph = network.optimized.bind(shapes)
    except UnboundGraphError as error:
        expected = "a network whose shapes follow from those of its inputs"
        raise InvalidArgumentError("network", expected, Words(error)) from None
    known = {node.name for node in network.model.proto.graph.node}
    makers = {name: node.name or name for node in network.model.proto.graph.node for name in node.output}
    named = (n if n.name in known else replace(n, name=makers.get(n.outputs[0], n.name)) for n in graph.nodes)
    return replace(graph, nodes=tuple(named))


def _of_outputs(graph: Graph, outputs: Sequence[str]) -> Graph:
    """The part of a graph that some outputs depend on."""
    return Draft(replace(graph, outputs=tuple(name for name in graph.outputs if name in outputs))).graph()
