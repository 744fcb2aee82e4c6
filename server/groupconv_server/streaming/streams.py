"""A stream in the server: bands are computed as soon as their input rows have arrived, and are sent in order.

Three kinds of threads run at once. One fills the input of the next band (`receive`). A few compute bands through the
coordinator, which cuts a band over the workers. One takes the results in order (`results`). At most `IN_FLIGHT` bands
are in memory. While there are so many, `receive` takes no chunk, and HTTP/2's flow control stops the sender. Buffers
are reused, because new pages are expensive.
"""

import contextvars
import math
import threading
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import NamedTuple, Self

import numpy as np

from groupconv.convolution.steps import Array, Step
from groupconv.errors import CancelledError, DeadlineExceededError, InvalidArgumentError
from groupconv_server.coordinator.compiled import CompiledCall
from groupconv_server.coordinator.coordinator import Coordinator
from groupconv_server.streaming.band_size import IN_FLIGHT, check
from groupconv_server.streaming.bands import Band, Bands
from groupconv_server.streaming.budget import Budget
from groupconv_worker.contract import Problem
from groupconv_worker.job import Job

COMPUTING = 2
"""Bands of a stream that are computed at the same time."""


class BandOutput(NamedTuple):
    """A computed band.

    Attributes:
        band: the rows and steps.
        buffer: the output's bytes, in the order of the stream.
        next_input_row: the first input row that later bands need.
    """

    band: Band
    buffer: Array
    next_input_row: int


class Stream:
    """A stream. As a context manager, it returns its memory to the budget at the end.

    Args:
        coordinator: runs the bands.
        budget: of all streams.
        problems: the checked steps on the whole input.
        steps: the steps with their arrays.
        bands: from `band_size.choose`.
        first_row: the first output row that the client wants.
        reordering: as in `Coordinator.convolve`.
        deadline: by time.monotonic().

    Raises:
        InvalidArgumentError: there is no such first row.
        ResourceExhaustedError: the budget has too few bytes left.
    """

    def __init__(
        self,
        coordinator: Coordinator,
        budget: Budget,
        problems: Sequence[Problem],
        steps: Sequence[Step],
        bands: Bands,
        *,
        first_row: int = 0,
        reordering: bool = False,
        deadline: float | None = None,
    ) -> None:
        g = problems[0].geometry
        rows = bands.samples * bands.out_height
        if not 0 <= first_row <= rows:
            raise InvalidArgumentError("header.first_output_row", f"0 to {rows}, the number of output rows", first_row)
        self.bands, self.steps = bands, steps
        self.coordinator, self.reordering, self._job = coordinator, reordering, Job(deadline)
        self._types = problems[0].types, problems[-1].types
        self._row_bytes = g.in_channels * math.prod(g.input[1:]) * problems[0].types.input.itemsize
        self._rows = bands.samples * bands.height
        self.first_output_row = bands.first(first_row)
        self._most = coordinator.limits.stream_bytes // IN_FLIGHT
        self._budget, self._reserved = budget, IN_FLIGHT * bands.widest().nbytes
        self._next_bands = _with_next(bands.after(self.first_output_row), self._rows)
        self._changed = threading.Condition()
        self._slots = IN_FLIGHT
        self._pending: deque[Future[BandOutput]] = deque()
        self._inputs: list[Array] = []
        self._outputs: list[Array] = []
        self._filling: tuple[Band, int, Array] | None = None
        self._ended = self._stopped = False
        self._error: BaseException | None = None
        self._last_chunk = time.monotonic()
        first = next(bands.after(self.first_output_row), None)
        self.first_input_row = self._rows if first is None else first.input.start
        self._position = self.first_input_row * self._row_bytes  # in the whole input
        self._end = self._rows * self._row_bytes
        self._context = contextvars.copy_context()  # of the request, so that logs and traces of bands belong to it
        budget.reserve(self._reserved)
        self._pool = ThreadPoolExecutor(max_workers=COMPUTING, thread_name_prefix="band")

    def receive(self, chunks: Iterable[memoryview]) -> None:
        """Take the input, in its own thread. `results` raises the errors, also those of the iterable."""
        try:
            self._filling = self._next(None)
            for chunk in chunks:
                self._take(chunk)
            self._check_end()
            with self._changed:
                self._ended = True
                self._changed.notify_all()
        except CancelledError:
            pass
        except BaseException as error:  # noqa: BLE001 - `results` raises it
            with self._changed:
                self._error = self._error or error
                self._changed.notify_all()

    def results(self) -> Iterator[BandOutput]:
        """The bands in order, as soon as they are computed. A band's bytes are valid until the next band is requested.

        Raises:
            InvalidArgumentError: the input has too few or too many bytes.
            DeadlineExceededError: the deadline has passed, or no chunk came for too long.
            GroupconvError: an error of a computation.
        """
        while True:
            future = self._oldest()
            if future is None:
                return
            try:
                output = future.result()
            finally:
                del future  # it keeps the error, which knows this frame and the buffers of the band's
            yield output
            with self._changed:
                self._outputs.append(output.buffer)
                self._slots += 1
                self._changed.notify_all()

    def cancel(self) -> None:
        """End `receive` and `results`, also while they wait."""
        with self._changed:
            self._stopped = True
            self._changed.notify_all()
        self._job.stop(CancelledError("the stream was cancelled"))

    def close(self) -> None:
        """Drop waiting bands, stop running ones, and return the memory to the budget."""
        self.cancel()
        self._pool.shutdown(wait=True, cancel_futures=True)
        with self._changed:
            self._pending.clear()
            self._inputs.clear()
            self._outputs.clear()
            self._filling = self._error = None  # an error keeps the buffers of the frames that it came through
            reserved, self._reserved = self._reserved, 0
        self._budget.release(reserved)

    def _oldest(self) -> "Future[BandOutput] | None":
        """Wait for the next band in order to be computed or to fail. None after the last band."""
        idle = self.coordinator.limits.stream_idle_seconds
        with self._changed:
            while not (self._error or self._stopped or (self._pending and self._pending[0].done())):
                if self._ended and not self._pending:
                    return None
                before = self._last_chunk
                if not self._changed.wait(idle) and not self._pending and before == self._last_chunk:
                    raise DeadlineExceededError(f"no chunk came for {idle:g} s")
            if self._error:
                raise self._error
            if self._stopped:
                raise CancelledError("the stream was cancelled")
            return self._pending.popleft()

    def _take(self, chunk: memoryview) -> None:
        """Copy a chunk into the inputs of bands, and start bands whose input is complete."""
        self._last_chunk = time.monotonic()
        if self._position + len(chunk) > self._end:
            expected = f"the end of the stream at byte {self._end}"
            raise InvalidArgumentError("data", expected, f"{self._position + len(chunk)} bytes")
        bytes_ = np.frombuffer(chunk, np.uint8)
        while len(bytes_):
            if self._filling is None:
                self._position += len(bytes_)  # rows that no output reads
                return
            band, _, buffer = self._filling
            start = band.input.start * self._row_bytes
            if self._position < start:
                n = min(len(bytes_), start - self._position)
            else:
                at = self._position - start
                n = min(len(bytes_), len(buffer) - at)
                buffer[at : at + n] = bytes_[:n]  # NumPy's copy lets other threads run
            self._position += n
            bytes_ = bytes_[n:]
            self._start_complete()

    def _start_complete(self) -> None:
        while self._filling and self._filling[0].input.stop * self._row_bytes <= self._position:
            full = self._filling
            run: Callable[..., BandOutput] = self._context.copy().run  # only one thread may be in a context
            future = self._pool.submit(run, self._compute, *full)
            with self._changed:
                self._pending.append(future)
            future.add_done_callback(self._wake)
            self._filling = self._next(full)

    def _check_end(self) -> None:
        if self._position < self._end:
            expected = f"{self._end} bytes, up to row {self._rows} of the input"
            raise InvalidArgumentError("data", expected, f"the end of the stream at byte {self._position}")

    def _wake(self, _: object) -> None:
        with self._changed:
            self._changed.notify_all()

    def _next(self, before: tuple[Band, int, Array] | None) -> tuple[Band, int, Array] | None:
        """The next band and its buffer, with the rows shared with the band before. Waits until a band may begin."""
        following = next(self._next_bands, None)
        if following is None:
            return None
        band, after = following
        check(band, self._most)
        with self._changed:
            self._changed.wait_for(lambda: self._slots or self._stopped)
            if self._stopped:
                raise CancelledError("the stream was cancelled")
            self._slots -= 1
            size = (band.input.stop - band.input.start) * self._row_bytes
            buffer = _reused(self._inputs, size)
        if before is not None and before[0].input.stop > band.input.start:
            # only this thread writes inputs, so the rows are intact even if the band before is already computed
            shared = before[2][(band.input.start - before[0].input.start) * self._row_bytes :]
            buffer[: min(size, len(shared))] = shared[:size]
        return band, after, buffer

    def _compute(self, band: Band, after: int, buffer: Array) -> BandOutput:
        first, last = band.problems[0], band.problems[-1]
        x = _feature_map(buffer, first.geometry.input_shape, first.types.input)
        size = math.prod(last.geometry.output_shape) * last.types.output.itemsize
        with self._changed:
            out = _reused(self._outputs, size)
        y = _feature_map(out, last.geometry.output_shape, last.types.output)
        call = CompiledCall(band.problems, self.steps, reordering=self.reordering)
        self.coordinator.run(call, x, job=self._job, output=y)
        with self._changed:
            self._inputs.append(buffer)
        return BandOutput(band, out, after)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def _with_next(bands: Iterator[Band], rows: int) -> Iterator[tuple[Band, int]]:
    """Each band with the first input row of the next one."""
    before = next(bands, None)
    for band in bands:
        if before is not None:
            yield before, band.input.start
        before = band
    if before is not None:
        yield before, rows


def _reused(free: list[Array], size: int) -> Array:
    """A buffer of `size` bytes: one of the `free` ones if it is long enough, else a new one."""
    for i, buffer in enumerate(free):
        whole = buffer.base  # buffers are views of arrays that may be longer
        if isinstance(whole, np.ndarray) and len(whole) >= size:
            del free[i]
            return whole[:size]
    free.clear()  # they are too short, and would not be counted
    return np.empty(size, np.uint8)[:]


def _feature_map(data: Array, shape: Sequence[int], dtype: np.dtype) -> Array:
    """A view of rows (N, H, C, …) as a feature map (N, C, H, …)."""
    n, c, h, *rest = shape
    return np.moveaxis(data.view(dtype).reshape(n, h, c, *rest), 1, 2)
