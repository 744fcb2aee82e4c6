"""One GPU's part of a network that is cut over several GPUs."""

from collections.abc import Callable, Mapping
from typing import cast

from groupconv_worker.contract import Array
from groupconv_worker.cuda.engine import CudaEngine
from groupconv_worker.cuda.network.network import DeviceNetwork
from groupconv_worker.cuda.network.segments import Segments, Words
from groupconv_worker.graph.graph import Graph
from groupconv_worker.job import Job


class DevicePart(DeviceNetwork):
    """A part of a network, on the device of an engine. One run at a time, at the same time as those of other parts.

    Args:
        graph: of the part, as `exchange.numbered` makes it.
        engine: as of `DeviceNetwork`.

    Attributes:
        words: by which it meets other parts, once it is connected.

    Raises:
        UnsupportedNodeError, ResourceExhaustedError, DeviceLostError: as of `DeviceNetwork`.
    """

    _kind = Segments

    def __init__(self, graph: Graph, engine: CudaEngine) -> None:
        super().__init__(graph, engine)
        self.words: Words | None = None

    @property
    def zones(self) -> Mapping[int, int]:
        """Where on its device other parts copy what it receives, by the number of the exchange."""
        return {number: int(self._weights[name].data.ptr) for number, name in self._zones.items()}

    def connect(self, zones: Mapping[int, int], words: Words) -> None:
        """Meet other parts, and record what lies between the meetings.

        Args:
            zones: of other parts, by the number of the exchange; at least those that this part sends to.
            words: that all parts see.

        Raises:
            ResourceExhaustedError: there is no device memory for the arena.
            DeviceLostError: the device failed.
        """
        self._targets.update(zones)
        self.words = words
        with self._device.current():
            self._pool.put(self._with_room(self._recording, self.arena_bytes))

    def run_number(
        self, inputs: Mapping[str, Array], number: int, job: Job, stop: Callable[[], None]
    ) -> dict[str, Array]:
        """Do one run. All parts do it at the same time.

        Args:
            inputs: the part's, by name.
            number: of the run, the same for all parts, and one more than that of the run before.
            job: that this is a part of.
            stop: ends the waits of all parts; called once the job is over.

        Returns:
            The part's outputs by name; they are wrong if the job is over.

        Raises:
            DeadlineExceededError, CancelledError: the job was over first.
            MemoryError: there is no device memory for the arena now.
            DeviceLostError: the device failed; the process must be replaced.
        """
        words = self.words
        assert words is not None, "connect() comes first"
        found = self._output_arrays(None)
        with job.ending(stop), self._device.current():
            if job.over:  # and was before `stop` was known
                stop()
            # not again without memory: others may be reading what the first try has sent
            self._use(lambda made: cast("Segments", made).run_number(inputs, found, words, number))
        job.check()
        return found
