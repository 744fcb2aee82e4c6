"""Runs that repeat, recorded: copy in, kernels and copy out of so many samples begin by one call.

The first run of a kernel is never recorded, as most kernels of one-shot requests run once. From the second run of as
many samples on, memory on both sides and a CUDA graph are kept, and a run is: copy x into pinned memory, launch, wait
without the GIL, copy out. Recordings that are not in use are dropped, least recently used first, when they hold more
than the engine may, and all of them when device memory runs out.
"""

import logging

from groupconv_worker.cuda.copying import copy
from groupconv_worker.cuda.device import Device, storage
from groupconv_worker.cuda.errors import is_sticky
from groupconv_worker.cuda.kernel import DeviceKernel
from groupconv_worker.cuda.shelves import Shelf
from groupconv_worker.cuda.transfer import compute, group_bytes
from groupconv_worker.engines.base import Array, Problem

log = logging.getLogger(__name__)

AT_ONCE = 4
"""Recordings of one kernel and number of samples: as many of its runs overlap."""


class Recording:
    """A run of so many samples, with all its memory. One thread uses it at a time.

    Args:
        device: where; current.
        kernel: what to run.
        problem: its shapes and dtypes.
        samples: of a run.

    Attributes:
        bytes: on the host and on the device.
        used: see `Kept`.

    Raises:
        BlockingIOError: another thread is recording.
        Exception: whatever a library says that cannot be captured.
    """

    used = 0

    def __init__(self, device: Device, kernel: DeviceKernel, problem: Problem, samples: int) -> None:
        g, types = problem.geometry, problem.types
        cupy, runtime = device.cupy, device.cupy.cuda.runtime
        x_shape, y_shape = (samples, g.in_channels, *g.input), (samples, g.out_channels, *g.output)
        host_x = device.pinned_array(x_shape, storage(types.input))
        host_y = device.pinned_array(y_shape, storage(types.output))

        def run() -> None:
            stream = cupy.cuda.get_current_stream().ptr
            x, y = cupy.empty(x_shape, host_x.dtype), cupy.empty(y_shape, host_y.dtype)
            runtime.memcpyAsync(x.data.ptr, host_x.ctypes.data, x.nbytes, runtime.memcpyHostToDevice, stream)
            compute(kernel, types, x, y, 0, device.options.workspace)
            runtime.memcpyAsync(host_y.ctypes.data, y.data.ptr, y.nbytes, runtime.memcpyDeviceToHost, stream)

        if (captured := device.graphs.capture(run, wait=False)) is None:
            raise BlockingIOError("another thread is recording")
        self._kernel = kernel  # its weights and plans are in the graph
        self._captured, self._launch = captured, captured.launch
        self._stream = cupy.cuda.Stream(non_blocking=True)
        self._host_x, self._host_y = host_x.view(types.input), host_y.view(types.output)
        self.bytes = captured.bytes + host_x.nbytes + host_y.nbytes

    def run(self, x: Array, out: Array) -> None:
        """x (samples, C, *input) and out (samples, M, *output) of any strides."""
        copy(self._host_x, x)
        try:
            self._launch(self._stream)
        finally:
            self._stream.synchronize()  # whatever happens: its memory may be somebody else's next
        copy(out, self._host_y)


class Recorder:
    """The recordings of one kernel.

    Args:
        device: where.
        kernel: what to run.
        problem: its shapes and dtypes.
    """

    def __init__(self, device: Device, kernel: DeviceKernel, problem: Problem) -> None:
        self._device, self._kernel, self._problem = device, kernel, problem
        sample = group_bytes(problem.geometry, problem.types) * problem.geometry.groups
        self._most = device.options.chunk // max(1, sample) if device.shelves.limit else 0
        self._shelves: dict[int, Shelf[Recording] | None] = {}  # by samples; None: not to be recorded

    def run(self, x: Array, out: Array) -> bool:
        """Whether the run was one that is recorded, and is done; else it must go another way.

        Raises:
            DeviceLostError: the device failed; the process must be replaced.
        """
        samples = x.shape[0]
        if samples not in self._shelves:
            self._shelves[samples] = Shelf() if 0 < samples <= self._most else None
            return False
        if (shelf := self._shelves[samples]) is None:
            return False
        with self._device.current():
            if (recording := shelf.take() or self._record(shelf, samples)) is None:
                return False
            recording.run(x, out)
        shelf.put(recording)
        return True

    def _record(self, shelf: Shelf[Recording], samples: int) -> Recording | None:
        if len(shelf.all) >= AT_ONCE:
            return None
        cupy = self._device.cupy
        try:
            recording = Recording(self._device, self._kernel, self._problem, samples)
        except BlockingIOError:
            return None
        except Exception as error:
            if isinstance(error, RuntimeError) and is_sticky(cupy, error):
                raise
            log.debug("%s of %d samples is not recorded: %s", self._kernel.algorithm, samples, error)
        else:
            if self._device.shelves.admit(shelf, recording):
                return recording
        if not len(shelf.all):
            self._shelves[samples] = None
        return None
