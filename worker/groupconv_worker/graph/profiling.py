"""The time of each node of a model in onnxruntime, by its own profiler, in a session that is made for that.

The runtime fuses nodes and renames them. The name of a fused node is an output or the name of one of the model's nodes:
that node has the time, and the others are fused into it. Nodes that depend on constants alone have no time, as they are
computed when the session is made.
"""

import json
import re
import tempfile
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import Any, NamedTuple, Self

import onnx

from groupconv_worker.graph.sessions import make_session

RENAMED = re.compile(r"_nchwc(_token_\d+)?$")
"""The end of the name of a node with blocked channels; the name of its output comes before."""
SUFFIX = "_kernel_time"
"""The end of the name of an event that is the run of a node."""


class NodeTimes(NamedTuple):
    """The times of a graph's nodes, by their first outputs.

    Attributes:
        seconds: of the nodes that were timed.
        fused: for nodes that were fused into another one, the first output of that one.
    """

    seconds: dict[str, float]
    fused: dict[str, str]


class Profiler:
    """A session that takes the time of each node. A context manager, which removes its files.

    Args:
        model: in ONNX; its nodes are named anew.
        threads: that a run may use.

    Attributes:
        session: to be run; the last run counts.

    Raises:
        OSError: there is no room for its files: the optimized model, and what the profiler writes.
    """

    def __init__(self, model: onnx.ModelProto, threads: int) -> None:
        for number, node in enumerate(model.graph.node):
            node.name = f"node{number}"
        self._nodes = model.graph.node
        self._folder = tempfile.TemporaryDirectory(prefix="groupconv-profile-")
        self._path = Path(self._folder.name)
        try:
            self.session: Any = make_session(model.SerializeToString(), threads, self._path)
        except BaseException:
            self._folder.cleanup()
            raise

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        if kind is not None:
            self.session.end_profiling()
        self._folder.cleanup()

    def times(self) -> NodeTimes:
        """The times of the last run."""
        events = json.loads(Path(self.session.end_profiling()).read_text())
        spent = {
            event["name"].removesuffix(SUFFIX): event["dur"] / 1e6
            for event in events
            if event.get("cat") == "Node" and event["name"].endswith(SUFFIX)
        }
        optimized = onnx.load(self._path / "optimized.onnx", load_external_data=False).graph.node
        return of_nodes(self._nodes, optimized, spent)


def of_nodes(nodes: Any, optimized: Any, spent: Mapping[str, float]) -> NodeTimes:
    """The times of a model's nodes from those of the optimized model's.

    Args:
        nodes: of the model, with names of their own, in an order in which they can run.
        optimized: the runtime's, each named after what it is made of.
        spent: seconds, by the names of the optimized ones.
    """
    makers = {name: i for i, node in enumerate(nodes) for name in node.output if name}
    names = {node.name: i for i, node in enumerate(nodes)}
    owners: list[int | None] = []
    for node in optimized:
        known = [makers[name] for name in node.output if name in makers]
        named = makers.get(RENAMED.sub("", node.name), names.get(node.name))
        owners.append(known[0] if known else named)
    _give_to_readers(optimized, owners)
    _take_from_inputs(optimized, owners)
    by_owner: dict[int, float] = {}
    ops: dict[int, str] = {}
    for node, owner in zip(optimized, owners, strict=True):
        if owner is None or node.name not in spent:
            continue
        by_owner[owner] = by_owner.get(owner, 0.0) + spent[node.name]
        if not node.op_type.startswith("Reorder"):
            ops[owner] = node.op_type.removeprefix("Fused")
    into: dict[int, int] = {}
    for owner in sorted(by_owner):
        group = _unclaimed(nodes, makers, by_owner, into, owner)
        head = next((i for i in group if nodes[i].op_type == ops.get(owner)), owner)
        by_owner[head] = by_owner.pop(owner)
        into |= {i: head for i in (*group, owner) if i != head}
    for i, node in enumerate(nodes):
        if i not in by_owner and i not in into:
            before = [into.get(makers[name], makers[name]) for name in node.input if name in makers]
            claimed = [maker for maker in before if maker in by_owner]
            if claimed:
                into[i] = max(claimed)
    first = [next(filter(None, node.output), "") for node in nodes]
    return NodeTimes({first[i]: s for i, s in by_owner.items()}, {first[i]: first[head] for i, head in into.items()})


def _unclaimed(
    nodes: Any, makers: Mapping[str, int], by_owner: Mapping[int, float], into: Mapping[int, int], owner: int
) -> list[int]:
    """The nodes before `owner` that have no time of their own, and so were fused into it."""
    group: list[int] = []
    waiting = [owner]
    while waiting:
        for name in nodes[waiting.pop()].input:
            maker = makers.get(name)
            if maker is not None and maker not in by_owner and maker not in into and maker not in group:
                group.append(maker)
                waiting.append(maker)
    return sorted(group)


def _give_to_readers(optimized: Any, owners: list[int | None]) -> None:
    """Count a node that the runtime has added, such as a reorder, as the work of the node that reads its output."""
    readers: dict[str, int] = {}
    for i in reversed(range(len(optimized))):
        if owners[i] is None:
            owners[i] = next((readers[name] for name in optimized[i].output if name in readers), None)
        owner = owners[i]
        if owner is not None:
            readers |= dict.fromkeys(optimized[i].input, owner)


def _take_from_inputs(optimized: Any, owners: list[int | None]) -> None:
    """Count an added node that nothing reads as the work of the node whose output it reads."""
    makers_of: dict[str, int] = {}
    for i, node in enumerate(optimized):
        if owners[i] is None:
            owners[i] = next((makers_of[name] for name in node.input if name in makers_of), None)
        owner = owners[i]
        if owner is not None:
            makers_of |= dict.fromkeys(node.output, owner)
