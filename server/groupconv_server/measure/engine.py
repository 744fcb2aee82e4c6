"""Time the cpu engine and its peers on the catalogue's layers: interleaved, in one process, medians."""

import gc
import statistics
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from threadpoolctl import threadpool_limits

from groupconv.convolution.dtypes import types_of
from groupconv.convolution.steps import Array
from groupconv_server.layers.catalogue import CatalogueLayer
from groupconv_server.measure.peers import Call, numpy_peer, onnxruntime_peer, torch_peer
from groupconv_worker.cpu.engine import CpuEngine
from groupconv_worker.cpu.kernels.forms import FORMS
from groupconv_worker.cpu.kernels.target import is_restricted
from groupconv_worker.engines import Problem
from groupconv_worker.reference import convolve

TURN = 3
"""Timed runs of a contender in its turn, after one that is not timed."""
PAUSE = 0.05
"""Seconds between turns: the thread pool of the contender before must stop spinning, or it is timed, too. NumPy's
OpenBLAS spins for 2^26 ticks of the processor's clock, 26 ms at 2.6 GHz, where the next one's helper should be."""
SLOW = 2.0
"""A contender whose run takes more seconds is timed once more and no further."""
CHECKED_ROWS = 160
"""Output rows of a large map that are held against the reference, which takes minutes for all."""


@dataclass(frozen=True)
class Row:
    """One layer at one number of threads. Times in ms; None where a peer is not installed."""

    name: str
    threads: int
    ours_resident_ms: float
    ours_oneshot_ms: float
    torch_ms: float | None
    onnxruntime_ms: float
    numpy_ms: float
    algorithm: str
    oneshot_algorithm: str
    error: float
    gflops: float
    gbytes_per_s: float
    intensity: float
    extra_mib: float
    allowed_mib: float
    onnxruntime_is_peer: bool = True

    @property
    def peer(self) -> float:
        """The better of torch and onnxruntime; torch alone where onnxruntime uses more instructions than ours."""
        peers = (self.torch_ms, self.onnxruntime_ms if self.onnxruntime_is_peer else None)
        return min((t for t in peers if t is not None), default=self.onnxruntime_ms)

    def as_json(self) -> dict[str, Any]:
        """The fields, and the two ratios to the better peer."""
        ratios = {
            "ratio_resident": self.ours_resident_ms / self.peer,
            "ratio_oneshot": self.ours_oneshot_ms / self.peer,
        }
        return asdict(self) | ratios


@dataclass(frozen=True)
class Peaks:
    """The measured peaks of this machine: a matrix product, and a copy between arrays larger than its caches."""

    threads: int
    gflops: float
    gbytes_per_s: float


def peaks(threads: int) -> Peaks:
    """Measure both within `threads` threads (the copy in one)."""
    a = np.ones((1024, 1024), np.float32)
    source, target = np.ones(2**26, np.float32), np.zeros(2**26, np.float32)
    with threadpool_limits(limits=threads, user_api="blas"):
        product = _median(_turns({"gemm": lambda: a @ a}, 9)["gemm"])
    copy = _median(_turns({"copy": lambda: np.copyto(target, source)}, 9)["copy"])
    return Peaks(threads, 2 * 1024**3 / product / 1e9, 2 * source.nbytes / copy / 1e9)


def rows(layers: Sequence[CatalogueLayer], threads: Sequence[int], runs: int, tuning: Path | None) -> Iterator[Row]:
    """One row per layer and number of threads, as they are measured."""
    for count in threads:
        for layer in layers:
            yield _row(layer, count, runs, tuning)
            gc.collect()


def _row(layer: CatalogueLayer, threads: int, runs: int, tuning: Path | None) -> Row:
    g = layer.geometry
    x, w, b = layer.arrays()
    if layer.name in FILTERS:
        w = np.broadcast_to(FILTERS[layer.name], w.shape).astype(np.float32)
    problem = Problem(g, types_of(x.dtype, w.dtype, b.dtype))
    FORMS.limit = sys.maxsize  # more layers than one server has
    engine = CpuEngine(threads=threads, tuning=tuning)
    out, single = np.zeros(g.output_shape, np.float32), np.zeros(g.output_shape, np.float32)
    engine.prepare(problem, w, b, resident=True).run(x, out)  # tuned and compiled before memory is looked at
    before = _resident_memory()
    prepared = engine.prepare(problem, w, b, resident=True)
    prepared.run(x, out)
    extra = _peak_memory() - before
    oneshot = engine.prepare(problem, w, b).algorithm
    contenders: dict[str, Call | None] = {
        "resident": lambda: prepared.run(x, out),
        "oneshot": lambda: engine.prepare(problem, w, b).run(x, single),
        "torch": torch_peer(g, x, w, b, threads),
        "onnxruntime": onnxruntime_peer(g, x, w, b, threads),
        "numpy": numpy_peer(g, x, w, b, threads),
    }
    times = {
        name: _median(seconds) * 1e3
        for name, seconds in _turns({k: c for k, c in contenders.items() if c is not None}, runs).items()
    }
    engine.close()
    macs = w.size * (np.prod(g.input) if g.transposed else np.prod(g.output)) * g.batch
    moved = x.nbytes + w.nbytes + out.nbytes
    return Row(
        name=layer.name,
        threads=threads,
        ours_resident_ms=times["resident"],
        ours_oneshot_ms=times["oneshot"],
        torch_ms=times.get("torch"),
        onnxruntime_ms=times["onnxruntime"],
        numpy_ms=times["numpy"],
        algorithm=prepared.algorithm,
        oneshot_algorithm=oneshot,
        error=max(_errors(layer, x, w, b, out, single)),
        gflops=float(2 * macs / times["resident"] / 1e6),
        gbytes_per_s=moved / times["resident"] / 1e6,
        intensity=float(2 * macs / moved),
        extra_mib=extra / 2**20,
        allowed_mib=(2 * w.nbytes) / 2**20 + 64,
        onnxruntime_is_peer=not is_restricted(),
    )


def gaussian(extent: int, sigma: float) -> Array:
    """A normalised Gaussian (K, K)."""
    offsets = np.arange(extent) - extent // 2
    line = np.exp(-(offsets**2) / (2 * sigma**2))
    kernel: Array = np.outer(line, line) / line.sum() ** 2
    return kernel


FILTERS = {
    "photo_sobel_1080p": np.outer([1.0, 2.0, 1.0], [-1.0, 0.0, 1.0]),
    "photo_gauss31_1080p": gaussian(31, 5.0),
}
"""Weights of the image filters; the other layers have random ones."""


def _turns(contenders: dict[str, Call], runs: int) -> dict[str, list[float]]:
    """Seconds of each run, the contenders taking turns."""
    times: dict[str, list[float]] = {name: [] for name in contenders}
    slow = set()
    while any(len(seconds) < runs for name, seconds in times.items() if name not in slow):
        for name, call in contenders.items():
            if name in slow or len(times[name]) >= runs:
                continue
            time.sleep(PAUSE)
            first = _timed(call)
            if first > SLOW:
                slow.add(name)
                times[name] += [first, _timed(call)]
            else:
                times[name] += [_timed(call) for _ in range(TURN)]
    return times


def _timed(call: Call) -> float:
    start = time.perf_counter()
    call()
    return time.perf_counter() - start


def _median(times: list[float]) -> float:
    return statistics.median(times)


def _errors(layer: CatalogueLayer, x: Array, w: Array, b: Array, *answers: Array) -> Iterator[float]:
    """Largest error of each answer, relative to the largest output of the float64 reference."""
    g, rows = layer.geometry, slice(None)
    if g.output[0] > CHECKED_ROWS:
        from groupconv.convolution.geometry import resolve

        rows = slice(0, CHECKED_ROWS)
        x = x[:, :, : CHECKED_ROWS * g.stride[0] + g.effective_kernel[0]]
        g = resolve(layer.spec, x.shape, w.shape)
    expected = convolve(x, w, b, g)[:, :, rows]
    for answer in answers:
        yield float(np.abs(answer[:, :, rows] - expected).max() / np.abs(expected).max())


def _resident_memory() -> int:
    """Bytes of memory that this process has now; its peak counts from here on. 0 where Linux does not tell."""
    try:
        Path("/proc/self/clear_refs").write_text("5")
    except OSError:
        return 0
    return _status("VmRSS")


def _peak_memory() -> int:
    return _status("VmHWM")


def _status(field: str) -> int:
    try:
        lines = Path("/proc/self/status").read_text().splitlines()
    except OSError:
        return 0
    return next((int(line.split()[1]) * 1024 for line in lines if line.startswith(field)), 0)
