"""The definition of a shard, sent once per connection and then referred to by a number, and the layout of its arrays.

A definition has everything but elements: the problem of each stage, dtypes and shapes, and which weights are resident.
It travels as JSON. The arrays lie one behind the other: input, output, weights that are sent each time, and last those
of resident layers, which are sent only when the worker asks for them.
"""

import json
import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from typing import Any, NamedTuple, Self

import numpy as np

from groupconv.convolution.dtypes import DTYPES, Types
from groupconv.convolution.geometry import Geometry
from groupconv.convolution.spec import Activation
from groupconv_worker.contract import Array, Problem
from groupconv_worker.lanes.memory import MappedMemory
from groupconv_worker.resident import ResidentKey
from groupconv_worker.shard import Stage

ALIGNMENT = 64
"""Arrays begin at multiples of this many bytes: a cache line, and the widest vector."""
NUMBERS = 256
"""Definitions that a connection remembers."""
NO_WEIGHTS = np.empty(0)
"""In place of a weight that does not travel."""


class ArrayHeader(NamedTuple):
    """An array without its elements."""

    dtype: np.dtype
    shape: tuple[int, ...]

    @property
    def nbytes(self) -> int:
        """Bytes of the elements."""
        return math.prod(self.shape) * self.dtype.itemsize


class StageHeader(NamedTuple):
    """A stage without its elements."""

    problem: Problem
    weight: ArrayHeader
    bias: ArrayHeader | None
    key: ResidentKey | None


class _Weight(NamedTuple):
    """A weight or bias of a stage: its position in memory, and whether a resident layer keeps it."""

    stage: int
    kept: bool
    kind: ArrayHeader
    offset: int


@dataclass(frozen=True)
class ShardHeader:
    """The definition of a shard, and the layout of its arrays.

    Attributes:
        x, out: the input and the output.
        parts: the stages.
        size: bytes of the arrays that always travel.
        full: bytes of all of them.
    """

    x: ArrayHeader
    parts: tuple[StageHeader, ...]
    out: ArrayHeader = field(init=False)
    size: int = field(init=False)
    full: int = field(init=False)
    _weights: tuple["_Weight", ...] = field(init=False, repr=False)

    def __post_init__(self) -> None:
        last = self.parts[-1].problem
        out = ArrayHeader(last.types.output, last.geometry.output_shape)
        at = size = _aligned(self.x.nbytes) + _aligned(out.nbytes)
        weights = []
        for resident in (False, True):
            for i, part in enumerate(self.parts):
                for kind in (part.weight, part.bias) if (part.key is not None) == resident else ():
                    if kind is not None:
                        weights.append(_Weight(i, resident, kind, at))
                        at += _aligned(kind.nbytes)
            size = size if resident else at
        for name, value in (("out", out), ("size", size), ("full", at), ("_weights", tuple(weights))):
            object.__setattr__(self, name, value)

    @classmethod
    def of(cls, x: Array, stages: Sequence[Stage]) -> Self:
        """The definition of a shard."""
        return cls(ArrayHeader(x.dtype, x.shape), tuple(_part(stage) for stage in stages))

    def arrays(self, memory: MappedMemory) -> tuple[Array, Array]:
        """The input and the output in a memory."""
        return memory.array(0, *self.x), memory.array(_aligned(self.x.nbytes), *self.out)

    def weights(self, memory: MappedMemory, *, full: bool) -> list[Array]:
        """The weights and biases in a memory, in the order of `weights_of`."""
        return [memory.array(weight.offset, *weight.kind) for weight in self._weights if full or not weight.kept]

    def stages(self, memory: MappedMemory, *, full: bool) -> tuple[Stage, ...]:
        """The stages with the weights in a memory; a weight that was not sent is an empty array."""
        by_stage: list[list[Array]] = [[] for _ in self.parts]
        for weight in self._weights:
            if full or not weight.kept:
                by_stage[weight.stage].append(memory.array(weight.offset, *weight.kind))
        return tuple(
            Stage(part.problem, arrays[0] if arrays else NO_WEIGHTS, arrays[1] if len(arrays) > 1 else None, part.key)
            for part, arrays in zip(self.parts, by_stage, strict=True)
        )

    def to_json(self) -> bytes:
        """The definition as JSON.

        Example:
            >>> from groupconv import ConvSpec, resolve
            >>> from groupconv.convolution.dtypes import types_of
            >>> x, w = np.zeros((1, 2, 4)), np.zeros((2, 1, 3))
            >>> problem = Problem(resolve(ConvSpec(groups=2), x.shape, w.shape), types_of(x.dtype, w.dtype))
            >>> key = ResidentKey("edge", 1, 0, ((0, 2), (0, 1), (0, 3)))
            >>> shard = ShardHeader.of(x, [Stage(problem, w, None, key)])
            >>> ShardHeader.from_json(shard.to_json()) == shard, shard.size, shard.full
            (True, 128, 192)
        """
        parts = [
            {
                "geometry": asdict(part.problem.geometry),
                "types": [t.name for t in part.problem.types],
                "weight": _kind_to(part.weight),
                "bias": None if part.bias is None else _kind_to(part.bias),
                "key": part.key,
            }
            for part in self.parts
        ]
        return json.dumps({"x": _kind_to(self.x), "parts": parts}).encode()

    @classmethod
    def from_json(cls, text: bytes) -> Self:
        """From JSON.

        Raises:
            ValueError, KeyError, TypeError: it is not a definition.
        """
        fields = json.loads(text)
        return cls(_kind_from(fields["x"]), tuple(_part_from(part) for part in fields["parts"]))


def weights_of(stages: Sequence[Stage], *, full: bool) -> list[Array]:
    """The weights and biases that travel; without `full` not those of resident layers."""
    return [
        array
        for resident in ((False, True) if full else (False,))
        for stage in stages
        if (stage.key is not None) == resident
        for array in (stage.weight, stage.bias)
        if array is not None
    ]


def _part(stage: Stage) -> StageHeader:
    weight, bias = stage.weight, stage.bias
    return StageHeader(
        stage.problem,
        ArrayHeader(weight.dtype, weight.shape),
        None if bias is None else ArrayHeader(bias.dtype, bias.shape),
        stage.key,
    )


def _part_from(fields: dict[str, Any]) -> StageHeader:
    g = {name: _tuples(value) for name, value in fields["geometry"].items()}
    if g["activation"] is not None:
        g["activation"] = Activation(g["activation"]["kind"], _tuples(g["activation"]["slope"]))
    key = fields["key"]
    return StageHeader(
        Problem(Geometry(**g), Types(*(DTYPES[name] for name in fields["types"]))),
        _kind_from(fields["weight"]),
        None if fields["bias"] is None else _kind_from(fields["bias"]),
        None if key is None else ResidentKey(*map(_tuples, key)),
    )


def _kind_to(kind: ArrayHeader) -> list[Any]:
    return [kind.dtype.name, *kind.shape]


def _kind_from(fields: list[Any]) -> ArrayHeader:
    return ArrayHeader(DTYPES[fields[0]], tuple(fields[1:]))


def _tuples(value: Any) -> Any:
    return tuple(map(_tuples, value)) if isinstance(value, list) else value


def _aligned(size: int) -> int:
    return -(-size // ALIGNMENT) * ALIGNMENT
