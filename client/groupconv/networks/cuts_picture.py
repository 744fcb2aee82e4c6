"""The picture of a cut network: a bar for each tensor, with a field for each worker's part."""

import math
from collections.abc import Sequence
from typing import Any

from groupconv.networks.tensor_cut import TensorCut
from groupconv.pictures import SEVERAL, SHARED, figure, look
from groupconv.text import human_bytes

ROW = 0.19
"""Inches of a tensor's bar."""
MOST = 160
"""Tensors in a picture; of a larger network those with the most elements are drawn."""


def draw(tensors: Sequence[TensorCut], workers: int, title: str) -> Any:
    """The picture as a matplotlib figure.

    Args:
        tensors: in the order of their nodes.
        workers: that make parts.
        title: above it.
    """
    from matplotlib.patches import Patch

    shown = list(tensors)
    if len(shown) > MOST:
        least = sorted((math.prod(tensor.shape) for tensor in shown), reverse=True)[MOST - 1]
        shown = [tensor for tensor in shown if math.prod(tensor.shape) >= least][:MOST]
    fig = figure(11, 1.4 + ROW * len(shown))
    bars, bytes_ = fig.subplots(1, 2, sharey=True, width_ratios=(3, 1))
    for row, tensor in enumerate(shown):
        for left, width, worker in parts(tensor.boxes, tensor.shape):
            style = look(worker) if worker is not None else None
            bars.barh(
                row, width, left=left, height=0.8, color=style.color if style else SHARED, edgecolor="black",
                linewidth=0.4, hatch=style.hatch if style else SEVERAL,
            )  # fmt: skip
        if tensor.exchanged_bytes:
            bytes_.barh(row, tensor.exchanged_bytes, height=0.8, color="#444444")
            bytes_.annotate(
                human_bytes(tensor.exchanged_bytes), (tensor.exchanged_bytes, row), (3, 0),
                textcoords="offset points", va="center", fontsize=6,
            )  # fmt: skip
    names = [f"{t.node[-28:]}  {t.op}  {'×'.join(map(str, t.shape))}" for t in shown]
    bars.set_yticks(range(len(shown)), names, fontsize=6)
    bars.set_xlim(0, 1)
    bars.set_xticks([])
    bars.set_xlabel("part of the tensor that each worker makes", fontsize=8)
    bytes_.set_xlabel("bytes", fontsize=8)
    bytes_.set_title("sent to other workers", fontsize=8, loc="left")
    bytes_.set_xticks([])
    bytes_.margins(x=0.35)
    for side in ("top", "right", "bottom"):
        bytes_.spines[side].set_visible(False)
    bars.set_ylim(len(shown) - 0.4, -0.6)
    handles = [
        Patch(facecolor=look(w).color, hatch=look(w).hatch, edgecolor="black", label=f"worker {w}")
        for w in range(min(workers, 24))
    ]
    handles.append(Patch(facecolor=SHARED, hatch=SEVERAL, edgecolor="black", label="every worker"))
    fig.legend(handles=handles, loc="outside lower center", ncols=9, frameon=False, fontsize=7)
    fig.suptitle(title, fontsize=9)
    return fig


def parts(boxes: Sequence[Any], shape: Sequence[int]) -> list[tuple[float, float, int | None]]:
    """Where each worker's field begins, and its width, of 1 for the whole; the worker is None where all make all.

    Example:
        >>> parts([((0, 1), (0, 2)), ((0, 1), (2, 8))], (1, 8))
        [(0.0, 0.25, 0), (0.25, 0.75, 1)]
        >>> parts([((0, 4),), ((0, 4),)], (4,))
        [(0.0, 1.0, None)]
    """
    held = [(worker, box) for worker, box in enumerate(boxes) if box is not None]
    if len(held) > 1 and len({box for _, box in held}) == 1:
        return [(0.0, 1.0, None)]
    bars: list[tuple[float, float, int | None]] = []
    left = 0.0
    for worker, box in held:
        width = math.prod(stop - start for start, stop in box) / max(1, math.prod(shape))
        bars.append((left, width, worker))
        left += width
    return bars
