"""The CUDA kernels on paper, or on a device.

python bench/gpu.py --model      occupancy from the compiler's report: needs no GPU, measures nothing
python bench/gpu.py [--batch 32] [--layer alexnet_conv2 ...] [--dtype float16] [--math tf32] [--layout NHWC]
                                  every algorithm on the catalogue's layers, by CUDA events, and a whole call on host
                                  arrays; torch's cuDNN beside both where torch is installed: needs a GPU
"""

import argparse
import math
import os
import sys
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass, replace
from itertools import chain
from statistics import median
from typing import Any

import numpy as np
from gpu_calls import calls, median_of_calls

from groupconv.convolution import cost
from groupconv.convolution.dtypes import BFLOAT16, DTYPES, Types, types_of
from groupconv.convolution.geometry import Geometry
from groupconv.convolution.spec import MATHS, Math
from groupconv_server.layers.catalogue import catalogue
from groupconv_worker.contract import Problem
from groupconv_worker.cuda import model
from groupconv_worker.cuda.algorithms import instances
from groupconv_worker.cuda.algorithms.base import UnsupportedProblemError
from groupconv_worker.cuda.algorithms.cudnn import FUSED
from groupconv_worker.cuda.algorithms.grouping import plan_launch
from groupconv_worker.cuda.algorithms.sliding import FILTERS
from groupconv_worker.cuda.algorithms.sliding import plan_launch as plan_sliding
from groupconv_worker.cuda.device import device_types, storage
from groupconv_worker.cuda.engine import ALGORITHMS, CudaEngine, why_unavailable
from groupconv_worker.cuda.nvrtc import compile_kernels

F32 = np.dtype(np.float32)
TYPES = Types(F32, F32, F32, F32)
GPUS = (model.A100, model.H100)
FILL = 256 * 2**20
"""Bytes written before each run, several times: more than any L2, and longer than a launch takes the host."""
REPEATS = 20


def main() -> None:
    """Print one or the other."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", action="store_true", help="print the table of occupancy of docs/cuda-engine.md")
    parser.add_argument("--batch", type=int, default=1, help="samples of a request")
    parser.add_argument("--layer", nargs="+", default=list(catalogue()), help="of the catalogue; all if not given")
    parser.add_argument("--dtype", default="float32", choices=("float32", "float16", "bfloat16"), help="of all tensors")
    parser.add_argument("--math", default="float32", choices=MATHS, help="what float32 factors may be rounded to")
    parser.add_argument("--layout", default="NCHW", choices=("NCHW", "NHWC"), help="of a call's arrays, and of torch's")
    parser.add_argument("--dry-run", action="store_true", help="only read the options")
    options = parser.parse_args()
    setup = Setup(options.batch, DTYPES[options.dtype], options.math, options.layout)
    if options.dry_run:
        return
    if options.model:
        print("\n".join(occupancy_table()))
    elif reason := why_unavailable():
        sys.exit(f"bench/gpu.py: {reason}; --model needs none")
    else:
        plain = setup == Setup(options.batch)
        for line in chain(measured_table(setup, options.layer), calls(options.batch) if plain else ()):
            print(line, flush=True)


def occupancy_table() -> Iterator[str]:
    """Registers, shared memory and occupancy of the hot kernels."""
    kernels = list(_hot_kernels())
    by_file: dict[str, list[str]] = defaultdict(list)
    for _, file, expression, _, _ in kernels:
        by_file[file].append(expression)
    found = {
        gpu.name: {
            e: c for file, names in by_file.items() for e, c in compile_kernels(file, names, gpu.architecture).items()
        }
        for gpu in GPUS
    }
    heads = " | ".join(f"{gpu.name}: registers | occupancy" for gpu in GPUS)
    yield f"| kernel (float32) | threads | shared memory | {heads} |"
    yield "| --- | ---: | ---: |" + " ---: | ---: |" * len(GPUS)
    for label, _, expression, threads, shared in kernels:
        cells = []
        for gpu in GPUS:
            c = found[gpu.name][expression]
            cells += [str(c.registers), f"{model.occupancy(gpu, c, threads, shared):.0%}"]
            total = c.shared + shared
        yield f"| {label} | {threads} | {total / 1024:.1f} KiB | {' | '.join(cells)} |"


def _hot_kernels() -> Iterator[tuple[str, str, str, int, int]]:
    """(label, file, expression, threads, dynamic shared memory)."""
    for tile in instances.DIRECT_TILES:
        yield f"direct {tile.bm} × {tile.bn}", "direct.cu", instances.direct(TYPES, tile, near=True), tile.threads, 0
    for name in ("mobilenet_dw_112", "mobilenet_dw_56_s2", "convnext_dw7_56", "mobilenet_dw_14"):
        layer = catalogue()[name].with_batch(32).geometry
        sliding = plan_sliding(layer, layer.batch, layer.groups, 1, model.H100.multiprocessors, aligned=True)
        expression = instances.depthwise(F32, *sliding.shape)
        yield f"depthwise, {name}, batch 32", "depthwise.cu", expression, sliding.threads, 0
    thin = catalogue()["resnext50_3x3_56"].geometry
    for batch, label in ((1, "channels shared"), (32, "batch 32")):
        sliding = plan_sliding(thin, batch, thin.groups, FILTERS, model.H100.multiprocessors, aligned=True, split=True)
        expression = instances.stencil(F32, *sliding.shape)
        yield f"stencil, resnext50_3x3_56, {label}", "stencil.cu", expression, sliding.threads, sliding.shared
    launch = plan_launch(thin, 1, thin.groups, 4)
    assert launch is not None
    expression = instances.grouped(F32, *launch.shape)
    yield "grouped, resnext50_3x3_56", "grouped.cu", expression, launch.threads, launch.shared
    yield "patches", "patches.cu", instances.patches(4, near=True), 256, 0
    yield "bias and activation", "finish.cu", instances.finish_in_place(F32, 4), 256, 0
    yield "product of spectra", "spectral.cu", instances.spectral(F32, 4), 256, 0


@dataclass(frozen=True)
class Setup:
    """What is measured: samples, dtype of all tensors, precision of float32 products, layout of a call's arrays."""

    batch: int
    dtype: np.dtype = F32
    math: Math = "float32"
    layout: str = "NCHW"

    def __str__(self) -> str:
        return f"{self.dtype}, math {self.math}, {self.layout}, batch {self.batch}"

    def arrays(self, name: str) -> tuple[Problem, Any, Any, Any]:
        """Problem, input, kernel and bias of a layer. The input is (N, C, …); as NHWC its channels are contiguous."""
        layer = catalogue()[name].with_batch(self.batch)
        x, w, b = (a.astype(self.dtype) for a in layer.arrays())
        if self.layout == "NHWC":
            x = np.moveaxis(np.ascontiguousarray(np.moveaxis(x, 1, -1)), -1, 1)
        return Problem(replace(layer.geometry, math=self.math), types_of(x.dtype, w.dtype)), x, w, b


def measured_table(setup: Setup, names: list[str]) -> Iterator[str]:
    """Microseconds on the device by algorithm, then of a whole call on host arrays, beside torch."""
    engine = CudaEngine(threads=os.cpu_count() or 1)
    algorithms = {kind.algorithm: kind for kind in ALGORITHMS if kind.available(engine.gpu)}
    runs = {name: (algorithm, "") for name, algorithm in algorithms.items()}
    if "cudnn" in runs:
        runs["cudnn fused"] = algorithms["cudnn"], FUSED
    gpu = next((gpu for gpu in (*GPUS, model.H200) if gpu.name.split()[0] in engine.device()), None)
    yield f"# {engine.device()}, {setup}, microseconds"
    heads = (*runs, "torch", "best / torch", "roofline", "a call", "torch", "call / torch")
    yield f"| layer | by rule | measured | {' | '.join(heads)} |"
    yield "| --- | --- | --- |" + " ---: |" * len(heads)
    ratios: list[tuple[float, float]] = []
    for name in names:
        problem, x, w, b = setup.arrays(name)
        chosen, call = _a_call(engine, problem, x, w, b)  # first: it chooses among cuDNN's plans, too
        on_device = {
            name: _on_device(engine, algorithm, problem, w, b, variant) for name, (algorithm, variant) in runs.items()
        }
        best = min((t for t in on_device.values() if isinstance(t, float)), default=math.nan)  # all may refuse
        theirs, their_call = _torch(problem.geometry, x, w, b, setup)
        ratios.append((best / theirs, call / their_call))
        least = (
            model.least_seconds(gpu, cost.flops(problem.geometry), model.least_bytes(problem))[0] if gpu else math.nan
        )
        cells = [t if isinstance(t, str) else f"{t:.1f}" for t in (*on_device.values(), theirs)]
        cells += [
            f"{best / theirs:.2f}",
            f"{least * 1e6:.1f}",
            f"{call:.0f}",
            f"{their_call:.0f}",
            f"{call / their_call:.2f}",
        ]
        yield f"| {name} | {engine.prepare(problem, w, b).algorithm} | {chosen} | {' | '.join(cells)} |"
    means = (math.exp(np.mean(np.log(column))) for column in zip(*ratios, strict=True))
    yield "\nGeometric means: best / torch {:.2f}, call / torch {:.2f}".format(*means)
    engine.close()


def _on_device(engine: CudaEngine, algorithm: Any, problem: Problem, w: Any, b: Any, variant: str) -> float | str:
    """Microseconds of one run of an algorithm or a variant of it, copies not counted; why not, if it refuses."""
    device, cupy, types = engine.gpu, engine.gpu.cupy, device_types(problem.types)
    if not algorithm.supports(problem):
        return "–"
    g = problem.geometry
    try:
        with device.streams() as streams:
            kernel = algorithm(device, problem, w, b)
            if variant:
                kernel.take(variant)
            x = device.upload(np.random.default_rng(0).standard_normal(g.input_shape, dtype=F32).astype(types.input))
            y, filler = cupy.empty(g.output_shape, storage(types.output)), cupy.empty(FILL, np.uint8)
            return _median_of_events(
                lambda: kernel.launch(x, y, 0, device.options.workspace),
                lambda: [filler.fill(0) for _ in range(4)],
                cupy.cuda.Event,
                cupy.cuda.get_elapsed_time,
                streams.synchronize,
            )
    except UnsupportedProblemError:
        return "–"
    except Exception as error:  # noqa: BLE001 - a refusal is a result
        return type(error).__name__


def _median_of_events(run: Any, fill: Any, event: Any, elapsed: Any, wait: Any) -> float:
    """Microseconds between events around `run`, behind so much other work that the host is never waited for.

    That work also leaves nothing of the operands in L2.
    """
    for _ in range(3):  # compiles, tunes, fills pools
        run()
    times = []
    for _ in range(REPEATS):
        start, end = event(), event()
        fill()
        start.record()
        run()
        end.record()
        wait()
        times.append(elapsed(start, end) * 1e3)
    return median(times)


def _a_call(engine: CudaEngine, problem: Problem, x: Any, w: Any, b: Any) -> tuple[str, float]:
    """A resident kernel on host arrays, copies and all: the algorithm it measured to be the fastest, and its time."""
    prepared, out = (
        engine.prepare(problem, w, b, resident=True),
        np.empty(problem.geometry.output_shape, problem.types.output),
    )
    return prepared.algorithm, median_of_calls(lambda: prepared.run(x, out))


def _torch(g: Geometry, x: Any, w: Any, b: Any, setup: Setup) -> tuple[float, float]:
    """cuDNN through torch: on the device, and a call on host arrays."""
    try:
        import torch
    except ImportError:
        return math.nan, math.nan
    if not torch.cuda.is_available() or any(lo != hi for lo, hi in g.padding):
        return math.nan, math.nan
    torch.backends.cudnn.allow_tf32 = torch.backends.cuda.matmul.allow_tf32 = setup.math != "float32"
    torch.backends.cudnn.benchmark = True
    functional = torch.nn.functional

    def tensor(array: Any) -> Any:
        """On the host; torch takes no bfloat16 from NumPy, but its bits."""
        return (
            torch.from_numpy(array.view(np.int16)).view(torch.bfloat16)
            if array.dtype == BFLOAT16
            else torch.from_numpy(array)
        )

    there, weight, bias, filler = (tensor(a).cuda() for a in (x, w, b, np.empty(FILL, np.uint8)))
    if setup.layout == "NHWC" and g.rank == 2:
        there, weight = (a.contiguous(memory_format=torch.channels_last) for a in (there, weight))
    more: dict[str, Any] = {
        "stride": g.stride,
        "padding": [lo for lo, _ in g.padding],
        "dilation": g.dilation,
        "groups": g.groups,
    }
    if g.transposed:
        more["output_padding"] = g.output_padding
    operation = getattr(functional, f"conv_transpose{g.rank}d" if g.transposed else f"conv{g.rank}d")
    with torch.inference_mode():
        on_device = _median_of_events(
            lambda: operation(there, weight, bias, **more),
            lambda: [filler.zero_() for _ in range(4)],
            lambda: torch.cuda.Event(enable_timing=True),
            lambda start, end: start.elapsed_time(end),
            torch.cuda.synchronize,
        )
        call = median_of_calls(lambda: operation(tensor(x).cuda(), weight, bias, **more).cpu())
    return on_device, call


if __name__ == "__main__":
    main()
