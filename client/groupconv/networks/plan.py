"""What a call of a network computes, and how one was answered."""

import html
from dataclasses import asdict, dataclass
from fractions import Fraction
from pathlib import Path
from typing import Any

from groupconv.convolution.html import html_table
from groupconv.convolution.totals import Window
from groupconv.networks.cuts import NetworkCuts
from groupconv.networks.nodes import NodePlan
from groupconv.networks.picture import draw
from groupconv.networks.tensors import TensorInfo
from groupconv.pictures import picture_path, save
from groupconv.text import human_bytes, milliseconds, table


@dataclass(frozen=True, slots=True)
class PartReport:
    """Operators that were run as one.

    Attributes:
        algorithm: who ran them.
        nodes: their number.
        seconds: in the worker.
        reason: why this algorithm ran them.
    """

    algorithm: str
    nodes: int
    seconds: float
    reason: str


@dataclass(frozen=True, slots=True)
class ExchangeReport:
    """What one worker sent to another one, without the coordinator.

    Attributes:
        tensor: of which it is a part.
        bytes: of it.
        source, target: ids of the workers.
    """

    tensor: str
    bytes: int
    source: str
    target: str


@dataclass(frozen=True, slots=True)
class NetworkReport:
    """How a call was answered; `print(report)` shows it.

    Attributes:
        worker: id of the worker that ran it; of a network that was cut, the ids of all with commas between them.
        parts: what the network was run in, in order.
        coordinator_bytes: of inputs and outputs that passed through the coordinator.
        seconds: from a parsed request to its outputs.
        exchanges: what the workers of a network that was cut sent each other.
        cut: what it was cut along over the workers.
    """

    worker: str
    parts: tuple[PartReport, ...]
    coordinator_bytes: int
    seconds: float
    exchanges: tuple[ExchangeReport, ...] = ()
    cut: str = "nothing"

    def __str__(self) -> str:
        lines = [f"{milliseconds(self.seconds)} on {self.worker}, {human_bytes(self.coordinator_bytes)} in and out"]
        lines += [f"{p.nodes} nodes by {p.algorithm} in {milliseconds(p.seconds)}: {p.reason}" for p in self.parts]
        if self.exchanges:
            sent: dict[tuple[str, str], int] = {}
            for exchange in self.exchanges:
                sent[exchange.source, exchange.target] = (
                    sent.get((exchange.source, exchange.target), 0) + exchange.bytes
                )
            lines += [f"{human_bytes(count)} from {source} to {target}" for (source, target), count in sent.items()]
        return "\n".join(lines)


@dataclass(frozen=True, slots=True)
class NetworkPlan:
    """What a call with inputs of certain shapes computes; `print(plan)` shows a table.

    The table's shares are of all multiply-adds; "sees" is the receptive field, in elements of the input.
    Once nodes were timed, "time" is that of each node, and "of all" its share of the sum. A node that is fused into
    another one has no time of its own, and one that is computed from constants beforehand none at all.

    Attributes:
        nodes: the operators in order.
        outputs: the network's outputs, with all extents that are known before the call.
        peak_bytes: of all tensors that are alive at the same time, as far as their shapes are known.
        last: how the last call of this version was answered, with inputs of any shape; None before the first one.
        cuts: how the network would be cut over the workers that were asked for; None if none were.
    """

    nodes: tuple[NodePlan, ...]
    outputs: tuple[TensorInfo, ...]
    peak_bytes: int
    last: NetworkReport | None = None
    cuts: NetworkCuts | None = None

    @property
    def weights(self) -> int:
        """Number of all weights."""
        return sum(node.weights for node in self.nodes)

    @property
    def multiply_adds(self) -> int:
        """Multiply-adds of all convolutions and matrix products."""
        return sum(node.multiply_adds for node in self.nodes)

    @property
    def _end(self) -> NodePlan | None:
        """The node that makes the first output."""
        name = self.outputs[0].name if self.outputs else ""
        return next((node for node in reversed(self.nodes) if name in node.outputs), None)

    @property
    def receptive_field(self) -> tuple[int, ...] | None:
        """Input elements per axis that an element of the first output depends on; None where nothing limits it."""
        return None if self._end is None else self._end.receptive_field

    @property
    def stride(self) -> tuple[float, ...] | None:
        """Input elements per axis between neighbors in the first output; None where each depends on the whole."""
        return None if self._end is None else self._end.stride

    @property
    def windows(self) -> tuple[Window, ...] | None:
        """All operators as one window, for `groupconv.receptive_field`; None without a receptive field or a stride."""
        field, stride = self.receptive_field, self.stride
        if field is None or stride is None:
            return None
        return (Window(field, tuple(Fraction(s).limit_denominator(2**16) for s in stride), (1,) * len(field)),)

    def as_dict(self) -> dict[str, Any]:
        """The plan for JSON."""
        return {
            "nodes": [asdict(node) for node in self.nodes],
            "outputs": [{"name": info.name, "dtype": str(info.dtype), "shape": info.shape} for info in self.outputs],
            "weights": self.weights,
            "multiply_adds": self.multiply_adds,
            "peak_bytes": self.peak_bytes,
            "last": None if self.last is None else asdict(self.last),
            "cuts": None if self.cuts is None else self.cuts.as_dict(),
        }

    def picture(self, path: str | Path, title: str = "") -> None:
        """Draw the network: its operators from the first to the last, what they read, their shapes and work.

        Args:
            path: of the picture, .png, .svg or .pdf.
            title: begins the line above it.

        Raises:
            InvalidArgumentError: another suffix.
            FailedPreconditionError: matplotlib is not installed (`pip install 'groupconv[pictures]'`).
        """
        file = picture_path("path", path)
        counts = f"{len(self.nodes)} operators, {self.weights:,} weights, {self.multiply_adds:,} multiply-adds"
        save(draw(self.nodes, f"{title}: {counts}" if title else counts), file)

    def __repr__(self) -> str:
        return f"NetworkPlan({len(self.nodes)} operators, {self._totals()})"

    def __str__(self) -> str:
        lines = [table(self._rows(), left=frozenset({0, 1, 2, 3, 9})), self._totals()]
        lines += [f"output {info}" for info in self.outputs]
        lines += [] if self.last is None else [f"last call: {self.last}"]
        return "\n".join(lines if self.cuts is None else [*lines, "", str(self.cuts)])

    def _repr_html_(self) -> str:
        lines = (self._totals(), *(f"output {info}" for info in self.outputs))
        return f"{html_table(self._rows())}<p>{'<br>'.join(map(html.escape, lines))}</p>"

    def _totals(self) -> str:
        return f"{self.weights:,} weights, {self.multiply_adds:,} multiply-adds, {human_bytes(self.peak_bytes)} at most"

    def _rows(self) -> list[tuple[str, ...]]:
        whole = self.multiply_adds or 1
        spent = sum(node.seconds or 0.0 for node in self.nodes)
        rows: list[tuple[str, ...]] = [
            ("node", "operator", "window", "output", "weights", "multiply-adds", "share", "sees", "stride", "runs on"),
            *(
                (node.name, node.op, node.window or "-",
                 "?" if node.shape is None else "×".join(map(str, node.shape)) or "scalar",
                 f"{node.weights:,}" if node.weights else "-", f"{node.multiply_adds:,}" if node.multiply_adds else "-",
                 f"{node.multiply_adds / whole:.1%}" if node.multiply_adds else "-",
                 extents(node.receptive_field), extents(node.stride), node.algorithm)
                for node in self.nodes
            ),
        ]  # fmt: skip
        if not spent:
            return rows
        times = [
            (f"in {n.fused_into}" if n.fused_into else "none", "-")
            if n.seconds is None
            else (milliseconds(n.seconds), f"{n.seconds / spent:.1%}")
            for n in self.nodes
        ]
        return [(*row, *more) for row, more in zip(rows, [("time", "of all"), *times], strict=True)]


def extents(values: tuple[float, ...] | None) -> str:
    """Extents for people.

    Example:
        >>> extents((3, 3)), extents((0.5, 2.0)), extents(None)
        ('3×3', '0.5×2', '-')
    """
    return "-" if not values else "×".join(f"{value:g}" if value < 1e6 else f"{value:.0f}" for value in values)
