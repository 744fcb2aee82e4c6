"""One GPU's part of a network that is cut over several GPUs."""

from collections.abc import Mapping
from typing import Any

from groupconv_worker.contract import Array
from groupconv_worker.cuda.engine import CudaEngine
from groupconv_worker.cuda.graphs.cache import GraphPool
from groupconv_worker.cuda.network.network import DeviceProgram
from groupconv_worker.cuda.network.segments import PartRecording, Semaphores
from groupconv_worker.graph.graph import Graph
from groupconv_worker.job import Job


class DevicePart(DeviceProgram[PartRecording]):
    """A part of a network, on the device of an engine. One run at a time, at the same time as those of other parts.

    Args:
        graph: of the part, as `exchange.connected` makes it.
        engine: as of `DeviceProgram`.

    Raises:
        UnsupportedNodeError, ResourceExhaustedError, DeviceLostError: as of `DeviceProgram`.
    """

    def __init__(self, graph: Graph, engine: CudaEngine) -> None:
        super().__init__(graph, engine, PartRecording)
        self._semaphores: Semaphores | None = None

    @property
    def landing(self) -> Any:
        """A device array of bytes, into which other parts copy what it receives; None if it receives nothing."""
        return self._landing

    def connect(self, semaphores: Semaphores, targets: Mapping[int, int], sources: Mapping[int, int]) -> None:
        """Connect this part with the others. Drops what was recorded before.

        Args:
            semaphores: shared with the parts that this one exchanges boxes with.
            targets: see `lowering.Routes`.
            sources: see `lowering.Routes`.
        """
        self._semaphores, self._pool = semaphores, GraphPool()
        for known, routes in zip(self._routes, (targets, sources), strict=True):
            known.clear()
            known.update(routes)

    def record(self) -> None:
        """Capture the segments, before the first run.

        Raises:
            ResourceExhaustedError: there is no device memory for the arena.
            DeviceLostError: the device failed.
        """
        with self._device.current():
            self._pool.put(self._with_room(self._recording, self.arena_bytes))

    def run(self, inputs: Mapping[str, Array], number: int, job: Job) -> dict[str, Array]:
        """Do one run. All parts do it at the same time.

        Args:
            inputs: the part's, by name.
            number: of the run, the same for all parts, and more than that of the run before.
            job: the request's deadline and cancellation.

        Returns:
            The part's outputs by name; they are wrong if the job is over.

        Raises:
            DeadlineExceededError, CancelledError: the job was over first.
            MemoryError: there is no device memory for the arena now.
            DeviceLostError: the device failed; the process must be replaced.
        """
        semaphores = self._semaphores
        assert semaphores is not None, "connect() comes first"
        outputs = self._output_arrays(None)
        with semaphores.releasing(number, job), self._device.current():
            # no second try when memory is short: other parts may be reading what the first one has sent
            self._use(lambda recording: recording.run(inputs, outputs, semaphores, number))
        job.check()
        return outputs

    def close(self) -> None:
        """Drop what is recorded but not running: a recording and its part know each other, so both would stay."""
        pool, self._pool = self._pool, GraphPool()
        while (recording := pool.take()) is not None:
            recording.close()
