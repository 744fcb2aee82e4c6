"""The benchmarks for a device run under emulation: what they print is nobody's measurement."""

import importlib
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from emulation import needs_compiler
from emulation.stand_in import as_cupy
from groupconv.convolution.geometry import resolve
from groupconv.convolution.spec import ConvSpec
from groupconv_server.layers.catalogue import catalogue

pytestmark = needs_compiler
BENCH = str(Path(__file__).parents[3] / "bench")
TINY = {"alexnet_conv2": (ConvSpec(padding=1, groups=2), (1, 8, 6, 6), (8, 4, 3, 3))}


@pytest.fixture
def gpu(monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    """bench/gpu.py with a layer of a few pixels, few runs, and tuning."""
    monkeypatch.setenv("GROUPCONV_TUNE", "on")
    monkeypatch.syspath_prepend(BENCH)
    monkeypatch.setitem(sys.modules, "torch", None)  # it would look for a device of its own
    gpu, gpu_calls = (importlib.import_module(name) for name in ("gpu", "gpu_calls"))
    layers = {n: replace(catalogue()[n], spec=spec, geometry=resolve(spec, x, w)) for n, (spec, x, w) in TINY.items()}
    for module in (gpu, gpu_calls):
        monkeypatch.setattr(module, "catalogue", lambda: layers)
        monkeypatch.setattr(module, "REPEATS", 2)
    monkeypatch.setattr(gpu, "FILL", 2**10)
    monkeypatch.setattr(gpu_calls, "LAYERS", tuple(TINY))
    monkeypatch.setattr(gpu_calls, "CHUNKS", (4,))
    monkeypatch.setattr(gpu_calls, "COPIERS", ((1, 1024),))
    monkeypatch.setattr(gpu_calls, "CALLERS", (1, 2))
    return gpu


@pytest.mark.parametrize(
    "options",
    [
        ["--batch", "1"],
        ["--math", "tf32"],
        ["--dtype", "float16", "--layout", "NHWC"],
        ["--dtype", "bfloat16", "--batch", "2"],
    ],
    ids=" ".join,
)
def test_every_algorithm_and_a_call_are_timed(
    gpu: Any, options: list[str], monkeypatch: pytest.MonkeyPatch, capsys: Any
):
    monkeypatch.setattr(sys, "argv", ["gpu.py", "--layer", *TINY, *options])
    with as_cupy(with_cudnn=True), np.errstate(all="ignore"):
        gpu.main()
    head, _, row, *rest = [line for line in capsys.readouterr().out.splitlines() if line.startswith("|")]
    cells = dict(zip(head.split(" | "), row.split(" | "), strict=True))
    for column in ("direct", "gemm", "grouped", "cudnn", "cudnn fused"):
        assert float(cells[column]) > 0, column
    assert "OutOfMemory" not in row
    assert "Error" not in row
    assert bool(rest) == (options == ["--batch", "1"])  # tables of calls
