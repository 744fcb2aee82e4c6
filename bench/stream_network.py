"""Images without end: networks over maps larger than memory, and the memory of each process.

A server with local workers, two of one thread if not told otherwise, runs in a process of its own. The client streams
a memory map of random pixels through the body of PNet (MTCNN's first network) and through a U-Net of 4 levels, with
seeded weights. Windows of the output are compared with what onnxruntime gives for their surroundings alone; up to 3,000
pixels the whole is.

    python bench/stream_network.py --size 2000
    python bench/stream_network.py --size 20000 --network unet --workers 1 --threads 2 --stream-mib 800
"""

import argparse
import hashlib
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path

import numpy as np
import onnxruntime
import psutil
from onnx import ModelProto, TensorProto, helper, numpy_helper

import groupconv

WHOLE = 3000
"""Extent up to which the whole map is computed in one call, too."""
MARGIN = 192
"""Pixels around a window that is compared: more than any of the networks looks at, and a multiple of their strides."""


class Net:
    """A network that grows node by node, with He's scale for weights."""

    def __init__(self) -> None:
        self.nodes: list[object] = []
        self.weights: list[object] = []
        self._rng = np.random.default_rng(0)

    def add(self, op: str, *inputs: str, weight: tuple[int, ...] = (), **attributes: object) -> str:
        """A node, with a weight and a bias where a shape of the weight is given."""
        name = f"{op}{len(self.nodes)}"
        names = list(inputs)
        if weight:
            taps = int(np.prod(weight[2:]))
            fan, outputs = (weight[1] * taps, weight[0]) if op == "Conv" else (weight[0], weight[1])
            arrays = self._rng.standard_normal(weight) * np.sqrt(2 / fan), self._rng.standard_normal(outputs) / 10
            for i, array in enumerate(arrays):
                names.append(f"{name}/{i}")
                self.weights.append(numpy_helper.from_array(array.astype(np.float32), names[-1]))
        self.nodes.append(helper.make_node(op, names, [name], name, **attributes))
        return name

    def convolve(self, x: str, before: int, after: int, kernel: int, pad: int = 0) -> str:
        """A convolution and relu."""
        made = self.add("Conv", x, weight=(after, before, kernel, kernel), pads=[pad] * 4)
        return self.add("Relu", made)

    def model(self, *outputs: str) -> ModelProto:
        """From (N, 3, H, W) of uint8."""
        shape = ["N", 3, "H", "W"]
        x = helper.make_tensor_value_info("x", TensorProto.UINT8, shape)
        made = [helper.make_tensor_value_info(name, TensorProto.FLOAT, ["N", None, None, None]) for name in outputs]
        graph = helper.make_graph(self.nodes, "graph", [x], made, self.weights)
        return helper.make_model(graph, ir_version=10, opset_imports=[helper.make_opsetid("", 21)])

    def pixels(self) -> str:
        """The input from -1 to 1."""
        x = self.add("Cast", "x", to=TensorProto.FLOAT)
        self.weights.append(numpy_helper.from_array(np.array([2 / 255], np.float32), "scale"))
        self.weights.append(numpy_helper.from_array(np.array([1], np.float32), "one"))
        return self.add("Sub", self.add("Mul", x, "scale"), "one")


def pnet() -> ModelProto:
    """PNet of MTCNN: 12 pixels to a face or none, and its box, at a stride of 2; pools round up."""
    net = Net()
    x = net.convolve(net.pixels(), 3, 10, 3)
    x = net.add("MaxPool", x, kernel_shape=[2, 2], strides=[2, 2], ceil_mode=1)
    x = net.convolve(net.convolve(x, 10, 16, 3), 16, 32, 3)
    face = net.add("Softmax", net.add("Conv", x, weight=(2, 32, 1, 1)), axis=1)
    return net.model(face, net.add("Conv", x, weight=(4, 32, 1, 1)))


def unet(levels: int = 4, base: int = 32) -> ModelProto:
    """A U-Net with `levels` pools, and `base` channels at full resolution."""
    net, skips = Net(), []
    x, channels = net.pixels(), 3
    for level in range(levels + 1):
        wide = base << level
        x = net.convolve(net.convolve(x, channels, wide, 3, 1), wide, wide, 3, 1)
        channels = wide
        if level < levels:
            skips.append(x)
            x = net.add("MaxPool", x, kernel_shape=[2, 2], strides=[2, 2])
    for skip in reversed(skips):
        x = net.add("ConvTranspose", x, weight=(channels, channels // 2, 2, 2), strides=[2, 2])
        x = net.add("Concat", skip, x, axis=1)
        channels //= 2
        x = net.convolve(net.convolve(x, 2 * channels, channels, 3, 1), channels, channels, 3, 1)
    return net.model(net.add("Sigmoid", net.add("Conv", x, weight=(1, channels, 1, 1))))


NETWORKS = {"pnet": (pnet, 2), "unet": (unet, 16)}
"""How each is made, and its total stride."""


class Peaks:
    """The largest memory of processes, without the pages of mapped files, read every 50 ms."""

    def __init__(self, **pids: int) -> None:
        self._processes = {name: psutil.Process(pid) for name, pid in pids.items()}
        self.bytes = dict.fromkeys(pids, 0)
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def _run(self) -> None:
        while not self._ended.wait(0.05):
            for name, process in self._processes.items():
                memory = process.memory_info()
                self.bytes[name] = max(self.bytes[name], memory.rss - memory.shared)

    def close(self) -> None:
        """Stop reading."""
        self._ended.set()
        self._thread.join()


def compare(model: ModelProto, step: int, x: np.ndarray, outputs: dict[str, np.ndarray]) -> float:
    """The largest difference from onnxruntime: on the whole if it is small, else on nine windows."""
    session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    height, width = x.shape[2:]
    if max(height, width) <= WHOLE:
        whole = session.run(list(outputs), {"x": np.asarray(x)})
        for name, y in zip(outputs, whole, strict=True):
            sums = [hashlib.sha256(np.ascontiguousarray(a).tobytes()).hexdigest()[:16] for a in (y, outputs[name])]
            print(f"  {name}: whole {sums[0]}, streamed {sums[1]}")
        return max(float(np.abs(y - outputs[name]).max()) for name, y in zip(outputs, whole, strict=True))
    worst = 0.0
    for top in (0, height // 2 // step * step + 5 * step, (height - 700) // step * step):
        for left in (0, width // 3 // step * step, (width - 700) // step * step):
            ends = [None if start + 700 + step > n else start + 512 for start, n in ((top, height), (left, width))]
            part = x[:, :, top : ends[0], left : ends[1]]
            for name, y in zip(outputs, session.run(list(outputs), {"x": np.ascontiguousarray(part)}), strict=True):
                whole = outputs[name]
                scale = [round(n / m) for n, m in zip(x.shape[2:], whole.shape[2:], strict=True)]
                # what lies within the margin of an inner edge differs
                before = [0 if start == 0 else MARGIN // s for start, s in zip((top, left), scale, strict=True)]
                after = [
                    n if end is None else n - MARGIN // s for end, n, s in zip(ends, y.shape[2:], scale, strict=True)
                ]
                rows, columns = (slice(a, b) for a, b in zip(before, after, strict=True))
                at = [start // s for start, s in zip((top, left), scale, strict=True)]
                there = whole[
                    :, :, at[0] + rows.start : at[0] + rows.stop, at[1] + columns.start : at[1] + columns.stop
                ]
                worst = max(worst, float(np.abs(y[:, :, rows, columns] - there).max()))
    return worst


def main() -> None:
    """Run it."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--size", type=int, default=2000, help="height and width of the image")
    parser.add_argument("--rows", type=int, help="height, if it is another")
    parser.add_argument("--network", choices=NETWORKS, action="append")
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--threads", type=int, default=1, help="of each worker")
    parser.add_argument("--stream-mib", type=int, default=512, help="memory of the windows under way")
    parser.add_argument("--folder", type=Path, help="for image and outputs: 13 bytes a pixel at most")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(dir=options.folder) as folder:
        shape = (1, 3, options.rows or options.size, options.size)
        image = np.lib.format.open_memmap(Path(folder) / "x.npy", "w+", np.uint8, shape)
        rng = np.random.default_rng(1)
        for row in range(0, shape[2], 500):
            image[:, :, row : row + 500] = rng.integers(0, 256, image[:, :, row : row + 500].shape, np.uint8)
        command = [sys.executable, "-m", "groupconv_server", "serve", "--port", "0", "--executor", "local",
                   "--workers", str(options.workers), "--threads", str(options.threads),
                   "--network-stream-mib", str(options.stream_mib)]  # fmt: skip
        server = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
        try:
            assert server.stdout is not None
            address = next(word for word in server.stdout.readline().split() if ":" in word and word[-1].isdigit())
            for name in options.network or NETWORKS:
                measure(name, image, address, server.pid, Path(folder))
        finally:
            server.terminate()
            server.wait()


def measure(name: str, image: np.ndarray, address: str, server: int, folder: Path) -> None:
    """Stream the image through one network."""
    make, step = NETWORKS[name]
    model = make()
    with groupconv.connect(address, timeout=600) as client, client.load_network(name, model) as net:
        plan = client.plan_stream(net, image)
        print(f"{name}\n{plan}")
        out = {
            info.name: np.lib.format.open_memmap(folder / f"{info.name}.npy", "w+", info.dtype, info.shape)
            for info in plan.outputs
        }
        peaks = Peaks(client=psutil.Process().pid, server=server)
        begin = time.monotonic()
        client.stream_network(net, image, out=out if len(out) > 1 else next(iter(out.values())))
        seconds = time.monotonic() - begin
        peaks.close()
    memory = ", ".join(f"{who} {size / 2**20:.0f} MiB" for who, size in peaks.bytes.items())
    print(f"  {seconds:.1f} s, {image[0, 0].size / seconds / 1e6:.2f} Mpixel/s; at most {memory}")
    print(f"  largest difference {compare(model, step, image, out):.3g}", flush=True)


if __name__ == "__main__":
    main()
