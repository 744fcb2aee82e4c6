"""Work recorded as CUDA graphs: whatever was put on a stream, repeated by one call.

A graph names addresses, so all memory that was allocated while it was captured, and every plan of cuFFT it runs, stays
with it and serves nothing else. Graphs are captured one at a time, on a stream of their own: what a dropped graph
leaves in the memory pool is there for the next.
"""

from collections.abc import Callable
from threading import Lock
from typing import Any


class Captured:
    """A graph with what it names; it dies with this. One launch at a time.

    Args:
        graph: of CuPy.
        kept: memory and plans.

    Attributes:
        bytes: of device memory it keeps.
    """

    def __init__(self, graph: Any, kept: list[Any]) -> None:
        self.launch: Callable[[Any], None] = graph.launch  # on a stream
        self._kept = kept
        self.bytes = sum(_size(thing) for thing in kept)


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

    def capture(self, work: Callable[[], None], *, wait: bool, transforms: bool) -> Captured | None:
        """Run `work` once as it is, so that everything it needs is compiled and planned, then once more recorded.

        Args:
            work: puts something on the current stream; it copies to and from pinned memory only, and waits for nothing.
            wait: for other threads that capture.
            transforms: whether there are any of cuFFT's among it.

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
                captured = self._capture(stream, work, transforms=transforms)
            self._stream = stream  # one on which a capture failed is not used again
            return captured
        finally:
            self._lock.release()

    def _capture(self, stream: Any, work: Callable[[], None], *, transforms: bool) -> Captured:
        cuda = self._cupy.cuda
        # this thread's, made now if there is none; and when a thread ends that has one, CuPy collects all garbage
        plans = self._cupy.fft.config.get_plan_cache() if transforms else ()
        kept: list[Any] = []

        def malloc(size: int) -> Any:
            kept.append(self._pool.malloc(size))
            return kept[-1]

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
        return Captured(graph, kept)


def _empty(plans: Any) -> list[Any]:
    """Take all plans out of a cache of cuFFT's; its own `clear` collects garbage, which takes long."""
    found = [(key, node.plan) for key, node in plans]
    for key, _ in found:
        del plans[key]
    return [plan for _, plan in found]


def _size(thing: Any) -> int:
    """Bytes of a memory pointer, or of the work area of cuFFT's plan."""
    memory = getattr(getattr(thing, "work_area", thing), "mem", None)
    return 0 if memory is None else int(memory.size)
