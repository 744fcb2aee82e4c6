"""A network of which a runtime computes some parts: programs of ours, and sessions of onnxruntime between them.

All tensors that go from part to part lie in one arena, in C order, where both sides read and write them. Nothing is
copied for the turn from the one to the other, apart from maps, which a program brings into C order.
"""

import contextlib
import itertools
import sys
import time
from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any, NamedTuple

import numpy as np
import onnxruntime
from onnx import helper

from groupconv_worker.contract import Array
from groupconv_worker.cpu.network import convolutions
from groupconv_worker.cpu.network.assembly import Assembly
from groupconv_worker.cpu.network.lowering import FIRST_INPUT, CpuLowering
from groupconv_worker.cpu.network.network import (
    LOWER,
    CompiledNetwork,
    KernelsMissingError,
    check_samples,
)
from groupconv_worker.cpu.network.planning import plan
from groupconv_worker.cpu.network.pointwise import POINTWISE
from groupconv_worker.cpu.network.simplified import simplified
from groupconv_worker.cpu.network.timing import Stamped, owners
from groupconv_worker.cpu.program import Program, address
from groupconv_worker.cpu.stages import SCRATCH, Address, KernelStage
from groupconv_worker.cpu.threads import Team
from groupconv_worker.cpu.workspace import BufferPool
from groupconv_worker.graph.exporting import boundary, export
from groupconv_worker.graph.fragments import ISLAND, MOST, Fragment, split
from groupconv_worker.graph.graph import Graph, Node, Tensor, UnsupportedNodeError, output_arrays
from groupconv_worker.graph.profiling import NodeTimes, Profiler
from groupconv_worker.graph.sessions import first_line, make_session
from groupconv_worker.graph.work import seconds
from groupconv_worker.job import current

ROUNDS = 4
"""Times that nodes may turn out to be the runtime's, as those before them are and give no map."""
FRAGMENT = "Fragment"
"""The operator of a node that stands for a part of the runtime's."""


class _Session(NamedTuple):
    """A part of the runtime's: what runs it, and where its tensors lie."""

    session: Any
    tensors: Sequence[tuple[str, Tensor, Address | Array]]
    inputs: int


class FragmentedNetwork:
    """A graph as programs and sessions. Safe to call from several threads.

    Args:
        graph: with known shapes, of which some nodes have no lowering.
        team: the threads.
        island: seconds, as of `graph.fragments.split`.

    Attributes:
        what: what it is, in reports.
        parts: who computes what, in order.
        reasons: why the nodes of the runtime's are its, by their first outputs.

    Raises:
        UnsupportedNodeError: too little of the graph is ours, or it falls into too many parts.
        KernelsMissingError: as of `CompiledNetwork`.
    """

    what = "programs, and sessions between them"

    def __init__(self, graph: Graph, team: Team, *, island: float = ISLAND) -> None:
        check_samples(graph)
        graph = simplified(graph)
        self._inputs = [graph.tensors[name] for name in graph.inputs]
        self._outputs = [graph.tensors[name] for name in graph.outputs]
        self.reasons: dict[str, str] = {}
        for _ in range(ROUNDS):
            self.parts = split(graph, self.reasons, island)
            _check_parts(graph, self.parts, self.reasons, island)
            joined, fragments = _joined(graph, self.parts)
            more: dict[str, str] = {}
            assembly, sessions = Assembly(), list[_Session]()
            planned = plan(joined, POINTWISE, partial(convolutions.margin, joined))
            fragment = partial(_lower_fragment, sessions)
            CpuLowering(joined, planned, assembly).run(LOWER | {FRAGMENT: fragment}, more)
            if not more:
                break
            self.reasons |= more
        else:
            raise UnsupportedNodeError(next(iter(self.reasons.values())))
        if assembly.missing:
            raise KernelsMissingError(tuple(assembly.missing))
        stages, self.arena_bytes = assembly.placed()
        self._arenas, self._threads = BufferPool(sys.maxsize), team.threads
        self._model_bytes = 0
        self._steps: list[Program | _Session] = []
        buffers = BufferPool(sys.maxsize)
        self._own: list[tuple[list[KernelStage], list[str]]] = []
        own: tuple[list[KernelStage], list[str]] = [], []
        for stage, owner in zip([*stages, None], [*owners(assembly.ends, len(stages)), ""], strict=True):
            if stage is not None and stage.function >= 0:
                own[0].append(self._moved(stage))
                own[1].append(owner)
                continue
            if own[0]:
                self._steps.append(Program(team, buffers, own[0]))
                self._own.append(own)
                own = [], []
            if stage is not None:
                number = -stage.function - 1
                self._steps.append(self._session(graph, fragments[number], sessions[number], stage.words, team.threads))

    @property
    def nbytes(self) -> int:
        """Bytes of packed weights, tables, the sessions' weights and one arena."""
        programs = sum(step.nbytes + step.bytes for step in self._steps if isinstance(step, Program))
        return programs + self._model_bytes + self.arena_bytes

    def run(self, inputs: Mapping[str, Array], into: Mapping[str, Array] | None = None) -> dict[str, Array]:
        """Run it once, as `CompiledNetwork.run` does."""
        return self.timed(inputs, into)[0]

    def timed(
        self, inputs: Mapping[str, Array], into: Mapping[str, Array] | None = None
    ) -> tuple[dict[str, Array], list[float]]:
        """Run it once; also the seconds of each part."""
        return self._run(self._steps, inputs, into)

    def node_seconds(self, inputs: Mapping[str, Array], graph: Graph) -> NodeTimes:
        """Run it twice, and say how long each node took in the second run, those of sessions by the runtime's profiler.

        Args:
            inputs: by name.
            graph: of which it was made.
        """
        graph = simplified(graph)
        stamped = [Stamped(*own) for own in self._own]
        waiting = iter(stamped)
        times = NodeTimes({}, {})
        with contextlib.ExitStack() as stack:
            profilers = [
                stack.enter_context(Profiler(export(graph, part.nodes, *boundary(graph, part.nodes)), self._threads))
                for part in self.parts
                if not part.ours
            ]
            sessions = iter(profilers)
            steps = [
                Program(step.team, step.buffers, next(waiting).stages)
                if isinstance(step, Program)
                else step._replace(session=next(sessions).session)
                for step in self._steps
            ]
            for _ in range(2):
                self._run(steps, inputs, None)
            for profiler in profilers:
                profiled = profiler.times()
                times.seconds.update(profiled.seconds)
                times.fused.update(profiled.fused)
        for one in stamped:
            times.seconds.update(one.seconds())
        return times

    def _run(
        self, steps: Sequence[Program | _Session], inputs: Mapping[str, Array], into: Mapping[str, Array] | None
    ) -> tuple[dict[str, Array], list[float]]:
        arrays_in = [np.ascontiguousarray(inputs[tensor.name]) for tensor in self._inputs]
        outputs = output_arrays(self._outputs, into)
        arena = self._arenas.take(self.arena_bytes)
        times = [time.perf_counter()]
        try:
            places = [0] * FIRST_INPUT + [address(array) for array in (*arrays_in, *outputs.values())] + [arena.address]
            bases = [word for place in places[FIRST_INPUT:] for word in (place, 0)]
            for step in steps:
                if isinstance(step, Program):
                    step.start(bases)
                else:
                    _run_session(step, places)
                times.append(time.perf_counter())
        finally:
            self._arenas.give(arena)
        return outputs, [b - a for a, b in itertools.pairwise(times)]

    @property
    def _arena(self) -> int:
        """The base of the arena, behind those of inputs and outputs."""
        return FIRST_INPUT + len(self._inputs) + len(self._outputs)

    def _moved(self, stage: KernelStage) -> KernelStage:
        return KernelStage(stage.function, [self._in_arena(word) for word in stage.words], stage.tasks)

    def _in_arena(self, word: Any) -> Any:
        at_scratch = isinstance(word, Address) and word.base == SCRATCH.base
        return Address(self._arena, word.offset) if at_scratch else word

    def _session(self, graph: Graph, part: Fragment, made: _Session, words: Sequence[Any], threads: int) -> _Session:
        inputs, outputs = boundary(graph, part.nodes)
        try:
            model = export(graph, part.nodes, inputs, outputs).SerializeToString()
            session = make_session(model, threads)
        except Exception as error:  # noqa: BLE001 - a class for each status, none of which is public
            raise UnsupportedNodeError(f"onnxruntime refuses a part of it: {first_line(error)}") from None
        self._model_bytes += len(model)
        places = [self._in_arena(word) for word in words]
        tensors = [(name, tensor, place) for (name, tensor, _), place in zip(made.tensors, places, strict=True)]
        return _Session(session, tensors, len(inputs))


def compiled_network(graph: Graph, team: Team) -> CompiledNetwork | FragmentedNetwork:
    """A graph as one program, or as programs and sessions where it has nodes without a lowering.

    Raises:
        UnsupportedNodeError, KernelsMissingError: as of both.
    """
    try:
        return CompiledNetwork(graph, team)
    except UnsupportedNodeError:
        return FragmentedNetwork(graph, team)


def _check_parts(graph: Graph, parts: Sequence[Fragment], reasons: Mapping[str, str], island: float) -> None:
    """Refuse what is better left to the runtime as a whole."""
    foreign = sum(not part.ours for part in parts)
    if foreign > MOST:
        raise UnsupportedNodeError(f"{next(iter(reasons.values()))}, and {foreign} parts would be onnxruntime's")
    own = [node for part in parts if part.ours for node in part.nodes]
    if reasons and (not own or sum(seconds(graph, node) for node in own) < island):
        raise UnsupportedNodeError(next(iter(reasons.values())))


def _joined(graph: Graph, parts: Sequence[Fragment]) -> tuple[Graph, list[Fragment]]:
    """The graph with a node for each part of the runtime's, and these parts."""
    nodes: list[Node] = []
    fragments = [part for part in parts if not part.ours]
    for part in parts:
        if part.ours:
            nodes += part.nodes
        else:
            nodes.append(Node(FRAGMENT, *boundary(graph, part.nodes), name=part.nodes[0].name))
    return Graph(graph.inputs, graph.outputs, tuple(nodes), graph.tensors, graph.constants), fragments


def _lower_fragment(sessions: list[_Session], low: CpuLowering, node: Node) -> None:
    """A stage that stands for a session, so that what it reads and writes is alive then."""
    places = [low.array(name) for name in node.inputs]
    places += [low.any_array(name) for name in node.outputs]
    names = (*node.inputs, *node.outputs)
    tensors = [(name, low.graph.tensors[name], place) for name, place in zip(names, places, strict=True)]
    sessions.append(_Session(None, tensors, len(node.inputs)))
    low.assembly.add(-len(sessions), places, 1)


def _run_session(step: _Session, places: Sequence[int]) -> None:
    """Run a session on tensors where they lie.

    Raises:
        DeadlineExceededError, CancelledError: the job of this thread is over.
    """
    binding = step.session.io_binding()
    for i, (name, tensor, place) in enumerate(step.tensors):
        at = places[place.base] + place.offset if isinstance(place, Address) else address(place)
        bind = binding.bind_input if i < step.inputs else binding.bind_output
        bind(name, "cpu", 0, helper.np_dtype_to_tensor_dtype(tensor.dtype), tensor.shape, at)
    job, options = current(), onnxruntime.RunOptions()
    try:
        with job.on_stop(lambda: setattr(options, "terminate", True)):
            job.check()
            step.session.run_with_iobinding(binding, options)
    except Exception:
        job.poll()
        job.check()
        raise
