"""The planner's rates of an H200, from the times of calls that docs/cuda-engine.md has for it.

    python bench/h200.py        how well the planner's model of a shard describes those times

A call's time contains its copies to and from the device. So `Rates.memory` is what the bus and the copies carry, and
`Rates.multiply_adds` what is left to computing. All are fitted at once to the tables of batch 1 and 32: the sum of the
squares of log(model / measured) is least.
"""

import re
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import least_squares

from groupconv.convolution import cost
from groupconv.convolution.dtypes import types_of
from groupconv.text import table
from groupconv_server.layers.catalogue import layer_named
from groupconv_server.planner.rates import CLASSES, Rates, class_of
from groupconv_worker.contract import Problem

DOCUMENT = Path(__file__).parents[1] / "docs/cuda-engine.md"
F32 = np.dtype("float32")
MIB = 2**20

LANE = {"link": 128 * MIB / 10.3e-3, "latency": 2.2e-4, "dispatch": 5e-5}
"""A worker's lane on the coordinator's node, as measured (docs/lanes.md, one worker): 64 MiB in and out in 10.3 ms,
1 KiB in 0.22 ms. The time to send a shard is that of docs/scaling.md."""
NETWORK = LANE | {"link": 12.5e9}
"""The same on another node, if a network of 100 Gb/s were all that limits it: an assumption."""
PEAK = 33.5e12
"""Multiply-adds of float32 per second, by the data sheet. No class is taken to be faster."""
OTHERWISE = ("photo_gauss31_1080p",)
"""Rows of an algorithm that is no longer chosen."""


def timings(*, on_device: bool = False) -> list[tuple[str, Problem, float]]:
    """Name, problem and measured seconds of every row of the tables of batch 1 and 32.

    Args:
        on_device: the time on the device, in place of that of a call.
    """
    before = 1 if on_device else 5
    text = DOCUMENT.read_text().partition("## Measured")[2].partition("## On paper")[0]
    found = []
    for batch, rows in re.findall(r"### Batch (\d+)\n(.*?)(?=\n### |\Z)", text, re.DOTALL):
        pattern = rf"^\| (\w+) \|(?:[^|]*\|){{{before}}} ([\d.]+) \|"
        for name, call in re.findall(pattern, rows, re.MULTILINE):
            geometry = layer_named(name).geometry.with_batch(int(batch))
            found.append((name, Problem(geometry, types_of(F32, F32)), float(call) * 1e-6))
    return found


def kernel(problem: Problem) -> int:
    """Bytes of the kernel. The measured calls have it on the device already."""
    return int(np.prod(problem.geometry.weight_shape)) * problem.types.weight.itemsize


def maps(problem: Problem) -> int:
    """Bytes of input and output, which every call copies."""
    g, types = problem.geometry, problem.types
    return cost.bytes_in(g, types) + cost.bytes_out(g, types) - kernel(problem)


def rates(link: float, latency: float, dispatch: float, *, on_device: bool = False) -> Rates:
    """The rates of an H200 behind such a link; with `on_device` for tensors that are on the device already."""
    measured = [(p, seconds) for name, p, seconds in timings(on_device=on_device) if name not in OTHERWISE]
    k = np.array([class_of(p.geometry) for p, _ in measured])
    adds = np.array([cost.multiply_adds(p.geometry) for p, _ in measured], float)
    moved = np.array([maps(p) for p, _ in measured])
    seconds = np.array([seconds for _, seconds in measured])
    n = len(CLASSES)

    def errors(logs: NDArray[np.float64]) -> NDArray[np.float64]:
        overhead, each_add, each_byte = logs[:n], logs[n : 2 * n], logs[-1]
        modeled = np.exp(overhead)[k] + adds * np.exp(each_add)[k] + moved * np.exp(each_byte)
        return np.log(modeled / seconds)

    start = np.log([*(5e-5,) * n, *(1e-13,) * n, 1 / 25e9])
    least = np.log([*(1e-9,) * n, *(1 / PEAK,) * n, 1e-12])
    found = np.exp(least_squares(errors, start, bounds=(least, 0)).x)
    return Rates(
        multiply_adds=tuple(float(1 / each) for each in found[n : 2 * n]),
        overhead=tuple(map(float, found[:n])),
        memory=float(1 / found[-1]),
        link=link,
        latency=latency,
        dispatch=dispatch,
    )


def main() -> None:
    """Print the rates, and each layer's time as measured and as the model has it: a call, and on the device alone."""
    for on_device in (False, True):
        fitted = rates(**LANE, on_device=on_device)
        print("on the device" if on_device else "a call", fitted)
        print("overheads", ", ".join(f"{o * 1e6:.0f} µs" for o in fitted.overhead))
        rows = [("layer", "batch", "measured", "model")]
        ratios = []
        for name, problem, seconds in timings(on_device=on_device):
            modeled = fitted.compute_seconds(problem) - kernel(problem) / fitted.memory
            ratios.append(max(modeled / seconds, seconds / modeled))
            rows.append((name, str(problem.geometry.batch), f"{seconds * 1e6:.0f} µs", f"{modeled * 1e6:.0f} µs"))
        print(table(rows))
        print(f"off by {np.median(ratios):.2f} × (median), {max(ratios):.2f} × (worst)\n")


if __name__ == "__main__":
    main()
