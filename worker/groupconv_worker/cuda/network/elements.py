"""Elementwise operators, with broadcasting: those that follow one another are one launch."""

import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

from groupconv_worker.contract import Array
from groupconv_worker.cuda.network.arguments import ELEMENTS, OPERANDS, STEPS, TYPES, fill_axes
from groupconv_worker.cuda.network.instances import ELEMENTS as KERNEL
from groupconv_worker.cuda.network.lowering import CudaLowering, Views
from groupconv_worker.graph.graph import Node, UnsupportedNodeError
from groupconv_worker.graph.strides import broadcast

CODES = [
    "Abs", "Acos", "Acosh", "Asin", "Asinh", "Atan", "Atanh", "Ceil", "Clip", "Cos", "Cosh", "Elu", "Erf",
    "Exp", "Floor", "Gelu", "GeluTanh", "HardSigmoid", "HardSwish", "IsInf", "IsNaN", "LeakyRelu", "Log", "Mish", "Neg",
    "Not", "Reciprocal", "Round", "Selu", "Shrink", "Sigmoid", "Sign", "Silu", "Sin", "Sinh", "Softplus", "Softsign",
    "Sqrt", "Square", "Swish", "Tan", "Tanh", "ThresholdedRelu", "Truncate",
    "Add", "And", "Div", "Equal", "Greater", "GreaterOrEqual", "Less", "LessOrEqual", "Max", "Min", "Mod", "Fmod",
    "Mul", "Or", "Pow", "PRelu", "Sub", "SubFrom", "DivInto", "Xor", "Where",
]  # fmt: skip
"""`Code` of kernels/elements.cu, in its order."""
CODE = {name: number for number, name in enumerate(CODES)}
FIRST_OF_TWO = CODE["Add"]
SELU = (1.67326319217681884765625, 1.05070102214813232421875)
PARAMETERS: dict[str, tuple[tuple[str, float], ...]] = {
    "Celu": (("alpha", 1.0),),
    "Clip": (("min", -math.inf), ("max", math.inf)),
    "Elu": (("alpha", 1.0),),
    "HardSigmoid": (("alpha", 0.2), ("beta", 0.5)),
    "IsInf": (("detect_positive", 1), ("detect_negative", 1)),
    "LeakyRelu": (("alpha", 0.01),),
    "Selu": (("alpha", SELU[0]), ("gamma", SELU[1])),
    "Shrink": (("lambd", 0.5), ("bias", 0.0)),
    "Swish": (("alpha", 1.0),),
    "ThresholdedRelu": (("alpha", 1.0),),
}
"""Attributes that are parameters of a function of one element, and what they are where a node gives none."""
SWAPPED = {
    **{name: name for name in ("Add", "And", "Equal", "Max", "Min", "Mul", "Or", "Xor")},
    "Sub": "SubFrom",
    "Div": "DivInto",
    "Greater": "Less",
    "Less": "Greater",
    "GreaterOrEqual": "LessOrEqual",
    "LessOrEqual": "GreaterOrEqual",
}
"""Operators of two elements that take them in the other order, too, as the one named."""
UNARY = frozenset(CODES[:FIRST_OF_TWO]) - {"GeluTanh", "Square", "Truncate"} | {"Relu", "Celu"}
BINARY = frozenset(CODES[FIRST_OF_TWO:]) - {"Fmod", "SubFrom", "DivInto", "Where"}
FOLDED = {"Max": "Max", "Min": "Min", "Sum": "Add", "Mean": "Add"}
"""Operators of any number of inputs."""
EXACT = frozenset(np.dtype(name) for name in ("float32", "bool", "uint8", "int8"))
"""Elements whose sums and products are computed as float32 without rounding."""
NARROW = EXACT | {np.dtype(np.int16), np.dtype(np.uint16)}
"""Elements that a float32 holds."""


class ElementOp(NamedTuple):
    """What is done with a value.

    Attributes:
        code: a name of `CODES`.
        b, c: tensors whose elements are the second and third value.
        p, q: parameters.
    """

    code: str
    b: str = ""
    c: str = ""
    p: float = 0.0
    q: float = 0.0


class Chain(NamedTuple):
    """Steps from the elements of one tensor to those of another, in one launch.

    Attributes:
        x: the tensor that it starts with.
        steps: in order.
        y: what it makes.
    """

    x: str
    steps: tuple[ElementOp, ...]
    y: str

    @property
    def operands(self) -> list[str]:
        """The tensors that it reads, `x` first."""
        return list(dict.fromkeys((self.x, *(name for step in self.steps for name in (step.b, step.c) if name))))

    def fits(self) -> bool:
        """Whether one launch holds it."""
        return len(self.operands) <= OPERANDS and len(self.steps) <= STEPS

    def struct(self, low: CudaLowering) -> Array:
        """The kernel's argument, without addresses."""
        operands, shape, struct = self.operands, low.shape(self.y), np.zeros((), ELEMENTS)
        strides = [broadcast(low.shape(name), shape) for name in operands]
        struct["axes"] = fill_axes(struct["extent"], shape, *zip(struct["step"], strides, strict=False))
        struct["size"], struct["to"], struct["steps"] = math.prod(shape), TYPES[low.dtype(self.y)], len(self.steps)
        struct["type"][: len(operands)] = [TYPES[low.dtype(name)] for name in operands]
        for i, step in enumerate(self.steps):
            b, c = (operands.index(name) if name else 0 for name in (step.b, step.c))
            struct["chain"][i] = CODE[step.code], b, c, step.p, step.q
        return struct


def function(name: str, *given: float) -> ElementOp:
    """A function of one element with its parameters.

    Example:
        >>> function("Relu")
        ElementOp(code='Clip', b='', c='', p=0.0, q=inf)
    """
    if name == "Relu":
        return ElementOp("Clip", p=0.0, q=math.inf)
    defaults = [value for _, value in PARAMETERS.get(name, ())]
    p, q = [*given, *defaults[len(given) :], 0.0, 0.0][:2]
    if name == "Elu":
        return ElementOp("Elu", p=1.0, q=p)
    if name == "Celu":
        return ElementOp("Elu", p=p, q=p)
    return ElementOp(name, p=p, q=q)


def function_of(node: Node) -> ElementOp:
    """The function of a node of one input."""
    if node.op == "Gelu" and node.attribute("approximate", "none") == "tanh":
        return ElementOp("GeluTanh")
    return function(node.op, *(node.attribute(name, default) for name, default in PARAMETERS.get(node.op, ())))


def activation(node: Node) -> list[ElementOp]:
    """The step of a node's fused activation, if it has one."""
    arguments = node.attribute("activation", ())
    return [function(*arguments)] if arguments else []


def lower_unary(low: CudaLowering, node: Node) -> None:
    """Any of `UNARY`."""
    if any(node.inputs[1:]):
        raise UnsupportedNodeError("bounds that are no constants")
    extend(low, node.inputs[0], [function_of(node)], node.outputs[0])


def lower_binary(low: CudaLowering, node: Node) -> None:
    """Any of `BINARY`."""
    a, b = node.inputs
    if node.op == "Pow":
        low.floats(a, b)
    code = "Fmod" if node.op == "Mod" and node.attribute("fmod", 0) else node.op
    if code == "Pow" and (power := low.constant(b)) is not None and power.size == 1 and float(power.reshape(())) == 2:
        same = low.shape(a) == low.shape(node.outputs[0])
        extend(low, a, [ElementOp("Square")] if same else [ElementOp(code, b)], node.outputs[0])
    elif code in SWAPPED and not extends(low, a, node.outputs[0]) and extends(low, b, node.outputs[0]):
        extend(low, b, [ElementOp(SWAPPED[code], a)], node.outputs[0])
    else:
        extend(low, a, [ElementOp(code, b)], node.outputs[0])


def lower_folded(low: CudaLowering, node: Node) -> None:
    """Max, Min, Sum and Mean of any number of inputs."""
    first, *others = node.inputs
    steps = [ElementOp(FOLDED[node.op], name) for name in others]
    if node.op == "Mean":
        steps.append(ElementOp("Mul", low.send(f"{node.outputs[0]}/count", np.array(1 / len(node.inputs), np.float32))))
    while len(steps) + 1 > OPERANDS:  # the constant of a mean is one, too
        some, steps = steps[: OPERANDS - 1], steps[OPERANDS - 1 :]
        shapes = [low.shape(first), *(low.shape(step.b) for step in some)]
        part = low.between(np.broadcast_shapes(*shapes))
        write(low, Chain(first, tuple(some), part))
        first = part
    extend(low, first, steps, node.outputs[0])


def lower_where(low: CudaLowering, node: Node) -> None:
    """Where."""
    condition, a, b = node.inputs
    extend(low, condition, [ElementOp("Where", a, b)], node.outputs[0])


def lower_cast(low: CudaLowering, node: Node) -> None:
    """Cast: to and from all of `TYPES`, by way of float32."""
    x, y = node.inputs[0], node.outputs[0]
    if low.dtype(x) not in TYPES or low.dtype(y) not in TYPES or not {low.dtype(x), low.dtype(y)} & NARROW:
        raise UnsupportedNodeError(f"from {low.dtype(x)} to {low.dtype(y)}")
    steps = (ElementOp("Truncate"),) if low.dtype(y).kind in "iu" else ()
    write(low, Chain(x, steps, y))


def extends(low: CudaLowering, x: str, y: str) -> bool:
    """Whether what makes y may go on with the chain that makes x, instead of a launch of its own."""
    chain = low.chain
    return (
        isinstance(chain, Chain)
        and chain.y == x
        and low.launches[-1].writes == (x,)
        and low.shape(x) == low.shape(y)
        and low.readers.get(x) == 1
        and low.dtype(x) in (np.float32, np.bool_)
    )


def extend(low: CudaLowering, x: str, steps: Sequence[ElementOp], y: str) -> None:
    """y = steps(x), as more steps of the chain that makes x where that can be."""
    for name in (x, y, *(n for step in steps for n in (step.b, step.c) if n)):
        if low.dtype(name) not in EXACT:
            raise UnsupportedNodeError(f"elements of {low.dtype(name)}")
    if extends(low, x, y) and all(x not in (step.b, step.c) for step in steps):  # else x has to be written
        longer = Chain(low.chain.x, (*low.chain.steps, *steps), y)
        if longer.fits():
            low.launches.pop()
            write(low, longer)
            return
    write(low, Chain(x, tuple(steps), y))


def write(low: CudaLowering, chain: Chain) -> None:
    """Launch a chain."""
    operands, y, struct = [low.needed(name) for name in chain.operands], low.made(chain.y), chain.struct(low)

    def arguments(views: Views) -> tuple[Any, ...]:
        filled = struct.copy()
        filled["operand"][: len(operands)] = [views[name].data.ptr for name in operands]
        return views[y], filled

    low.kernel(KERNEL, operands, y, arguments)
    low.chain = chain
