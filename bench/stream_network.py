"""Images without end: networks over maps larger than memory, and the memory of each process.

A server with local workers, two of one thread if not told otherwise, runs in a process of its own. The client streams
a memory map of random pixels through the body of PNet (MTCNN's first network) and through a U-Net of 4 levels, with
seeded weights. Windows of the output are compared with what onnxruntime gives for their surroundings alone; up to 3,000
pixels the whole is.

    python bench/stream_network.py --size 2000
    python bench/stream_network.py --size 20000 --network unet --workers 1 --threads 2 --network-stream-mib 800
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
from network_models import pnet, unet
from onnx import ModelProto

import groupconv

WHOLE = 3000
"""Extent up to which the whole map is computed in one call, too."""
MARGIN = 192
"""Pixels around a window that is compared: more than any of the networks looks at, and a multiple of their strides."""


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
    parser.add_argument("--network-stream-mib", type=int, default=512, help="memory of the windows under way")
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
                   "--network-stream-mib", str(options.network_stream_mib)]  # fmt: skip
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
