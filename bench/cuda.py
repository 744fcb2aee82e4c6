"""The CUDA kernels on paper, or on a device.

python bench/cuda.py --model      occupancy and roofline from the compiler's report: needs no GPU, measures nothing
python bench/cuda.py              every algorithm on the catalogue's layers, by CUDA events, and torch's cuDNN
                                  beside them where torch is installed: needs a GPU
"""

import argparse
import sys
from collections import defaultdict
from collections.abc import Iterator
from statistics import median
from typing import Any

import numpy as np

from groupconv import cost
from groupconv.dtypes import Types, types_of
from groupconv.geometry import Geometry
from groupconv_server.catalogue import catalogue
from groupconv_worker.cuda import instances, model
from groupconv_worker.cuda.choice import RUNS, by_rule, time_on_device
from groupconv_worker.cuda.grouping import plan_launch
from groupconv_worker.cuda.nvrtc import compile_kernels
from groupconv_worker.engines.base import Problem
from groupconv_worker.engines.cuda import CudaEngine, why_unavailable

F32 = np.dtype(np.float32)
TYPES = Types(F32, F32, F32, F32)
GPUS = (model.A100, model.H100)


def main() -> None:
    """Print one or the other."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", action="store_true", help="print the tables of docs/gpu.md")
    if parser.parse_args().model:
        print("\n".join((*occupancy_table(), "", *roofline_table())))
    elif reason := why_unavailable():
        sys.exit(f"bench/cuda.py: {reason}; --model needs none")
    else:
        for line in measured_table():
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
        yield f"direct {tile.bm} × {tile.bn}", "direct.cu", instances.direct(TYPES, tile, zeros=True), tile.threads, 0
    for name in ("mobilenet_dw_112", "mobilenet_dw_56_s2", "convnext_dw7_56", "mobilenet_dw_14", "resnext50_3x3_56"):
        g = catalogue()[name].geometry
        launch = plan_launch(g, 1, g.groups, 4)
        assert launch is not None
        yield f"grouped, {name}", "grouped.cu", instances.grouped(F32, *launch.shape), launch.threads, launch.shared
    yield "patches", "patches.cu", instances.patches(4, zeros=True), 256, 0
    yield "bias and activation", "finish.cu", instances.finish_in_place(F32, 4), 256, 0
    yield "product of spectra", "spectral.cu", instances.spectral(F32, 4), 256, 0


def roofline_table() -> Iterator[str]:
    """The least time that data sheets allow, layer by layer."""
    yield (
        "| layer | by rule | MFLOP | least traffic | patches | "
        + " | ".join(f"{g.name}: least time" for g in GPUS)
        + " |"
    )
    yield "| --- | --- | ---: | ---: | ---: |" + " ---: |" * len(GPUS)
    for name, layer in catalogue().items():
        problem = Problem(layer.geometry, TYPES)
        # as the engine chooses without cuDNN: products take a transposed convolution of stride 1 only
        strided = layer.geometry.transposed and max(layer.geometry.stride) > 1
        skipped = ("cudnn", "separable", *(("gemm", "grouped") if strided else ()))
        algorithm = next(a for a in by_rule(problem) if a not in skipped)
        moved, patches = model.least_bytes(problem), model.patch_bytes(problem) if algorithm == "gemm" else 0
        flops = cost.flops(layer.geometry)
        times = (model.least_seconds(gpu, flops, moved + patches) for gpu in GPUS)
        cells = " | ".join(f"{seconds * 1e6:.1f} µs ({bound})" for seconds, bound in times)
        if algorithm == "fft":  # does less arithmetic than it says, and how much cuFFT moves is its own affair
            cells = " | ".join("not modelled" for _ in GPUS)
        yield (
            f"| {name} | {algorithm} | {flops / 1e6:.0f} | {moved / 2**20:.1f} MiB | "
            f"{f'{patches / 2**20:.1f} MiB' if patches else '–'} | {cells} |"
        )


def measured_table() -> Iterator[str]:
    """Milliseconds on the device, copies not counted: the median of several runs."""
    engine = CudaEngine()
    yield f"# {engine.device()}, float32, milliseconds"
    names = list(engine._algorithms)  # noqa: SLF001 - a benchmark looks inside
    yield f"| layer | {' | '.join(names)} | torch |"
    yield "| --- |" + " ---: |" * (len(names) + 1)
    for name, layer in catalogue().items():
        x, w, b = layer.arrays()
        problem = Problem(layer.geometry, types_of(x.dtype, w.dtype))
        cells = [_time(engine, algorithm, problem, w, b) for algorithm in names]
        yield f"| {name} | {' | '.join(cells)} | {_torch(layer.geometry, x, w, b)} |"
    engine.close()


def _time(engine: CudaEngine, name: str, problem: Problem, w: Any, b: Any) -> str:
    algorithm, device = engine._algorithms[name], engine._device  # noqa: SLF001
    if not algorithm.supports(problem) or (name == "separable" and not algorithm.accepts(problem, w)):  # type: ignore[attr-defined]
        return "–"
    try:
        with device.lane():
            return f"{time_on_device(device, algorithm.prepare(problem, w, b), problem):.4f}"
    except Exception as error:  # noqa: BLE001 - a refusal is a result
        return type(error).__name__


def _torch(g: Geometry, x: Any, w: Any, b: Any) -> str:
    """cuDNN through torch, in true float32."""
    try:
        import torch
    except ImportError:
        return "–"
    if not torch.cuda.is_available() or any(lo != hi for lo, hi in g.padding):
        return "–"
    torch.backends.cudnn.allow_tf32 = torch.backends.cuda.matmul.allow_tf32 = False
    torch.backends.cudnn.benchmark = True
    functional = torch.nn.functional
    tensors = [torch.from_numpy(a).cuda() for a in (x, w, b)]
    more: dict[str, Any] = {
        "stride": g.stride,
        "padding": [lo for lo, _ in g.padding],
        "dilation": g.dilation,
        "groups": g.groups,
    }
    if g.transposed:
        more["output_padding"] = g.output_padding
    operation = getattr(functional, f"conv_transpose{g.rank}d" if g.transposed else f"conv{g.rank}d")
    for _ in range(3):
        operation(*tensors, **more)
    times = []
    for _ in range(RUNS):
        start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        start.record()
        operation(*tensors, **more)
        end.record()
        torch.cuda.synchronize()
        times.append(start.elapsed_time(end))
    return f"{median(times):.4f}"


if __name__ == "__main__":
    main()
