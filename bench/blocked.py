"""Kernels on channel-blocked tensors beside onnxruntime's inside a network, layer by layer.

    python bench/blocked.py [--networks resnet50,vgg16] [--threads 1] [--seconds 0.4]

onnxruntime runs each layer between two 1×1 convolutions, so that it is in the layout of a network; its profile says
what the layer itself takes. Ours is a program of the layer alone, a few times if it is short, less what an empty
program takes. Both take turns, and each figure is the least of all turns. Set GROUPCONV_SIMD=avx2 to measure what
processors without AVX-512 run.
"""

import argparse
import json
import math
import tempfile
import time
from collections import defaultdict
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import numpy as np
import onnxruntime
from onnx import TensorProto, helper, numpy_helper

from groupconv import ConvSpec, resolve
from groupconv_worker.cpu.blocked.convolution import convolution
from groupconv_worker.cpu.blocked.epilogue import Epilogue
from groupconv_worker.cpu.blocked.layout import Blocked, Plain, aligned, blocked
from groupconv_worker.cpu.program import Program
from groupconv_worker.cpu.stages import Scratch
from groupconv_worker.cpu.threads import Team
from groupconv_worker.cpu.workspace import BufferPool

LAYERS = """
resnet50    3 64 224 7 2 1 1
resnet50    64 64 56 1 1 1 1
resnet50    64 64 56 3 1 1 3
resnet50    64 256 56 1 1 1 4
resnet50    256 64 56 1 1 1 2
resnet50    256 128 56 1 2 1 1
resnet50    256 512 56 1 2 1 1
resnet50    128 128 28 3 1 1 4
resnet50    128 512 28 1 1 1 4
resnet50    512 128 28 1 1 1 3
resnet50    512 256 28 1 2 1 1
resnet50    512 1024 28 1 2 1 1
resnet50    256 256 14 3 1 1 6
resnet50    256 1024 14 1 1 1 6
resnet50    1024 256 14 1 1 1 5
resnet50    1024 512 14 1 2 1 1
resnet50    1024 2048 14 1 2 1 1
resnet50    512 512 7 3 1 1 3
resnet50    512 2048 7 1 1 1 3
resnet50    2048 512 7 1 1 1 2
squeezenet  3 64 224 3 2 1 1
squeezenet  64 16 55 1 1 1 1
squeezenet  16 64 55 1 1 1 2
squeezenet  16 64 55 3 1 1 2
squeezenet  128 32 27 1 1 1 1
squeezenet  32 128 27 1 1 1 2
squeezenet  32 128 27 3 1 1 2
squeezenet  256 48 13 1 1 1 1
squeezenet  48 192 13 1 1 1 2
squeezenet  48 192 13 3 1 1 2
squeezenet  64 256 13 3 1 1 2
squeezenet  512 1000 13 1 1 1 1
mobilenetv2 3 32 224 3 2 1 1
mobilenetv2 32 32 112 3 1 32 1
mobilenetv2 32 16 112 1 1 1 1
mobilenetv2 16 96 112 1 1 1 1
mobilenetv2 96 96 112 3 2 96 1
mobilenetv2 96 24 56 1 1 1 1
mobilenetv2 24 144 56 1 1 1 2
mobilenetv2 144 144 56 3 1 144 1
mobilenetv2 144 144 56 3 2 144 1
mobilenetv2 144 32 28 1 1 1 1
mobilenetv2 32 192 28 1 1 1 3
mobilenetv2 192 192 28 3 1 192 2
mobilenetv2 192 192 28 3 2 192 1
mobilenetv2 384 384 14 3 1 384 4
mobilenetv2 384 64 14 1 1 1 3
mobilenetv2 64 384 14 1 1 1 4
mobilenetv2 576 576 14 3 1 576 2
mobilenetv2 96 576 14 1 1 1 3
mobilenetv2 576 576 14 3 2 576 1
mobilenetv2 960 960 7 3 1 960 3
mobilenetv2 160 960 7 1 1 1 3
mobilenetv2 960 160 7 1 1 1 2
mobilenetv2 320 1280 7 1 1 1 1
shufflenet  3 24 224 3 2 1 1
shufflenet  112 112 56 3 2 112 1
shufflenet  136 136 28 3 1 136 3
shufflenet  136 136 28 1 1 4 3
shufflenet  272 272 14 3 1 272 7
shufflenet  272 272 14 1 1 4 14
shufflenet  544 544 7 1 1 4 6
resnext50   128 128 56 3 1 32 3
resnext50   256 256 28 3 1 32 3
resnext50   512 512 14 3 1 32 5
alexnet     3 96 224 11 4 1 1
alexnet     96 256 26 5 1 2 1
alexnet     256 384 12 3 1 1 1
alexnet     384 384 12 3 1 2 1
alexnet     384 256 12 3 1 2 1
vgg16       3 64 224 3 1 1 1
vgg16       64 64 224 3 1 1 1
vgg16       64 128 112 3 1 1 1
vgg16       128 128 112 3 1 1 1
vgg16       256 256 56 3 1 1 2
vgg16       512 512 28 3 1 1 2
vgg16       512 512 14 3 1 1 3
"""
"""Network, channels, filters, extent, kernel, stride, groups, how many of them the network has."""
ENOUGH = 4e-4
"""Seconds of a program, at least: of ours, and of one that is not so long that other work interrupts it each time."""
MOST = 20
"""Times that a program has the layer, at most."""
FEWEST = 20
"""Turns of a layer, at least."""
ROW = "{:12} {:28} {:>9} {:>9} {:>8} {:>8} {:>6}"


class Layer(NamedTuple):
    """A convolution with padding K // 2 and Relu, and how many of them the network has."""

    network: str
    channels: int
    filters: int
    extent: int
    kernel: int
    stride: int
    groups: int
    count: int

    @property
    def weight_shape(self) -> tuple[int, int, int, int]:
        """(M, C/g, K, K)."""
        return self.filters, self.channels // self.groups, self.kernel, self.kernel

    @property
    def outputs(self) -> int:
        """Rows of the output."""
        return (self.extent + 2 * (self.kernel // 2) - self.kernel) // self.stride + 1

    @property
    def macs(self) -> int:
        """Multiply-adds."""
        return math.prod(self.weight_shape) * self.outputs**2

    def __str__(self) -> str:
        kind = f"{self.kernel}×{self.kernel}" + (f"/{self.stride}" if self.stride > 1 else "")
        groups = f" g{self.groups}" if self.groups > 1 else ""
        return f"{self.channels}→{self.filters} {kind} at {self.extent}{groups}"


class Peer:
    """onnxruntime with the layer between two others."""

    def __init__(self, layer: Layer, threads: int, folder: str) -> None:
        rng = np.random.default_rng(0)
        nodes, constants = [], []

        def add(name: str, shape: tuple[int, ...], stride: int, groups: int) -> None:
            before = nodes[-1].output[0] if nodes else "x"
            w = (rng.standard_normal(shape) / np.sqrt(np.prod(shape[1:]))).astype(np.float32)
            constants.append(numpy_helper.from_array(w, f"{name}_w"))
            options = {"pads": [shape[2] // 2] * 4, "strides": [stride] * 2, "group": groups}
            nodes.append(helper.make_node("Conv", [before, f"{name}_w"], [f"{name}_sum"], name=name, **options))
            nodes.append(helper.make_node("Relu", [f"{name}_sum"], [f"{name}_out"]))

        stem = layer.channels <= 4  # reads the network's input
        if not stem:
            add("before", (layer.channels, 4, 1, 1), 1, 1)
        add("layer", layer.weight_shape, layer.stride, layer.groups)
        add("after", (8, layer.filters, 1, 1), 1, 1)
        shape = [1, layer.channels if stem else 4, layer.extent, layer.extent]
        value = helper.make_tensor_value_info
        ends = [value("x", TensorProto.FLOAT, shape)], [value("after_out", TensorProto.FLOAT, None)]
        graph = helper.make_graph(nodes, "layer", *ends, constants)
        model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads, options.log_severity_level = threads, 4
        options.enable_profiling, options.profile_file_prefix = True, f"{folder}/profile"
        self.session = onnxruntime.InferenceSession(model.SerializeToString(), options)
        self.x = rng.standard_normal(shape).astype(np.float32)

    def run(self) -> None:
        """Once."""
        self.session.run(None, {"x": self.x})

    def seconds(self) -> float:
        """The least that the layer took, of all runs."""
        events = json.loads(Path(self.session.end_profiling()).read_text())
        found = [e["dur"] for e in events if e.get("cat") == "Node" and e["name"].startswith("layer")]
        return float(min(found)) / 1e6


def program(layer: Layer, team: Team, repeats: int, winograd: bool | None) -> Callable[[], None]:
    """The layer so many times in one program."""
    rng = np.random.default_rng(0)
    spec = ConvSpec(padding=layer.kernel // 2, stride=layer.stride, groups=layer.groups)
    g = resolve(spec, (1, layer.channels, layer.extent, layer.extent), layer.weight_shape)
    margin = (layer.kernel // 2,) * 4
    stem = layer.channels <= 4
    extents = layer.channels, layer.extent, layer.extent
    x_layout = Plain(*extents) if stem else Blocked(*extents, margin=margin)
    y_layout = Blocked(layer.filters, layer.outputs, layer.outputs, margin=margin)
    data = rng.standard_normal(extents).astype(np.float32)
    x = data if isinstance(x_layout, Plain) else blocked(data, x_layout)
    y = aligned(y_layout.nbytes // 4)
    w = rng.standard_normal(layer.weight_shape).astype(np.float32)
    bias = np.zeros(layer.filters, np.float32)
    lowered = convolution(g, x_layout, y_layout, w, bias, Epilogue(("Relu",)), use_winograd=winograd)
    scratch = Scratch()
    scratch.room(lowered.scratch, np.dtype(np.uint8))
    made = Program(team, BufferPool(), lowered.stages * repeats, scratch)
    return lambda: made.run(x[None], y[None])


def measure(layer: Layer, team: Team, seconds: float, winograd: bool | None) -> tuple[float, float]:
    """Seconds of onnxruntime's kernel and of ours."""
    with tempfile.TemporaryDirectory() as folder:
        peer = Peer(layer, team.threads, folder)
        once = min(timed(program(layer, team, 1, winograd)) for _ in range(3))
        repeats = min(MOST, max(1, round(ENOUGH / once)))
        empty, whole = (program(layer, team, count, winograd) for count in (0, repeats))
        nothing = ours = math.inf
        end, turns = time.perf_counter() + seconds, 0
        while turns < FEWEST or time.perf_counter() < end:
            peer.run()
            nothing, ours = min(nothing, timed(empty)), min(ours, timed(whole))
            turns += 1
        return peer.seconds(), (ours - nothing) / repeats


def timed(run: Callable[[], None]) -> float:
    """Seconds of a run."""
    start = time.perf_counter()
    run()
    return time.perf_counter() - start


def main() -> None:
    """Print the table, and each network's convolutions together."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--networks", default="", help="by commas; all by default")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--seconds", type=float, default=0.4, help="for each layer")
    parser.add_argument("--direct", action="store_true", help="without Winograd")
    options = parser.parse_args()
    rows = [line.split() for line in LAYERS.strip().splitlines()]
    layers = [Layer(name, *map(int, numbers)) for name, *numbers in rows]
    chosen = options.networks.split(",") if options.networks else [layer.network for layer in layers]
    team, found = Team(options.threads), defaultdict[str, list[tuple[int, float, float]]](list)
    print(ROW.format("network", "layer", "theirs ms", "ours ms", "G/s", "G/s", "ratio"))
    for layer in (layer for layer in layers if layer.network in chosen):
        theirs, ours = measure(layer, team, options.seconds, False if options.direct else None)
        found[layer.network].append((layer.count, theirs, ours))
        times = f"{theirs * 1e3:.3f}", f"{ours * 1e3:.3f}"
        rates = f"{layer.macs / theirs / 1e9:.1f}", f"{layer.macs / ours / 1e9:.1f}"
        print(ROW.format(layer.network, str(layer), *times, *rates, f"{ours / theirs:.2f}"), flush=True)
    for network, rows_of in found.items():
        theirs, ours = (sum(row[0] * row[i] for row in rows_of) for i in (1, 2))
        logs = sum(count * math.log(b / a) for count, a, b in rows_of)
        middle = math.exp(logs / sum(count for count, *_ in rows_of))
        print(f"{network}: {ours / theirs:.2f} of onnxruntime's time, geometric mean of the layers {middle:.2f}")
    team.close()


if __name__ == "__main__":
    main()
