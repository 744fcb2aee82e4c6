"""CUDA graph capture: whatever was put on a stream, repeated by one call.

A graph contains addresses, so all memory that was allocated during its capture, and every plan of cuFFT that it runs,
stays with it. Graphs that run one after another on the same stream share that memory; nothing else may use it. Graphs
are captured one at a time, on a stream of their own: what a dropped graph leaves in the memory pool serves the next.
"""

import weakref
from collections.abc import Callable
from threading import Lock
from typing import Any


class CapturedGraph:
    """A graph with everything whose address it contains, which lives as long as this. One launch at a time.

    Args:
        graph: of CuPy.
        memory: of the device, in the order of allocation: bytes, and what CuPy allocated.
        kept: plans of cuFFT and cuDNN.

    Attributes:
        parts: bytes on the device by the identity of what holds them. Graphs of one stream share some.
    """

    def __init__(self, graph: Any, memory: list[tuple[int, Any]], plans: list[Any]) -> None:
        self.launch: Callable[[Any], None] = graph.launch  # on a stream
        self.memory, self._kept = memory, plans
        self.parts = {id(block): size for size, block in memory} | {id(plan): _work_area(plan) for plan in plans}


class GraphStream:
    """A stream on which graphs run one after another, so that they can share device memory.

    The first, second, … allocation of a graph is that of an earlier graph, where that is large enough. It lives as
    long as one of them.

    Args:
        cupy: the module.

    Attributes:
        stream: of CuPy.
        lock: held while a graph, and copies of its input and output, are put on it.
    """

    def __init__(self, cupy: Any) -> None:
        self.stream, self.lock = cupy.cuda.Stream(non_blocking=True), Lock()
        self.graphs: weakref.WeakSet[CapturedGraph] = weakref.WeakSet()

    def memory(self, position: int) -> tuple[int, Any]:
        """The largest allocation at a position in the order of allocation; (0, None) if there is none."""
        candidates = (graph.memory[position] for graph in tuple(self.graphs) if position < len(graph.memory))
        return max(candidates, key=lambda memory: memory[0], default=(0, None))


class GraphCapture:
    """Captures the work of a device.

    Args:
        cupy: the module.
        pool: to allocate from.
    """

    def __init__(self, cupy: Any, pool: Any) -> None:
        self._cupy, self._pool = cupy, pool
        self._stream: Any = None
        self._kept: list[Any] | None = None
        self._lock = Lock()

    def keep(self, thing: Any) -> None:
        """Have the graph that is captured now, if there is one, keep an object alive beside its memory."""
        if (keeping := self._kept) is not None:
            keeping.append(thing)

    def capture(
        self, work: Callable[[], None], *, wait: bool, transforms: bool, stream: GraphStream | None = None
    ) -> CapturedGraph | None:
        """Run `work` once as it is, so that everything it needs is compiled and planned, then once more and capture it.

        Args:
            work: puts work on the current stream. It copies to and from pinned memory only, and waits for nothing.
            wait: for other threads that capture.
            transforms: whether plans of cuFFT run.
            stream: on which the graph will run, and on no other; None gives it memory of its own.

        Returns:
            The graph; None if another thread captures and `wait` is false.

        Raises:
            Exception: of a library whose work cannot be captured.
        """
        if not self._lock.acquire(blocking=wait):
            return None
        try:
            capturing, self._stream = self._stream or self._cupy.cuda.Stream(non_blocking=True), None
            with capturing:
                captured = self._capture(capturing, work, transforms=transforms, shared=stream)
            self._stream = capturing  # a stream on which a capture failed is not used again
            return captured
        finally:
            self._lock.release()

    def _capture(
        self, stream: Any, work: Callable[[], None], *, transforms: bool, shared: GraphStream | None
    ) -> CapturedGraph:
        cuda = self._cupy.cuda
        # Asked for only where it is needed: it makes one for this thread, and CuPy collects all garbage when a thread
        # that has one ends.
        plans = self._cupy.fft.config.get_plan_cache() if transforms else ()
        memory, keeping = list[tuple[int, Any]](), list[Any]()

        def malloc(size: int) -> Any:
            shared_memory = shared.memory(len(memory)) if shared else (0, None)
            memory.append(shared_memory if shared_memory[0] >= size > 0 else (size, self._pool.malloc(size)))
            return memory[-1][1]

        _take_plans(plans)  # earlier plans serve this thread's other runs, with one work area
        with cuda.using_allocator(self._pool.malloc):
            try:
                work()
            finally:
                stream.synchronize()
        with cuda.using_allocator(malloc):
            stream.begin_capture()
            self._kept = keeping
            try:
                work()
            finally:
                self._kept = None
                graph = stream.end_capture()
        keeping += _take_plans(plans)
        graph.upload(stream)
        stream.synchronize()
        captured = CapturedGraph(graph, memory, keeping)
        if shared:
            shared.graphs.add(captured)
        return captured


def _take_plans(plans: Any) -> list[Any]:
    """Take all plans out of a cache of cuFFT's. Its own `clear` collects garbage, which takes long."""
    taken = [(key, node.plan) for key, node in plans]
    for key, _ in taken:
        del plans[key]
    return [plan for _, plan in taken]


def _work_area(plan: Any) -> int:
    """Bytes of the work area, if it is a plan of cuFFT's."""
    memory = getattr(getattr(plan, "work_area", None), "mem", None)
    return 0 if memory is None else int(memory.size)
