"""Networks served beside a plain grpcio service around onnxruntime: first answer, latency, requests/s.

    python bench/networks.py [FILE.onnx|NAME ...] [--input x=1,3,640,640] [--clients 8] [--rounds 3] [--no-server]

First the engine: our own program beside onnxruntime, at one thread and two (network_engine.py). Then the services.

Both services have a session of as many threads as there are cores. The plain one takes and gives raw bytes and does
nothing else. Once the server has decided between its program and its session, they are asked in turns, and each figure
is the median of the rounds. "first" is from the model's bytes to the first answer, with sending and loading; "call" is
the first call after loading. Both are compared with what the plain session takes from the bytes to its first answer. A
NAME is one of network_models.py; without any, those and the networks that the onnx package ships are measured. Inputs
with free axes take their shape from --input, or from the table there.
"""

import argparse
import statistics
import time
from collections import defaultdict
from collections.abc import Mapping
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import psutil
from network_engine import HEADER, compare, drawn, summary
from network_models import DRAWN, LIGHT, SHAPES
from processes import CORES, UNLIMITED, Process, closed, serve, serve_bare


def session_of(data: bytes) -> Any:
    """A plain session of all threads."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads, options.log_severity_level = CORES, 4
    return onnxruntime.InferenceSession(data, options, providers=["CPUExecutionProvider"])


def plain(pipe: Connection, data: bytes, x: np.ndarray) -> None:
    """onnxruntime behind one grpcio method."""
    session = session_of(data)
    name, shape, dtype = session.get_inputs()[0].name, x.shape, x.dtype

    def call(raw: bytes, _context: object) -> bytes:
        x = np.frombuffer(raw, dtype).reshape(shape)
        y: np.ndarray = session.run(None, {name: x})[0]
        return y.tobytes()

    serve_bare(pipe, call)


def load(pipe: Connection, kind: str, target: str, x: np.ndarray) -> None:
    """A client; asked for seconds it says its latencies."""
    import groupconv

    if kind == "plain":
        unary: Any = grpc.insecure_channel(target, options=UNLIMITED).unary_unary("/Echo/Call")

        def call() -> Any:
            return np.frombuffer(unary(x.tobytes()), np.float32)

    else:
        net = groupconv.connect(target).get_network("net")

        def call() -> Any:
            return net(x)

    for _ in range(5):
        call()
    pipe.send(None)
    while (seconds := pipe.recv()) is not None:
        pipe.send(closed(call, seconds)[0])


def first_answers(data: bytes, target: str, x: np.ndarray) -> dict[str, float]:
    """Seconds from the model to the first answer: a plain session in this process, the server, its first call alone."""
    import groupconv

    start = time.perf_counter()
    session = session_of(data)
    session.run(None, {session.get_inputs()[0].name: x})
    middle = time.perf_counter()
    with groupconv.connect(target) as client:
        net = client.load_network("net", data)
        loaded = time.perf_counter()
        net(x)
    end = time.perf_counter()
    return {"first_plain": middle - start, "first_ours": end - middle, "call_ours": end - loaded}


def settled(target: str, inputs: Mapping[str, np.ndarray], patience: float) -> str:
    """Call until the server has decided between program and session, at most so many seconds; who answers then."""
    import groupconv

    limit = time.monotonic() + patience
    with groupconv.connect(target) as client:
        net = client.get_network("net")
        part = net.run(inputs=inputs).report.parts[0]
        while "being compiled" in part.reason and time.monotonic() < limit:
            time.sleep(0.2)
            part = net.run(inputs=inputs).report.parts[0]
    return part.algorithm


def models(names: list[str], given: dict[str, tuple[int, ...]]) -> dict[str, tuple[bytes, dict[str, tuple[int, ...]]]]:
    """Models and the shapes of their inputs by name, without those whose shape is free and not given."""
    from groupconv_worker.graph.model import read_model

    found = {}
    for name in names:
        data, stem = (
            (DRAWN[name]().SerializeToString(), name) if name in DRAWN else (Path(name).read_bytes(), Path(name).stem)
        )
        known = SHAPES.get(stem, {}) | given
        shapes = {info.name: known.get(info.name, info.shape) for info in read_model(data).inputs}
        free = [x for x, shape in shapes.items() if not all(isinstance(extent, int) for extent in shape)]
        if free:
            print(f"{stem}: give a shape: --input {free[0]}=…")
        else:
            found[stem] = data, {x: tuple(map(int, shape)) for x, shape in shapes.items()}
    return found


def measure(name: str, data: bytes, shapes: dict[str, tuple[int, ...]], options: argparse.Namespace) -> None:
    """One row, of a network with one input."""
    from groupconv_worker.graph.model import read_model

    (info,) = read_model(data).inputs
    x = drawn(np.random.default_rng(0), shapes[info.name], info.dtype)
    servers = {"ours": Process(serve, "local", 1, CORES, False), "plain": Process(plain, data, x)}
    targets = {kind: server.pipe.recv() for kind, server in servers.items()}
    rows = defaultdict[str, list[float]](list)
    answers = ""
    for _ in range(options.rounds):
        for key, seconds in first_answers(data, targets["ours"], x).items():
            rows[key].append(seconds)
        answers = settled(targets["ours"], {info.name: x}, options.settle)  # no compiler beside the next one
    clients = {kind: [Process(load, kind, targets[kind], x) for _ in range(options.clients)] for kind in servers}
    for several in clients.values():
        for client in several:
            client.pipe.recv()
    for _ in range(options.rounds):
        for kind in servers:
            rows[f"p50_{kind}"].append(statistics.median(clients[kind][0].ask(options.seconds)))
            for client in clients[kind]:
                client.pipe.send(options.seconds)
            rows[f"rate_{kind}"].append(sum(len(c.pipe.recv()) for c in clients[kind]) / options.seconds)
    memory = [psutil.Process(server.process.pid).memory_info().rss / 2**20 for server in servers.values()]
    for process in [*(c for several in clients.values() for c in several), *servers.values()]:
        process.close()
    found = {key: statistics.median(values) for key, values in rows.items()}
    print(
        f"{name:32}"
        f"{found['first_ours'] * 1e3:9.0f}{found['first_ours'] / found['first_plain']:8.2f}"
        f"{found['call_ours'] / found['first_plain']:8.2f}"
        f"{found['p50_ours'] * 1e3:10.2f}{found['p50_ours'] / found['p50_plain']:8.2f}"
        f"{found['rate_ours']:10.0f}{found['rate_ours'] / found['rate_plain']:8.2f}"
        f"{memory[0]:8.0f}{memory[1]:8.0f}  {answers}",
        flush=True,
    )


def main() -> None:
    """The command."""
    from groupconv_server.cli.options import shapes_of

    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("networks", nargs="*", default=[*DRAWN, *map(str, sorted(LIGHT.glob("*.onnx")))])
    parser.add_argument("--input", action="append", default=[], help="NAME=N,C,H,W of a free input")
    parser.add_argument("--clients", type=int, default=8)
    parser.add_argument("--seconds", type=float, default=1.0, help="of one turn")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--settle", type=float, default=120.0, help="seconds to wait for a program to take over")
    parser.add_argument("--engine", type=int, default=9, help="rounds of the engine's rows; 0 for none")
    parser.add_argument("--no-server", action="store_true", help="the engine's rows alone")
    options = parser.parse_args()
    networks = models(options.networks, shapes_of(options.input))
    if options.engine:
        print(HEADER)
        counts = sorted({1, min(2, CORES)})
        rows = [
            compare(name, *model, threads, options.engine) for name, model in networks.items() for threads in counts
        ]
        print(summary(rows))
    if options.no_server:
        return
    print(f"{CORES} cores, {options.clients} clients; × is against the plain service, for the first answer a session")
    columns = f"{'first ms':>9}{'×':>8}{'call ×':>8}{'p50 ms':>10}{'×':>8}{'req/s':>10}{'×':>8}{'MiB':>8}{'plain':>8}"
    print(f"{'network':32}{columns}  answers")
    for name, (data, shapes) in networks.items():
        if len(shapes) == 1:
            measure(name, data, shapes, options)


if __name__ == "__main__":
    main()
