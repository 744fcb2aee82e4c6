"""Which algorithm takes a convolution: by rule for a one-shot, by measurement for a resident kernel.

What was measured is kept in memory and on disk, as the CPU's choices are.

The rules follow the medians of bench/gpu.py on one H200 (docs/cuda-engine.md), at batch 1 and 32. No rule chooses
"fft": its error is relative to the largest pixel of a map, so it does not keep the bound of docs/convolution.md.
GROUPCONV_CUDA_ALGORITHM=fft selects it nevertheless.
"""

import logging
import math
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from statistics import median
from typing import Any, NamedTuple

import numpy as np
from cachetools import LRUCache

from groupconv_worker.code_version import digest
from groupconv_worker.contract import Array, Problem
from groupconv_worker.cuda.algorithms.base import DeviceKernel
from groupconv_worker.cuda.algorithms.separable import LEAST_EXTENT
from groupconv_worker.cuda.algorithms.sliding import depthwise_takes, stencil_takes
from groupconv_worker.cuda.device import Device, device_types, storage
from groupconv_worker.cuda.graphs.capture import CapturedGraph
from groupconv_worker.tuning.choice_file import CHOICES, ChoiceFile

log = logging.getLogger(__name__)

THINNEST = 4
"""Channels or filters of a group up to which the grouped kernel is better than a tiled matrix."""

THIN = 16
"""Channels or filters of a group up to which moving patches, ΠK times the input, costs more than a product saves."""

RUNS = 7
"""Timings of a candidate; the median is taken."""

REPEATS = 10
"""Runs of one timing, at most."""

ENOUGH = 1.0
"""Milliseconds of a timing, beyond which a run is not repeated in it."""


def by_rule(problem: Problem) -> list[str]:
    """Names of algorithms in order of preference; the first that is installed and supports the problem is used.

    Example:
        >>> from groupconv import ConvSpec, resolve
        >>> from groupconv.convolution.dtypes import types_of
        >>> f32 = types_of(np.dtype("float32"), np.dtype("float32"))
        >>> g = resolve(ConvSpec(groups=32, padding=1), (1, 32, 112, 112), (32, 1, 3, 3))
        >>> by_rule(Problem(g, f32))[:2]
        ['depthwise', 'grouped']
        >>> g = resolve(ConvSpec(), (1, 256, 56, 56), (64, 256, 1, 1))
        >>> by_rule(Problem(g, f32))
        ['gemm', 'cudnn', 'direct']
    """
    return list(dict.fromkeys(_preferred(problem)))  # each once, at its first position


def _preferred(problem: Problem) -> Iterator[str]:
    g = problem.geometry
    taps = math.prod(g.kernel)
    channels, filters = g.in_channels // g.groups, g.out_channels // g.groups
    if depthwise_takes(g, problem.types.accumulate):
        yield "depthwise"
    if channels == 1 and taps >= LEAST_EXTENT**2:
        yield "separable"  # it refuses weights that are not of rank 1
    if g.groups > 1 and min(channels, filters) <= THIN and stencil_takes(g, problem.types.accumulate):
        yield "stencil"
    if g.groups > 1 and min(channels, filters) <= THINNEST:
        yield "grouped"
    if g.groups > 1 and min(channels, filters) <= THIN:
        yield "direct"
    if min(channels * taps, filters) >= THIN:
        yield "gemm"  # before cuDNN, which builds a plan for milliseconds and is seldom much faster
    yield "cudnn"
    yield "direct"
    if stencil_takes(g, problem.types.accumulate):
        yield "stencil"  # last: for one run, packing many channels costs more than it saves


def time_on_device(device: Device, kernel: DeviceKernel, problem: Problem) -> float:
    """Milliseconds of one run on the device, by CUDA events on the current stream: the median of `RUNS`.

    Python takes longer to launch a small convolution than the device to compute it. So the run is captured as a graph
    and repeated between two events; a run that cannot be captured is launched each time. The input is zeros: the time
    of no algorithm depends on its values.
    """
    g, types, cuda = problem.geometry, device_types(problem.types), device.cupy.cuda
    x = device.cupy.empty((g.batch, g.in_channels, *g.input), storage(types.input))
    y = device.cupy.empty((g.batch, g.out_channels, *g.output), storage(types.output))
    x.view(np.uint8).fill(0)
    stream = cuda.get_current_stream()
    stream.synchronize()  # another stream captures

    def launch(_: Any = None) -> None:
        kernel.launch(x, y, 0, device.options.workspace)

    def took(repeats: int) -> float:
        start, end = cuda.Event(), cuda.Event()
        start.record(stream)
        for _ in range(repeats):
            again(stream)
        end.record(stream)
        end.synchronize()
        return float(cuda.get_elapsed_time(start, end)) / repeats

    launch()  # compiles, fills caches, wakes the clocks
    captured = _captured(device, kernel, launch)
    again = captured.launch if captured else launch
    took(1)
    repeats = max(1, min(REPEATS, int(ENOUGH / max(took(1), 1e-3))))
    return median(took(repeats) for _ in range(RUNS))


def _captured(device: Device, kernel: DeviceKernel, launch: Callable[[], None]) -> CapturedGraph | None:
    try:
        return device.graphs.capture(launch, wait=True, transforms=kernel.transforms)
    except device.cupy.cuda.memory.OutOfMemoryError:
        raise
    except Exception as error:  # noqa: BLE001 - each library raises its own; a lost device stays lost
        log.debug("%s is timed launch by launch, as it cannot be captured: %s", kernel.algorithm, error)
        return None


class Choice(NamedTuple):
    """What was the fastest.

    Attributes:
        algorithm: its name.
        variant: which of its variants, as `DeviceKernel.variant` says.
    """

    algorithm: str
    variant: str = ""

    @classmethod
    def parse(cls, text: str) -> "Choice":
        """From `str`.

        Example:
            >>> Choice.parse(str(Choice("cudnn", "7")))
            Choice(algorithm='cudnn', variant='7')
        """
        return cls(*text.partition(":")[::2])

    def __str__(self) -> str:
        return f"{self.algorithm}:{self.variant}"


class Choices:
    """The choices of one kind of device, for one version of this code, of CUDA and of cuDNN.

    Args:
        path: the file; None remembers for the life of this object only.
        version: see `version_of`.
    """

    def __init__(self, path: Path | None, version: str) -> None:
        self.file = ChoiceFile(path, version)
        self._known: LRUCache[str, Choice] = LRUCache(CHOICES)
        self._known.update((key, Choice.parse(text)) for key, text in self.file.read().items())

    def find(self, problem: Problem, kind: str) -> Choice | None:
        """The choice for a problem with weights of a kind, that of another process since this was made included."""
        key = _key(problem, kind)
        if key not in self._known and (text := self.file.read().get(key)) is not None:
            self._known[key] = Choice.parse(text)
        return self._known.get(key)

    def add(self, problem: Problem, kind: str, choice: Choice) -> None:
        """Remember what was measured."""
        self._known[_key(problem, kind)] = choice
        self.file.add(_key(problem, kind), str(choice))


def version_of(cupy: Any, device: Device, cudnn: str) -> str:
    """What a measured choice depends on beside its problem.

    Args:
        cupy: the module.
        device: its name, memory, architecture and size, and the options of which `workspace` excludes algorithms.
        cudnn: the version of cuDNN; "" without.
    """
    runtime, nvrtc = cupy.cuda.runtime, ".".join(map(str, cupy.cuda.nvrtc.getVersion()))
    chip = f"{device.describe()}, sm_{device.compute_capability}, {device.multiprocessors} multiprocessors"
    driver = f"driver {runtime.driverGetVersion()}, CUDA {runtime.runtimeGetVersion()}, NVRTC {nvrtc}"
    libraries = f"CuPy {cupy.__version__}, cuDNN {cudnn or 'none'}"
    code = digest("cuda/*.py", "cuda/algorithms/*.py", "cuda/kernels/*")
    return f"{chip}, {driver}, {libraries}, workspace {device.options.workspace}, code {code}"


def kind_of(candidates: Sequence[type[DeviceKernel]], problem: Problem, weight: Array, bias: Array | None) -> str:
    """The part of a choice's key that depends on values: whether there is a bias, and the candidates' `traits`."""
    traits = {kind.algorithm: kind.traits(problem, weight, bias) for kind in candidates}
    return ", ".join(["no bias" if bias is None else "bias", *(f"{n}: {t}" for n, t in traits.items() if t)])


def _key(problem: Problem, kind: str) -> str:
    """The problem in words that are the same in every process; an activation counts by its kind and channels."""
    g = problem.geometry
    dtypes = " ".join(map(str, problem.types))
    shape = (g.batch, g.in_channels, g.out_channels, g.groups, g.input, g.kernel, g.output)
    window = (g.stride, g.padding, g.dilation, g.output_padding)
    activation = f"{g.activation.kind} {min(2, len(g.activation.slope))}" if g.activation else ""
    flags = (g.padding_mode, activation, g.transposed, g.flip_kernel, g.exact, g.math)
    return f"{dtypes}; {shape}; {window}; {flags}; {kind}"
