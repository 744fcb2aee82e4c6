"""How a network is cut over workers: who makes which part of each tensor, and what crosses."""

import math
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from groupconv.networks.cuts_picture import draw
from groupconv.networks.tensor_cut import TensorCut
from groupconv.pictures import picture_path, save
from groupconv.text import human_bytes, milliseconds, table


@dataclass(frozen=True, slots=True)
class NetworkCuts:
    """A network over several workers; `print(cuts)` shows a table.

    Attributes:
        workers: there are.
        tensors: what the nodes make, in their order.
        seconds: predicted, of a call.
        considered: for each number of workers that was considered, the predicted seconds.
        input_bytes: that the coordinator sends to workers.
        output_bytes: that it gets back.
        reason: why the network is cut so.
        nodes: how many workers each node has. Workers are numbered by node.
        between_nodes_bytes: what crosses between nodes, of `exchanged_bytes`.
    """

    workers: int
    tensors: tuple[TensorCut, ...]
    seconds: float
    considered: tuple[tuple[int, float], ...]
    input_bytes: int
    output_bytes: int
    reason: str
    nodes: tuple[int, ...] = ()
    between_nodes_bytes: int = 0

    @property
    def used(self) -> int:
        """Workers that make a part of any tensor."""
        return max((len(tensor.boxes) for tensor in self.tensors), default=1)

    @property
    def exchanged_bytes(self) -> int:
        """Bytes that workers send to one another."""
        return sum(tensor.exchanged_bytes for tensor in self.tensors)

    def picture(self, path: str | Path, title: str = "") -> None:
        """Draw who makes which part of each tensor, and what crosses.

        Args:
            path: of the picture, .png, .svg or .pdf.
            title: begins the line above it.

        Raises:
            InvalidArgumentError: another suffix.
            FailedPreconditionError: matplotlib is not installed (`pip install 'groupconv[pictures]'`).
        """
        file = picture_path("path", path)
        save(draw(self.tensors, self.used, f"{title}: {self._totals()}" if title else self._totals()), file)

    def as_dict(self) -> dict[str, Any]:
        """The plan for JSON."""
        return {
            "workers": self.workers,
            "used": self.used,
            "seconds": self.seconds,
            "considered": [{"workers": workers, "seconds": seconds} for workers, seconds in self.considered],
            "input_bytes": self.input_bytes,
            "output_bytes": self.output_bytes,
            "exchanged_bytes": self.exchanged_bytes,
            "nodes": self.nodes,
            "between_nodes_bytes": self.between_nodes_bytes,
            "reason": self.reason,
            "tensors": [{name: getattr(tensor, name) for name in TensorCut.__slots__} for tensor in self.tensors],
        }

    def __str__(self) -> str:
        rows = [("node", "operator", "output", "cut", "sent on", "compute", "exchange")]
        rows += [
            (t.node, t.op, "×".join(map(str, t.shape)) or "scalar", t.cut,
             human_bytes(t.exchanged_bytes) if t.exchanged_bytes else "-", milliseconds(t.seconds),
             milliseconds(t.exchange_seconds) if t.exchange_seconds else "-")
            for t in self.tensors
        ]  # fmt: skip
        times = ", ".join(f"{milliseconds(seconds)} on {workers}" for workers, seconds in self.considered)
        lines = [table(rows, left=frozenset({0, 1, 2, 3})), self._totals(), f"predicted: {times}", self.reason]
        return "\n".join(lines)

    def _totals(self) -> str:
        kinds = Counter(tensor.cut.split()[0] for tensor in self.tensors if math.prod(tensor.shape) > 1)
        cut = ", ".join(f"{count} by {kind}" for kind, count in kinds.most_common() if kind not in ("worker", "every"))
        crossing = f", {human_bytes(self.between_nodes_bytes)} between nodes" if len(self.nodes) > 1 else ""
        return (
            f"{self.used} of {self.workers} workers, {milliseconds(self.seconds)}"
            f"{f', tensors cut: {cut}' if cut else ', nothing is cut'}; {human_bytes(self.input_bytes)} in, "
            f"{human_bytes(self.output_bytes)} out, {human_bytes(self.exchanged_bytes)} between workers{crossing}"
        )
