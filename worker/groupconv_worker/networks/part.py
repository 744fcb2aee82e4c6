"""One worker's part of a network that is cut over several processes.

The worker compiles its parts beside the calls. Each has memory in which it exchanges boxes (placed_part.py).
"""

import logging
import socket
import threading
import time
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from numpy.typing import NDArray

from groupconv.errors import GroupconvError
from groupconv_worker.budget import ThreadBudget, granted
from groupconv_worker.graph.graph import UnsupportedNodeError
from groupconv_worker.graph.partition.choice import CutChoice
from groupconv_worker.graph.partition.part import RECEIVE, SEND
from groupconv_worker.graph.partition.zones import LandingHandle, zones
from groupconv_worker.job import Job
from groupconv_worker.lanes.frames import BrokenLaneError
from groupconv_worker.networks.part_info import MODEL_MISSING, MemoryHandle, PartAddress, PartInfo, PartKey
from groupconv_worker.networks.placed_part import PlacedPart
from groupconv_worker.networks.runner import acquire

if TYPE_CHECKING:
    from groupconv_worker.cpu.compiler import Compiler
    from groupconv_worker.cpu.compiler_tasks import TaskResult
    from groupconv_worker.networks.part_programs import PartPrograms
    from groupconv_worker.runtime import WorkerRuntime

log = logging.getLogger(__name__)

Array = NDArray[Any]
NO_COMPILER = "there is no process that compiles"


class PartRunner:
    """The parts of one worker.

    Args:
        budget: of its threads.
        programs: makes its parts.
        compiler: what compiles, and binds graphs, in another process.
    """

    def __init__(self, budget: ThreadBudget, programs: "PartPrograms", compiler: "Compiler") -> None:
        self._budget, self._programs, self._compiler = budget, programs, compiler
        self._parts: dict[PartKey, PlacedPart] = {}
        self._lock = threading.Lock()

    def prepare(self, key: PartKey, choice: CutChoice, data: bytes | None) -> PartInfo | str | None:
        """Have a part compiled.

        Args:
            key: of the part.
            choice: how the network is cut.
            data: the ONNX model; None if the part was prepared before.

        Returns:
            What it is once it is compiled; why there is none, as MODEL_MISSING; None if it is not known yet.
        """
        with self._lock:
            part = self._parts.get(key)
        if part is None:
            if data is None:
                return MODEL_MISSING
            from groupconv_worker.cpu.compiler_tasks import NetworkTask  # kept out of a worker's start

            part = PlacedPart(key, self._programs)
            compiled = self._programs.compiled
            cuts = (choice,) if compiled else ()
            task = NetworkTask(key.network, data, dict(key.shapes), key.workers, cuts, compiled)
            with self._lock:
                self._parts[key] = part
            improvement = self._compiler.submit(task, lambda result: self._made(key, part, choice, result), now=True)
            if improvement is None:
                part.reason = NO_COMPILER
            else:
                improvement.then(lambda: self._compiled(part))
        return part.info or part.reason or None

    def share(self, key: PartKey) -> MemoryHandle | str:
        """Make the memory that all parts share, and map it; says why the part cannot use it.

        Raises:
            OSError: there is no memory.
            KeyError: there is no such part.
        """
        return self._parts[key].share()

    def open(self, key: PartKey, handle: MemoryHandle) -> str:
        """Map the memory that another worker made; says why it cannot be."""
        return self._parts[key].open(handle)

    def export(self, key: PartKey) -> LandingHandle | None:
        """A handle by which parts on this node open this part's own memory; None if they use the shared memory."""
        program = self._parts[key].program
        assert program is not None
        return program.export()

    def reach(self, key: PartKey, to: Mapping[int, LandingHandle]) -> None:
        """Have a part reach the memory of other parts of this node, if it can."""
        program = self._parts[key].program
        assert program is not None
        program.reach(to)

    def ticket(self, key: PartKey) -> bytes:
        """The name by which workers on other nodes refer to this part, once it has its memory."""
        links = self._parts[key].links
        assert links is not None
        return links.ticket

    def link(self, key: PartKey, to: Mapping[int, PartAddress], secret: bytes) -> str:
        """Open links to parts on other nodes, whose endpoints know the secret; says why that cannot be."""
        links = self._parts[key].links
        assert links is not None
        try:
            links.open(to, secret)
        except OSError as error:
            return f"workers of different nodes cannot reach each other ({error})"
        return ""

    def receive(self, sock: socket.socket, hello: bytes) -> None:
        """Receive boxes of another worker for one of the parts, until it ends.

        Raises:
            OSError: it has ended, or there is no such part.
            struct.error: what it sent first is malformed.
        """
        from groupconv_worker.networks.links import HELLO  # with Numba, kept out of a worker's start

        ticket, sender = HELLO.unpack(hello)
        for part in list(self._parts.values()):
            if part.links is not None and part.links.ticket == ticket:
                part.links.receive(sock, sender)
                return
        raise BrokenLaneError("there is no such part")

    def run(self, key: PartKey, number: int, arrays: Sequence[Array], job: Job) -> tuple[list[Array], float] | None:
        """Run a part.

        Args:
            key: of the part.
            number: of the run, the same on all workers.
            arrays: its parts of the inputs, in the order of `PartInfo.inputs`.
            job: that this is a part of.

        Returns:
            Its parts of the outputs, as in `PartInfo.outputs`, and the seconds that it took; None if it is not here.

        Raises:
            DeadlineExceededError, CancelledError: the job was over first.
            GangLostError: a worker on another node was lost, or does not answer.
            DeviceLostError: the worker's GPU failed; the process must be replaced.
        """
        part = self._parts.get(key)
        program, links, info = (None, None, None) if part is None else (part.program, part.links, part.info)
        if part is None or program is None or links is None or info is None:
            return None
        got = acquire(self._budget, job)
        token = granted.set(got)
        try:
            with job:
                job.check()
                start = time.perf_counter()
                with links.sending(number, job):
                    inputs = dict(zip(info.inputs, arrays, strict=True))
                    outputs = program.run(inputs, number, job)
                seconds = time.perf_counter() - start
            return [outputs[name][box.relative(part.own[name]).slices] for name, box in info.outputs], seconds
        finally:
            granted.reset(token)
            self._budget.release(got)

    def forget(self, network: str, version: int) -> None:
        """Drop the parts of a version. A run goes on to its end."""
        for key in [key for key in list(self._parts) if (key.network, key.version) == (network, version)]:
            self.drop(key)

    def drop(self, key: PartKey) -> None:
        """Drop one part. It is prepared anew, with other memory, for whoever asks again."""
        with self._lock:
            part = self._parts.pop(key, None)
        if part is not None:
            part.close()
            part.program = part.links = None  # the compiler's thread knows the part until its next job

    def _made(self, key: PartKey, part: PlacedPart, choice: CutChoice, result: "TaskResult") -> None:
        if result.graph is None:
            part.reason = result.reason or result.error or "no graph"
            return
        try:
            partition = choice.partition(result.graph, key.workers, self._programs.block)
            graphs, shared_bytes = self._programs.connected(partition)
            program = self._programs.make(graphs[key.worker], len(partition.exchanges))
        except (ValueError, UnsupportedNodeError, GroupconvError) as error:
            part.reason = str(error)
            return
        except Exception as error:  # without a reason the coordinator would ask for ever
            log.exception("a part of network %s cannot be made", key.network)
            part.reason = f"worker {key.worker} of the cut failed: {type(error).__name__}: {error}"
            return
        mine, graph = partition.parts[key.worker], graphs[key.worker]
        pieces = tuple(
            (name, box)
            for name, several in partition.outputs.items()
            for worker, box in several
            if worker == key.worker
        )
        part.program, part.own = program, dict(mine.outputs)
        part.sent, part.received = zones(graph, SEND), zones(graph, RECEIVE)
        part.info = PartInfo(
            len(mine.graph.nodes),
            program.nbytes,
            shared_bytes,
            dict(mine.inputs),
            pieces,
            partition.exchanges,
            self._programs.kind,
            self._programs.direct,
        )

    @staticmethod
    def _compiled(part: PlacedPart) -> None:
        """Say that nothing comes of a part whose task the compiler has dropped."""
        if part.info is None:
            part.reason = part.reason or NO_COMPILER


def parts_of(runtime: "WorkerRuntime") -> PartRunner | None:
    """The parts of a worker; None where its engine has neither threads for programs nor a GPU."""
    from groupconv_worker.cpu.compiler import COMPILER
    from groupconv_worker.cpu.threads import Team  # with Numba, which the engine has loaded by now
    from groupconv_worker.networks.part_programs import GpuParts, ThreadParts

    engine = runtime.engine
    if isinstance(team := getattr(engine, "team", None), Team):
        return PartRunner(runtime.budget, ThreadParts(team), COMPILER)
    return None if engine.gpu is None else PartRunner(runtime.budget, GpuParts(engine), COMPILER)
