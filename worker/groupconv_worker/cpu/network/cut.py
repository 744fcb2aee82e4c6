"""All parts of a network that is cut over workers of one process: they run at the same time, on threads or on GPUs."""

import threading
import time
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from concurrent.futures import Executor, wait

from groupconv.errors import InternalError
from groupconv_worker.budget import granted
from groupconv_worker.contract import Array, DeviceLostError
from groupconv_worker.graph.graph import output_arrays
from groupconv_worker.graph.partition.partition import Partition
from groupconv_worker.job import Job
from groupconv_worker.shard import PartRun


class CutNetwork(ABC):
    """The parts of a network. One run at a time.

    Args:
        made: what each worker does.

    Attributes:
        partition: as given.
        number: of the last run.
    """

    def __init__(self, partition: Partition) -> None:
        self.partition, self.number = partition, 0
        self._running = threading.Lock()

    @property
    @abstractmethod
    def nbytes(self) -> int:
        """Bytes of all parts."""

    @abstractmethod
    def compute(self, worker: int, inputs: Mapping[str, Array], number: int, job: Job) -> Mapping[str, Array]:
        """One part's run.

        Args:
            worker: whose part.
            inputs: the part's, by name.
            number: of the run.
            job: of the run of all parts, which is stopped if one fails.

        Returns:
            The part's outputs by name. They may be wrong if the job is over.

        Raises:
            DeadlineExceededError, CancelledError: the job was over first.
        """

    def run(
        self,
        inputs: Mapping[str, Array],
        job: Job,
        threads: Executor,
        budgets: Sequence[int],
        into: Mapping[str, Array] | None = None,
    ) -> tuple[dict[str, Array], list[PartRun]]:
        """Run all parts, the first one in this thread.

        Args:
            inputs: the network's, by name.
            job: the call's deadline and cancellation.
            threads: runs the other parts; it has a free thread for each of them.
            budgets: how many threads of its team each worker may use.
            into: arrays to be filled, see `graph.output_arrays`.

        Returns:
            The network's outputs by name, and the runs of the parts.

        Raises:
            DeadlineExceededError, CancelledError: the job was over first.
            InternalError: a part failed.
            DeviceLostError: a part's device failed; the process must be replaced.
        """
        arrays = output_arrays((self.partition.graph.tensors[name] for name in self.partition.outputs), into)
        with self._running:
            self.number += 1
            run, number = Job(job.deadline, lambda: not job.poll()), self.number

            def work(worker: int) -> PartRun:
                try:
                    return self._run_part(worker, inputs, arrays, run, number, budgets[worker])
                except BaseException as error:
                    failed = InternalError(f"worker {worker} of a network that is cut failed: {error}")
                    run.stop(error if isinstance(error, DeviceLostError) else failed)
                    raise

            others = [threads.submit(work, worker) for worker in range(1, len(self.partition.parts))]
            try:
                first = work(0)
            finally:
                wait(others)  # nobody writes into the memory of another part any more
                job.poll()
                job.check()
            runs = [first]
            while others:  # this frame keeps no future whose error knows it: arrays would wait for the collector
                runs.append(others.pop(0).result())
            return arrays, runs

    def _run_part(
        self,
        worker: int,
        inputs: Mapping[str, Array],
        outputs: Mapping[str, Array],
        run: Job,
        number: int,
        threads: int,
    ) -> PartRun:
        """Run one part: its boxes of the inputs in, its boxes of the outputs out."""
        start = time.perf_counter()
        part, token = self.partition.parts[worker], granted.set(threads)
        try:
            with run:
                run.check()
                mine = {name: inputs[name][box.slices] for name, box in part.inputs.items()}
                moved = sum(array.nbytes for array in mine.values())
                computed = self.compute(worker, mine, number, run)
                for name, pieces in self.partition.outputs.items():
                    for maker, box in pieces:
                        if maker == worker:
                            piece = computed[name][box.relative(part.outputs[name]).slices]
                            outputs[name][box.slices] = piece
                            moved += piece.nbytes
                return PartRun(time.perf_counter() - start, moved)
        finally:
            granted.reset(token)
