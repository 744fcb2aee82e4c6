"""Streaming against the bare transport: an image through a 5×5 depthwise convolution and back.

    python bench/streaming.py [--mib 64] [--json FILE]

In one run: a bare gRPC echo of 1 MiB chunks, thrown away, then put into a memory map; the convolution by stream,
thrown away, then from a memory map into another: each is held against the echo that does the same with its files. The
same by one unary message where a message can hold it; the memory that client and server grow by; how much input had
been asked for when the first band was there. The image is a formula in a memory map, so `--mib 4096` needs 12 GiB of
disk and little memory. The whole answer is held against a local run, band by band, by its checksum; random windows
against the float64 reference.
"""

import argparse
import json
import multiprocessing
import tempfile
import time
import zlib
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import grpc
import numpy as np

import groupconv
from groupconv import ConvSpec, Step
from groupconv.convolution.dtypes import types_of
from groupconv.streaming.progress import Progress
from groupconv.wire.tensors import MAX_MESSAGE_BYTES
from groupconv_server.config import Config
from groupconv_server.coordinator.limits import Limits
from groupconv_server.memory.malloc import keep_pages
from groupconv_server.server import Server
from groupconv_worker import reference
from groupconv_worker.contract import Problem
from groupconv_worker.engines import create_engine

WIDTH, CHUNK, MIB = 8192, 2**20, 2**20
WEIGHT = np.random.default_rng(0).integers(-9, 10, (1, 1, 5, 5)).astype(np.float32)
"""Whole numbers, as the image's, so that every sum is exact in float32 and a checksum does not depend on rounding."""
SPEC = ConvSpec(padding=2)


def rows(start: int, stop: int) -> np.ndarray:
    """The image's rows by formula: integers below 256, so that sums are moderate."""
    i, j = np.arange(start, stop, dtype=np.uint32)[:, None], np.arange(WIDTH, dtype=np.uint32)[None]
    return ((i * 2654435761 ^ j * 40503) >> 7 & 255).astype(np.float32)


def growth(pid: int, before: int = 0) -> int:
    """Resident anonymous bytes of a process, less `before`: file-backed pages of a memory map are the kernel's."""
    text = Path(f"/proc/{pid}/status").read_text()
    return int(text.split("RssAnon:")[1].split()[0]) * 1024 - before


def serve(pipe: Any) -> None:
    """A server and a bare echo in a process of their own, which keeps freed pages as `groupconv serve` does."""
    keep_pages()
    echo = grpc.server(ThreadPoolExecutor(4), options=[("grpc.max_receive_message_length", -1)])
    handler: Any = grpc.stream_stream_rpc_method_handler(lambda requests, _: requests)
    echo.add_generic_rpc_handlers((grpc.method_handlers_generic_handler("Echo", {"Chunks": handler}),))
    port = echo.add_insecure_port("127.0.0.1:0")
    echo.start()
    limits = Limits(message_bytes=MAX_MESSAGE_BYTES)
    with Server(Config(port=0, executor="local", workers=1, limits=limits)) as server:
        pipe.send((server.address, f"127.0.0.1:{port}"))
        pipe.recv()
    echo.stop(None)


def measure(mib: int, folder: Path) -> dict[str, Any]:
    """Everything, in seconds and bytes."""
    height = mib * MIB // (WIDTH * 4)
    x = np.lib.format.open_memmap(folder / "in.npy", "w+", np.float32, (1, 1, height, WIDTH))
    for at in range(0, height, 256):
        x[0, 0, at : at + 256] = rows(at, min(height, at + 256))
    x.flush()
    out = np.lib.format.open_memmap(folder / "out.npy", "w+", np.float32, x.shape)
    ours, theirs = multiprocessing.get_context("spawn").Pipe()
    process = multiprocessing.get_context("spawn").Process(target=serve, args=(theirs,))
    process.start()
    address, echo = ours.recv()
    found: dict[str, Any] = {"mib": mib, "shape": list(x.shape)}
    with groupconv.connect(address, timeout=None) as client:
        client.stream_convolve(x[:, :, :512], [Step(WEIGHT, spec=SPEC)])  # compiled, buffers there
        found["echo_seconds"] = timed_echo(echo, x)
        kept = np.lib.format.open_memmap(folder / "echo.npy", "w+", np.float32, x.shape)
        found["echo_into_map_seconds"] = timed_echo(echo, x, kept)
        (folder / "echo.npy").unlink()
        del kept
        begin = time.perf_counter()
        client.stream_convolve(x, [Step(WEIGHT, spec=SPEC)], out=Dropped(x))
        found["stream_thrown_away_seconds"] = time.perf_counter() - begin
        found.update(timed_stream(client, process.pid or 0, x, out))
        if 2 * x.nbytes < MAX_MESSAGE_BYTES:
            begin = time.perf_counter()
            client.run(x, [Step(WEIGHT, spec=SPEC)])
            found["unary_seconds"] = time.perf_counter() - begin
            found["stream_per_unary"] = found["stream_seconds"] / found["unary_seconds"]
    ours.send(None)
    process.join()
    found["throughput_per_echo"] = found["echo_into_map_seconds"] / found["stream_seconds"]
    found["throughput_per_echo_thrown_away"] = found["echo_seconds"] / found["stream_thrown_away_seconds"]
    found["mib_per_second"] = mib / found["stream_seconds"]
    check(x, out)
    return found


def timed_echo(target: str, x: np.ndarray, into: np.ndarray | None = None) -> float:
    """Seconds for the image's bytes to the server and back in chunks of 1 MiB, thrown away or put into a memory map."""
    flat = x.reshape(-1).view(np.uint8)
    kept = None if into is None else into.reshape(-1).view(np.uint8)

    def chunks() -> Iterator[bytes]:
        for at in range(0, len(flat), CHUNK):
            yield flat[at : at + CHUNK].tobytes()

    with grpc.insecure_channel(target) as channel:
        begin = time.perf_counter()
        got = 0
        for chunk in channel.stream_stream("/Echo/Chunks")(chunks()):
            if kept is not None:
                kept[got : got + len(chunk)] = np.frombuffer(chunk, np.uint8)
            got += len(chunk)
        seconds = time.perf_counter() - begin
    assert got == x.nbytes
    return seconds


class Counted:
    """The image, which counts the rows that were asked for."""

    def __init__(self, array: np.ndarray) -> None:
        self.array, self.shape, self.dtype, self.sent = array, array.shape, array.dtype, 0

    def __getitem__(self, key: Any) -> np.ndarray:
        self.sent = key[-1].stop
        return self.array[key]


class Dropped:
    """Takes the output and keeps nothing."""

    def __init__(self, like: np.ndarray) -> None:
        self.shape, self.dtype = like.shape, like.dtype

    def __setitem__(self, key: Any, value: np.ndarray) -> None:
        pass


def timed_stream(client: groupconv.Client, server: int, x: np.ndarray, out: np.ndarray) -> dict[str, Any]:
    """The convolution by stream: seconds, growth of both processes, what was sent when the first band was there."""
    source, first, most = Counted(x), [], [0, 0]
    me = multiprocessing.current_process().pid or 0
    before = growth(me), growth(server)

    def seen(_: Progress) -> None:
        first.append(source.sent)
        most[0], most[1] = (max(most[i], growth(p, before[i])) for i, p in enumerate((me, server)))

    begin = time.perf_counter()
    client.stream_convolve(source, [Step(WEIGHT, spec=SPEC)], out=out, progress=seen)
    return {
        "stream_seconds": time.perf_counter() - begin,
        "bands": len(first),
        "sent_at_first_band": first[0] / x.shape[2],
        "client_growth_mib": most[0] / MIB,
        "server_growth_mib": most[1] / MIB,
    }


def check(x: np.ndarray, out: np.ndarray) -> None:
    """Random windows against the reference; the whole against a local run, by checksum of rounded rows."""
    rng, height = np.random.default_rng(1), x.shape[2]
    for _ in range(50):
        i, j = int(rng.integers(2, height - 40)), int(rng.integers(2, WIDTH - 40))
        window = np.ascontiguousarray(x[:, :, i - 2 : i + 34, j - 2 : j + 34])
        want = reference.convolve(window, WEIGHT, None, groupconv.resolve(ConvSpec(), window.shape, WEIGHT.shape))
        np.testing.assert_allclose(out[:, :, i : i + 32, j : j + 32], want, rtol=1e-4, atol=0.05)
    got = want = 0
    engine = create_engine("cpu", threads=2)
    for at in range(0, height, 512):
        low, high = max(0, at - 2), min(height, at + 514)
        part = np.asarray(x[:, :, low:high])
        spec = ConvSpec(padding=((2 if at == 0 else 0, 2 if high == height else 0), (2, 2)))
        g = groupconv.resolve(spec, part.shape, WEIGHT.shape)
        y = np.empty(g.output_shape, np.float32)
        engine.prepare(Problem(g, types_of(part.dtype, WEIGHT.dtype)), WEIGHT).run(part, y)
        got = zlib.crc32(np.ascontiguousarray(out[0, 0, at : at + y.shape[2]]) + 0, got)  # + 0: -0 is 0
        want = zlib.crc32(np.ascontiguousarray(y[0, 0]) + 0, want)
    engine.close()
    assert got == want, "the whole is not what a local run gives"
    print(f"50 windows agree with the reference; checksum of the whole {got:08x}, of a local run {want:08x}")


def main() -> None:
    """Run and report."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--mib", type=int, default=64, help="size of the image")
    parser.add_argument("--json", type=Path, help="also write the figures here")
    parser.add_argument("--folder", type=Path, help="where the memory maps go; default: a temporary folder")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory(dir=arguments.folder) as folder:
        found = measure(arguments.mib, Path(folder))
    for name, value in found.items():
        print(f"{name:>28}: {value:.3f}" if isinstance(value, float) else f"{name:>28}: {value}")
    if arguments.json:
        arguments.json.write_text(json.dumps(found, indent=2) + "\n")


if __name__ == "__main__":
    main()
