"""A stream in the server: bytes arrive, bands are computed as soon as their rows are there, results leave in order.

Three things happen at once: one thread fills the input of the next band (`receive`), a few compute (through the
coordinator, so a band is cut over the workers), one takes results in order (`results`). At most `IN_FLIGHT` bands exist
between the first byte of their input and the last of their output; while that many do, `receive` does not take the next
chunk, and HTTP/2's flow control holds the sender back. Buffers are used again: fresh pages are what costs.
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
"""Bands of a stream that are computed at a time, of the `IN_FLIGHT` there are."""


class BandOutput(NamedTuple):
    """A band that is done.

    Attributes:
        band: which.
        buffer: its bytes in the order of the stream.
        next_input_row: the first input row that any later band needs.
    """

    band: Band
    buffer: Array
    next_input_row: int


class Stream:
    """One stream; a context manager that gives back all it holds.

    Args:
        coordinator: runs the bands.
        budget: of all streams.
        problems: the steps on the whole input, checked.
        steps: likewise, with arrays.
        bands: from `choose`.
        first_row: the first output row wanted.
        reordering: as in `Coordinator.convolve`.
        deadline: on the clock of time.monotonic().

    Raises:
        InvalidArgumentError: a first row that is none.
        ResourceExhaustedError: the budget does not allow another stream.
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
            raise InvalidArgumentError("header.first_output_row", f"0 to {rows}, the rows there are", first_row)
        self.bands, self.steps = bands, steps
        self.coordinator, self.reordering, self._job = coordinator, reordering, Job(deadline)
        self._types = problems[0].types, problems[-1].types
        self._row_bytes = g.in_channels * math.prod(g.input[1:]) * problems[0].types.input.itemsize
        self._rows = bands.samples * bands.height
        self.first_output_row = bands.first(first_row)
        self._most = coordinator.limits.stream_bytes // IN_FLIGHT
        self._budget, self._reserved = budget, IN_FLIGHT * bands.widest().nbytes
        self._coming = _with_next(bands.after(self.first_output_row), self._rows)
        self._changed = threading.Condition()
        self._slots = IN_FLIGHT
        self._pending: deque[Future[BandOutput]] = deque()
        self._inputs: list[Array] = []
        self._outputs: list[Array] = []
        self._filling: tuple[Band, int, Array] | None = None
        self._ended = self._stopped = False
        self._error: BaseException | None = None
        self._heard = time.monotonic()
        first = next(bands.after(self.first_output_row), None)
        self.first_input_row = self._rows if first is None else first.input.start
        self._position = self.first_input_row * self._row_bytes  # in the whole input
        self._end = self._rows * self._row_bytes
        self._context = contextvars.copy_context()  # of the request, for those who log or trace its bands
        budget.reserve(self._reserved)
        self._pool = ThreadPoolExecutor(max_workers=COMPUTING, thread_name_prefix="band")

    def receive(self, chunks: Iterable[memoryview]) -> None:
        """Take the input, in a thread of its own. Errors, the iterable's too, are raised by `results`."""
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
        except BaseException as error:  # noqa: BLE001 - it is raised by the other thread
            with self._changed:
                self._error = self._error or error
                self._changed.notify_all()

    def results(self) -> Iterator[BandOutput]:
        """Every band in order, as soon as it is done; each one's bytes are valid until the next is asked for.

        Raises:
            InvalidArgumentError: the input ended early, or did not end where it should.
            DeadlineExceededError: the deadline passed, or no chunk came for too long.
            GroupconvError: what computing raised.
        """
        while True:
            future = self._oldest()
            if future is None:
                return
            output = future.result()
            yield output
            with self._changed:
                self._outputs.append(output.buffer)
                self._slots += 1
                self._changed.notify_all()

    def cancel(self) -> None:
        """End `receive` and `results` wherever they wait."""
        with self._changed:
            self._stopped = True
            self._changed.notify_all()
        self._job.stop(CancelledError("the stream was cancelled"))

    def close(self) -> None:
        """Drop bands that wait, stop the running ones (they hold memory until then), and give everything back."""
        self.cancel()
        self._pool.shutdown(wait=True, cancel_futures=True)
        with self._changed:
            self._pending.clear()
            self._inputs.clear()
            self._outputs.clear()
            self._filling = None
            reserved, self._reserved = self._reserved, 0
        self._budget.release(reserved)

    def _oldest(self) -> "Future[BandOutput] | None":
        """The first band not yet given out, done or failed; None after the last."""
        idle = self.coordinator.limits.stream_idle_seconds
        with self._changed:
            while not (self._error or self._stopped or (self._pending and self._pending[0].done())):
                if self._ended and not self._pending:
                    return None
                heard = self._heard
                if not self._changed.wait(idle) and not self._pending and heard == self._heard:
                    raise DeadlineExceededError(f"no chunk came for {idle:g} s")
            if self._error:
                raise self._error
            if self._stopped:
                raise CancelledError("the stream was cancelled")
            return self._pending.popleft()

    def _take(self, chunk: memoryview) -> None:
        """Put a chunk where it belongs; every band that is complete by it is computed."""
        self._heard = time.monotonic()
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
            self._compute_what_is_there()

    def _compute_what_is_there(self) -> None:
        while self._filling and self._filling[0].input.stop * self._row_bytes <= self._position:
            full = self._filling
            run: Callable[..., BandOutput] = self._context.copy().run  # one thread at a time may be in a context
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
        """The next band with its buffer, holding the rows it shares with the one before; waits until one may begin."""
        coming = next(self._coming, None)
        if coming is None:
            return None
        band, after = coming
        check(band, self._most)
        with self._changed:
            self._changed.wait_for(lambda: self._slots or self._stopped)
            if self._stopped:
                raise CancelledError("the stream was cancelled")
            self._slots -= 1
            size = (band.input.stop - band.input.start) * self._row_bytes
            buffer = _fitting(self._inputs, size)
        if before is not None and before[0].input.stop > band.input.start:
            # only this thread writes inputs, so the rows are intact even if that band is long done
            shared = before[2][(band.input.start - before[0].input.start) * self._row_bytes :]
            buffer[: min(size, len(shared))] = shared[:size]
        return band, after, buffer

    def _compute(self, band: Band, after: int, buffer: Array) -> BandOutput:
        first, last = band.problems[0], band.problems[-1]
        x = _feature_map(buffer, first.geometry.input_shape, first.types.input)
        size = math.prod(last.geometry.output_shape) * last.types.output.itemsize
        with self._changed:
            out = _fitting(self._outputs, size)
        y = _feature_map(out, last.geometry.output_shape, last.types.output)
        call = CompiledCall(band.problems, self.steps, reordering=self.reordering)
        self.coordinator.perform(call, x, job=self._job, output=y)
        with self._changed:
            self._inputs.append(buffer)
        return BandOutput(band, out, after)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def _with_next(bands: Iterator[Band], rows: int) -> Iterator[tuple[Band, int]]:
    """Each band with the first input row of the one after it."""
    before = next(bands, None)
    for band in bands:
        if before is not None:
            yield before, band.input.start
        before = band
    if before is not None:
        yield before, rows


def _fitting(free: list[Array], size: int) -> Array:
    """A buffer of `size` bytes, a used one if there is one that long."""
    for i, buffer in enumerate(free):
        whole = buffer.base  # each is a view, perhaps of a longer one
        if isinstance(whole, np.ndarray) and len(whole) >= size:
            del free[i]
            return whole[:size]
    free.clear()  # all too short, and memory is counted by bands in flight
    return np.empty(size, np.uint8)[:]


def _feature_map(data: Array, shape: Sequence[int], dtype: np.dtype) -> Array:
    """The bytes of rows (N, H, C, …) as a feature map (N, C, H, …): a view."""
    n, c, h, *rest = shape
    return np.moveaxis(data.view(dtype).reshape(n, h, c, *rest), 1, 2)
