"""Lowering of operators of each element, with broadcasting, on maps and on arrays in C order."""

import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

from groupconv_worker.contract import Array
from groupconv_worker.cpu.blocked import epilogue
from groupconv_worker.cpu.blocked.kernels.blocks import LANES
from groupconv_worker.cpu.blocked.lowered import TASKS
from groupconv_worker.cpu.network.assembly import aligned_copy
from groupconv_worker.cpu.network.kernels.functions import BINARY_CODES, UNARY_CODES
from groupconv_worker.cpu.network.kernels.pointwise import RUN, SAME, SPLAT, pointwise
from groupconv_worker.cpu.network.lowering import CpuLowering, Map, from_element
from groupconv_worker.cpu.stages import Address
from groupconv_worker.graph.graph import Node, UnsupportedNodeError
from groupconv_worker.graph.strides import broadcast, collapsed, dense

PIECE = 4096
"""Elements of a long run that one task takes."""
DEFAULTS = epilogue.DEFAULTS | {
    "Elu": (1.0, 1.0),
    "Celu": (1.0, 1.0),
    "Selu": (1.67326319217681884765625, 1.05070102214813232421875),
    "ThresholdedRelu": (1.0,),
}
"""Parameters of a function where a node gives none."""
SAME_AS = {"Relu": "Clip", "Celu": "Elu"}
"""Functions that are others with certain parameters."""
PARAMETERS = {
    "Clip": ("min", "max"),
    "LeakyRelu": ("alpha",),
    "HardSigmoid": ("alpha", "beta"),
    "Elu": ("alpha",),
    "Celu": ("alpha",),
    "Selu": ("alpha", "gamma"),
    "ThresholdedRelu": ("alpha",),
}
"""Attributes that are parameters of a function."""
UNARY = frozenset(UNARY_CODES) - {"Square", "GeluTanh"} | {"Relu", "Celu"}
BINARY = frozenset(("Add", "Sub", "Mul", "Div", "Max", "Min", "PRelu"))
POINTWISE = UNARY | BINARY | {"Pow", "Sum"}
"""Operators that are lowered here."""
Function = tuple[Any, ...]


class Given(NamedTuple):
    """An array in C order.

    Attributes:
        address: of its first element.
        shape: of it.
    """

    address: Address | Array
    shape: Sequence[int]


class Side(NamedTuple):
    """An input or the output of a stage.

    Attributes:
        address: of its first element.
        mode: how it goes along a run.
        steps: elements from step to step of three axes.
    """

    address: Address | Array
    mode: int
    steps: tuple[int, int, int]


def function_of(node: Node) -> Function:
    """The function of a unary node: its name and parameters."""
    if node.op == "Gelu" and node.attribute("approximate", "none") == "tanh":
        return ("GeluTanh",)
    names = PARAMETERS.get(node.op, ())
    defaults = DEFAULTS.get(node.op, ())
    return node.op, *(node.attribute(name, default) for name, default in zip(names, defaults, strict=False))


def coded(function: Function) -> tuple[int, Array]:
    """The code and the two parameters of a function (name, *parameters); of nothing at all if it is empty."""
    name, *arguments = function or ("Clip",)
    values = [*DEFAULTS.get(name, ()), 0.0, 0.0][:2]
    values[: len(arguments)] = arguments
    if name == "Celu":
        values[1] = values[0]
    code = UNARY_CODES.get(SAME_AS.get(str(name), str(name)))
    if code is None:
        raise UnsupportedNodeError(f"the function {name}")
    return code, np.array(values, np.float32)


def lower_pointwise(low: CpuLowering, node: Node) -> None:
    """Any of `POINTWISE`."""
    after: Function = node.attribute("activation", ())
    if node.op == "Pow":
        exponent = low.constant(node.inputs[1])
        powers: dict[float, Function] = {2.0: ("Square",), 0.5: ("Sqrt",), -1.0: ("Reciprocal",)}
        number = float(exponent.reshape(-1)[0]) if exponent is not None and exponent.size == 1 else math.nan
        if number in powers and low.shape(node.inputs[0]) == low.shape(node.outputs[0]):
            stage(low, node, "First", node.inputs[:1], powers[number])
        else:
            stage(low, node, "Pow", node.inputs, ())
    elif node.op in UNARY:
        if any(node.inputs[1:]):
            raise UnsupportedNodeError("bounds that are no constants")
        stage(low, node, "First", node.inputs[:1], function_of(node))
    elif node.op == "Sum" and len(node.inputs) == 1:
        stage(low, node, "First", node.inputs, ())
    elif len(node.inputs) != 2:
        raise UnsupportedNodeError(f"{len(node.inputs)} inputs")
    else:
        stage(low, node, "Add" if node.op == "Sum" else node.op, node.inputs, after)


def apply_in_place(low: CpuLowering, y: Map, after: Function) -> None:
    """A function of each element of a map."""
    for n in range(y.samples):
        on_map(low, "First", [whole(y, n)], y, n, after)


def stage(low: CpuLowering, node: Node, operator: str, names: Sequence[str], after: Function) -> None:
    """y = after(operator(inputs)), on maps if one is there as a map."""
    if any(low.graph.tensors[name].dtype != np.float32 for name in (*names, node.outputs[0])):
        raise UnsupportedNodeError("elements that are not float32")
    target = node.outputs[0]
    if target in low.plan.maps and any(low.has_map(name) for name in names):
        shape = low.shape(target)
        sides = [_of_map(low, name, shape) for name in names]
        y = low.new_map(target)
        for n in range(y.samples):
            on_map(low, operator, [side(n) for side in sides], y, n, after)
    else:
        on_arrays(low, operator, [(low.array(name), low.shape(name)) for name in names], target, after)


def whole(x: Map, sample: int) -> Side:
    """A sample of a map, element by element."""
    return Side(x.cell(sample), RUN, (x.plane, x.row, LANES))


def _of_map(low: CpuLowering, name: str, shape: Sequence[int]) -> Any:
    """An input of an operator on maps, as a function of the sample."""
    own = (1,) * (len(shape) - len(low.shape(name))) + low.shape(name)
    constant = low.constant(name)
    if math.prod(own) == 1 and constant is not None:
        value = aligned_copy(constant)
        return lambda _: Side(value, SPLAT, (0, 0, 0))
    if constant is not None and math.prod(own) == own[1]:
        vector = aligned_copy(constant)
        return lambda _: Side(vector, SAME, (LANES, 0, 0))
    if math.prod(own) == 1 and len(low.shape(name)) != len(shape):
        element = low.array(name)
        return lambda _: Side(element, SPLAT, (0, 0, 0))
    x = low.map(name) if constant is None and len(low.shape(name)) == len(shape) else low.copied_map(name, own)
    steps = (
        x.plane if own[1] == shape[1] else 0,
        x.row if own[-2] == shape[-2] else 0,
        LANES if own[-1] == shape[-1] else 0,
    )
    mode = SPLAT if own[1] != shape[1] else RUN if steps[2] or shape[-1] == 1 else SAME
    deep, depth = math.prod(own[2:-2]), math.prod(shape[2:-2])

    def side(n: int) -> Side:
        sample, level = n // depth % own[0], n % depth % deep  # an extent of 1 is there for all
        return Side(x.cell(sample * deep + level), mode, steps)

    return side


def on_map(low: CpuLowering, operator: str, sides: Sequence[Side], y: Map, sample: int, after: Function) -> None:
    """One stage on a sample of maps."""
    layout = y.layout
    target = whole(y, sample)
    if any(side.mode == SPLAT and side.steps[0] == 0 and any(side.steps) for side in sides) or any(
        side.mode == RUN and side.steps[2] == 0 for side in sides
    ):  # one number for each pixel: pixel by pixel
        extents, run = (layout.blocks, layout.rows, layout.columns), LANES
    else:
        sides = [Side(s.address, s.mode, (s.steps[0], s.steps[1], 0)) for s in sides]
        target = Side(target.address, RUN, (y.plane, y.row, 0))
        extents, run = (layout.blocks, layout.rows, 1), layout.columns * LANES
    if extents[0] < extents[1]:  # the longer axis is shared by the threads
        swapped = [Side(s.address, s.mode, (s.steps[1], s.steps[0], s.steps[2])) for s in (*sides, target)]
        sides, target = swapped[:-1], swapped[-1]
        extents = (extents[1], extents[0], extents[2])
    add(low, operator, sides, target, extents, (run, run), after)


def add(
    low: CpuLowering,
    operator: str,
    sides: Sequence[Side],
    target: Side,
    extents: Sequence[int],
    run: tuple[int, int],
    after: Function,
) -> None:
    """One stage: extents of three axes, elements of a run and of the last run."""
    code, parameters = coded(after)
    unused = Side(parameters, SPLAT, (0, 0, 0))
    a, b, c = (*sides, unused, unused)[:3]
    modes = (a.mode, b.mode, c.mode)
    steps = (*a.steps, *b.steps, *c.steps, *target.steps)
    head = (a.address, b.address, c.address, target.address, parameters, BINARY_CODES[operator], code)
    words = (*head, *modes, *extents[1:], *run, *steps)
    low.assembly.add(low.assembly.kernel(pointwise), words, extents[0])


def on_arrays(
    low: CpuLowering,
    operator: str,
    operands: Sequence[tuple[Address | Array, Sequence[int]]],
    target: str,
    after: Function,
) -> None:
    """One stage on arrays in C order, each with its shape."""
    sides = [Given(*one) for one in operands]
    on_given(low, operator, sides, Given(low.new_array(target), low.shape(target)), after)


def on_given(low: CpuLowering, operator: str, operands: Sequence[Given], target: Given, after: Function) -> None:
    """One stage on arrays in C order that lie somewhere."""
    shape = target.shape
    extents, steps = collapsed(shape, [*(broadcast(own, shape) for _, own in operands), dense(shape)])
    if len(extents) > 4:
        raise UnsupportedNodeError(f"broadcasting over {len(extents)} axes")
    *outer, run = extents
    pieces = run // PIECE if len(outer) < 3 and math.prod(outer[:1]) < TASKS else 0
    parts = [(pieces, PIECE), (1, run % PIECE)] if pieces > 1 else [(1, run)]
    first = 0
    for count, length in parts:
        if length:
            whole_axes = [count, *outer, 1, 1] if pieces > 1 else [*outer, 1, 1, 1]
            sides = []
            for (address, _), (*before, step) in zip((*operands, target), steps, strict=True):
                axes = [*([length * step] if pieces > 1 else []), *before, 0, 0, 0]
                mode = RUN if step else SPLAT
                sides.append(Side(from_element(address, first * step), mode, (axes[0], axes[1], axes[2])))
            add(low, operator, sides[:-1], sides[-1], whole_axes[:3], (length, length), after)
        first += count * length
