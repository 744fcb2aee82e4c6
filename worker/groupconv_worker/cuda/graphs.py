"""Work recorded as CUDA graphs: whatever was put on a stream, repeated by one call.

A graph names addresses, so all memory that was allocated while it was captured, and every plan of cuFFT it runs, stays
with it. Graphs that run one after another on the same track share that memory; else it serves nothing else. Graphs are
captured one at a time, on a stream of their own: what a dropped graph leaves in the memory pool is there for the next.
"""

import weakref
from collections.abc import Callable
from threading import Lock
from typing import Any


class Captured:
    """A graph with what it names; it dies with this. One launch at a time.

    Args:
        graph: of CuPy.
        memory: of the device, in the order of allocation: bytes, and what CuPy allocated.
        plans: and whatever else must live.

    Attributes:
        parts: bytes of the device by the identity of what holds them: graphs of a track have some in common.
    """

    def __init__(self, graph: Any, memory: "list[tuple[int, Any]]", plans: list[Any]) -> None:
        self.launch: Callable[[Any], None] = graph.launch  # on a stream
        self.memory, self._plans = memory, plans
        self.parts = {id(block): size for size, block in memory} | {id(plan): _work_area(plan) for plan in plans}


class Track:
    """A stream on which graphs run one after another, so that they may share device memory.

    What a graph allocates first, second and so on is what another has in its place, if that is large enough; it lives
    as long as one of them.

    Args:
        cupy: the module.
    """

    def __init__(self, cupy: Any) -> None:
        self.stream = cupy.cuda.Stream(non_blocking=True)
        self.graphs: weakref.WeakSet[Captured] = weakref.WeakSet()

    def memory(self, place: int) -> tuple[int, Any]:
        """The largest there is in one place."""
        there = (graph.memory[place] for graph in tuple(self.graphs) if place < len(graph.memory))
        return max(there, key=lambda memory: memory[0], default=(0, None))


class Graphs:
    """Captures what a device is to do.

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
        """Have a graph that is captured now keep something alive, beside the memory it allocates."""
        if (kept := self._kept) is not None:
            kept.append(thing)

    def capture(
        self, work: Callable[[], None], *, wait: bool, transforms: bool, track: Track | None = None
    ) -> Captured | None:
        """Run `work` once as it is, so that everything it needs is compiled and planned, then once more recorded.

        Args:
            work: puts something on the current stream; it copies to and from pinned memory only, and waits for nothing.
            wait: for other threads that capture.
            transforms: whether there are any of cuFFT's among it.
            track: on which the graph will run, and on no other; None gives it memory of its own.

        Returns:
            None if others do and `wait` is false.

        Raises:
            Exception: whatever a library says that cannot be captured.
        """
        if not self._lock.acquire(blocking=wait):
            return None
        try:
            stream, self._stream = self._stream or self._cupy.cuda.Stream(non_blocking=True), None
            with stream:
                captured = self._capture(stream, work, transforms=transforms, track=track)
            self._stream = stream  # one on which a capture failed is not used again
            return captured
        finally:
            self._lock.release()

    def _capture(self, stream: Any, work: Callable[[], None], *, transforms: bool, track: Track | None) -> Captured:
        cuda = self._cupy.cuda
        # this thread's, made now if there is none; and when a thread ends that has one, CuPy collects all garbage
        plans = self._cupy.fft.config.get_plan_cache() if transforms else ()
        memory, kept = list[tuple[int, Any]](), list[Any]()

        def malloc(size: int) -> Any:
            found = track.memory(len(memory)) if track else (0, None)
            memory.append(found if found[0] >= size > 0 else (size, self._pool.malloc(size)))
            return memory[-1][1]

        _empty(plans)  # plans made before serve this thread's other runs, with one work area
        with cuda.using_allocator(self._pool.malloc):
            try:
                work()
            finally:
                stream.synchronize()
        with cuda.using_allocator(malloc):
            stream.begin_capture()
            self._kept = kept
            try:
                work()
            finally:
                self._kept = None
                graph = stream.end_capture()
        kept += _empty(plans)
        graph.upload(stream)
        stream.synchronize()
        captured = Captured(graph, memory, kept)
        if track:
            track.graphs.add(captured)
        return captured


def _empty(plans: Any) -> list[Any]:
    """Take all plans out of a cache of cuFFT's; its own `clear` collects garbage, which takes long."""
    found = [(key, node.plan) for key, node in plans]
    for key, _ in found:
        del plans[key]
    return [plan for _, plan in found]


def _work_area(thing: Any) -> int:
    """Bytes of the work area, if it is a plan of cuFFT's."""
    memory = getattr(getattr(thing, "work_area", None), "mem", None)
    return 0 if memory is None else int(memory.size)
