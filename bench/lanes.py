"""Lanes beside a bare socket: the time of bytes that travel to a worker and back.

`bare` is a TCP connection on which a peer returns what it receives. The worker of a lane copies the bytes once more
before it returns them. Sides take turns; of each, the least time counts.

    python bench/lanes.py                              # the worker is on this machine, by loopback
    PYTHONPATH=tests python bench/lanes.py --namespaces  # root: it is in a network namespace of its own
"""

import argparse
import json
import secrets
import socket
import struct
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from functools import partial
from typing import Any

import numpy as np

from groupconv_server.executors.lanes.lane import Lane
from groupconv_worker.lanes.endpoint import LaneEndpoint
from groupconv_worker.lanes.frames import BrokenLaneError, receive_into
from groupconv_worker.lanes.sockets import watch

SIZES = (2**10, 2**16, 2**20, 2**24)
"""Bytes in each direction."""
SIZE = struct.Struct("<Q")


def work(key: bytes, host: str) -> None:
    """Be the worker until stdin is closed: say where its endpoints and the bare socket are."""
    lanes = [LaneEndpoint(lambda *_, **__: None, key, where) for where in (None, host)]
    listener = socket.create_server((host, 0))
    print(json.dumps([*(lane.address for lane in lanes), listener.getsockname()]), flush=True)
    sock, _ = listener.accept()
    watch(sock)
    head, buffer = bytearray(SIZE.size), bytearray(max(SIZES))
    while True:
        try:
            receive_into(sock, head)
        except BrokenLaneError:
            return
        view = memoryview(buffer)[: SIZE.unpack(head)[0]]
        receive_into(sock, view)
        sock.sendall(view)


@contextmanager
def worker(host: str, key: bytes, prefix: Sequence[str] = ()) -> Iterator[list[Any]]:
    """A worker in a process of its own; yields the addresses of its two endpoints and of the bare socket."""
    command = [*prefix, sys.executable, __file__, "--work", key.hex(), "--host", host]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout is not None
            yield [
                tuple(found) if isinstance(found, list) else found for found in json.loads(process.stdout.readline())
            ]
        finally:
            process.kill()


def measure(near: Lane, far: Lane, bare: socket.socket, seconds: float) -> None:
    """Print the table."""
    connections = [lane.take() for lane in (near, far)]
    print("| bytes each way | shared memory | TCP lane | bare TCP | TCP lane / bare | shared memory / bare |")
    print("| ---: | ---: | ---: | ---: | ---: | ---: |")
    for size in SIZES:
        x = np.arange(size, dtype=np.uint8)
        out = np.zeros_like(x)

        def plain(x: np.ndarray = x, out: np.ndarray = out) -> None:
            bare.sendall(SIZE.pack(x.nbytes), socket.MSG_MORE)
            bare.sendall(x.data)
            receive_into(bare, out.data)

        calls = [*(partial(connection.echo, x, out) for connection in connections), plain]
        least = [timed(call, x, out) for call in calls]
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            least = [min(before, timed(call, x, out)) for before, call in zip(least, calls, strict=True)]
        cells = [f"{1e6 * t:.0f} µs" if size < 2**20 else f"{2 * size / t / 1e9:.2f} GB/s" for t in least]
        print(f"| {size} | {' | '.join(cells)} | {least[1] / least[2]:.2f} | {least[0] / least[2]:.2f} |", flush=True)


def timed(call: Callable[[], None], x: np.ndarray, out: np.ndarray) -> float:
    """Seconds of a call, whose result is checked."""
    out[:] = 0
    start = time.perf_counter()
    call()
    seconds = time.perf_counter() - start
    assert np.array_equal(x, out)
    return seconds


def main() -> None:
    """Measure, or be the worker."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--namespaces", action="store_true", help="put the far worker in a network namespace of its own"
    )
    parser.add_argument("--seconds", type=float, default=3.0, help="for each size")
    parser.add_argument("--work", help=argparse.SUPPRESS)
    parser.add_argument("--host", default="127.0.0.1", help=argparse.SUPPRESS)
    parser.add_argument("--far", nargs="*", default=[], help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.work:
        work(bytes.fromhex(options.work), options.host)
        return
    if options.namespaces:
        import hosts  # type: ignore[import-not-found] # of tests/

        with hosts.hosts(2) as (here, there):
            command = [*hosts.on(here), sys.executable, __file__, "--seconds", str(options.seconds)]
            subprocess.run([*command, "--host", hosts.address(1), "--far", *hosts.on(there)], check=True)
        return
    key = secrets.token_bytes(32)
    with ExitStack() as stack:
        local, *_ = stack.enter_context(worker("127.0.0.1", key))
        _, tcp, bare = stack.enter_context(worker(options.host, key, options.far))
        sock = stack.enter_context(socket.create_connection(bare))
        watch(sock)
        measure(Lane(local, key), Lane(tcp, key), sock, options.seconds)


if __name__ == "__main__":
    main()
