"""Execution of a partition on the reference, all workers in one thread."""

from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np

from groupconv_worker.contract import Array
from groupconv_worker.graph.needed.box import Box
from groupconv_worker.graph.operators.matrices import ordered_product
from groupconv_worker.graph.operators.table import run_node, wide
from groupconv_worker.graph.partition.part import RECEIVE, SEND, Part
from groupconv_worker.graph.partition.partition import Partition

Mail = dict[tuple[str, int, int, Box], Array]
"""Boxes that were sent and not received yet, by tensor, sender, receiver and box."""


def run_partition(partition: Partition, inputs: Mapping[str, Array]) -> dict[str, Array]:
    """Compute a network part by part in float64, each worker with its own part of every tensor.

    Each worker goes on until it needs what has not been sent yet; then the next one does.

    Args:
        partition: of a graph whose operators all have a definition.
        inputs: of the whole graph, by name.

    Returns:
        The outputs of the whole graph; floats are float64. Sums are ordered (`ordered_product`).

    Raises:
        RuntimeError: every worker waits for another.
    """
    mail: Mail = {}
    values: list[dict[str, Any]] = []
    running: dict[int, Iterator[bool]] = {}
    for part in partition.parts:
        own = {name: wide(inputs[name][box.slices]) for name, box in part.inputs.items()}
        values.append({**{name: wide(array) for name, array in part.graph.constants.items()}, **own})
        running[part.worker] = _steps(part, values[-1], mail)
    while running:
        before = len(running)
        sent = False
        for worker, steps in list(running.items()):
            for waits in steps:
                if waits:
                    break
                sent = True
            else:
                del running[worker]
        if not sent and len(running) == before:
            raise RuntimeError(f"workers {sorted(running)} all wait for one another")
    outputs = {}
    for name, boxes in partition.outputs.items():
        whole: Array | None = None
        for worker, box in boxes:
            part = partition.parts[worker]
            piece = values[worker][name][box.relative(part.outputs[name]).slices]
            whole = np.empty(partition.graph.tensors[name].shape, piece.dtype) if whole is None else whole
            whole[box.slices] = piece
        if whole is not None:
            outputs[name] = whole
    return outputs


def _steps(part: Part, values: dict[str, Any], mail: Mail) -> Iterator[bool]:
    """Run a part node by node; True where it must wait, False where it has run a node."""
    for node in part.graph.nodes:
        if node.op == SEND:
            tensor, own = node.attributes["tensor"], node.attributes["own"]
            for peer, box in zip(node.attributes["peers"], node.attributes["boxes"], strict=True):
                mail[tensor, part.worker, peer, box] = values[node.inputs[0]][box.relative(own).slices].copy()
        elif node.op == RECEIVE:
            tensor, box = node.attributes["tensor"], node.attributes["box"]
            pieces = list(zip(node.attributes["peers"], node.attributes["boxes"], strict=True))
            while not all((tensor, peer, part.worker, piece) in mail for peer, piece in pieces):
                yield True
            dtype = part.graph.tensors[node.outputs[0]].dtype
            assembled = wide(np.zeros(box.shape, dtype))
            if node.inputs:
                own = node.attributes["own"]
                overlap = own.common(box)
                assembled[overlap.relative(box).slices] = values[node.inputs[0]][overlap.relative(own).slices]
            for peer, piece in pieces:
                assembled[piece.relative(box).slices] = mail.pop((tensor, peer, part.worker, piece))
            values[node.outputs[0]] = assembled
        else:
            values.update(run_node(part.graph, node, values, ordered_product))
        yield False
