"""This server beside Triton's C++ server with Python instances around torch: one layer, the same bytes, in turns.

    python bench/pytriton.py [--layers mobilenet_dw_14,…] [--wires oip,sdk,oip_shared,sdk_shared] [--rounds 3] [--wait]

Wires: `oip` is ModelInfer with raw contents, `oip_shared` the same with system shared memory; both send serialized
messages that were made once, and do not read the answers. `sdk` and `sdk_shared` are this project's SDK. Clients are
processes with a connection each, opened anew in each turn. All run on the same cores as the servers. `CPU` is the
processor time that the server's processes spend for a request. With `--wait`, all starts and warms up, and the
measurement begins when standard input has a line. bench/pytriton_server.py says how Triton is installed.
"""

import argparse
import statistics
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from multiprocessing import shared_memory
from multiprocessing.connection import Connection
from typing import Any, NamedTuple

import grpc
import numpy as np
import psutil
from processes import UNLIMITED, Call, Process, served
from pytriton_server import INSTANCES, Triton, model_name

import groupconv
from groupconv_server.inference.v2 import infer_pb2, shared_memory_pb2
from groupconv_server.layers.catalogue import catalogue

LAYERS = ("alexnet_conv2", "mobilenet_dw_14", "resnet50_1x1_56")
WIRES = ("oip", "sdk", "oip_shared", "sdk_shared")
SERVICE = "/inference.GRPCInferenceService/"
PATIENCE = 20.0
"""Seconds that a layer may take until its algorithms are measured."""


class Contender(NamedTuple):
    """A server under test.

    Attributes:
        address: where it listens.
        pid: of its first process; the others are its descendants.
        ours: True for this project's.
        models: layer -> what the server calls it.
    """

    address: str
    pid: int
    ours: bool
    models: dict[str, str]

    def cpu(self) -> float:
        """Seconds that its processes have spent, those that have ended among them."""
        first = psutil.Process(self.pid)
        return sum(sum(one.cpu_times()[:4]) for one in (first, *first.children(recursive=True)))


class Turn(NamedTuple):
    """What a client does when asked."""

    address: str
    model: str
    layer: str
    wire: str
    seconds: float


class Rates(NamedTuple):
    """What one turn showed: requests/s, milliseconds of the server's CPU for each, and the median latency in ms."""

    rate: float
    cpu: float
    p50: float


def client(pipe: Connection) -> None:
    """Calls a layer for so many seconds when asked, and sends the latencies."""
    while (asked := pipe.recv()) is not None:
        turn = Turn(*asked)
        with ExitStack() as opened:
            call = caller(turn, opened)
            for _ in range(3):
                call()
            pipe.send("ready")
            pipe.recv()
            times, now = [], time.perf_counter()
            end = now + turn.seconds
            while now < end:
                call()
                before, now = now, time.perf_counter()
                times.append(now - before)
            pipe.send(times)
            pipe.recv()


def caller(turn: Turn, opened: ExitStack) -> Call:
    """One call of a turn's layer over its wire."""
    x = catalogue()[turn.layer].arrays()[0]
    if turn.wire.startswith("sdk"):
        connected = opened.enter_context(groupconv.connect(turn.address, shared_memory=turn.wire == "sdk_shared"))
        layer = connected.get_layer(turn.model)
        if turn.wire == "sdk_shared":
            x, source = connected.empty(x.shape), x
            x[...] = source
        return lambda: layer(x)
    # without the SDK's options, so that both servers have the same client
    channel = opened.enter_context(grpc.insecure_channel(turn.address, options=UNLIMITED))
    message = shared_request(turn, x, channel, opened) if turn.wire == "oip_shared" else request(turn.model, x)
    infer: Any = channel.unary_unary(SERVICE + "ModelInfer")
    return lambda: infer(message)


def request(model: str, x: np.ndarray) -> bytes:
    """ModelInfer with its tensor in the message."""
    message = infer_pb2.ModelInferRequest(model_name=model, raw_input_contents=[x.tobytes()])
    message.inputs.add(name="x", datatype="FP32", shape=x.shape)
    message.outputs.add(name="y")
    return message.SerializeToString()


def shared_request(turn: Turn, x: np.ndarray, channel: grpc.Channel, opened: ExitStack) -> bytes:
    """ModelInfer with its tensors in a region, which is registered until the turn ends."""
    out = int(np.prod(catalogue()[turn.layer].geometry.output_shape)) * 4
    memory = shared_memory.SharedMemory(create=True, size=x.nbytes + out)
    opened.callback(memory.unlink)
    np.ndarray(x.shape, x.dtype, memory.buf)[...] = x
    register = shared_memory_pb2.SystemSharedMemoryRegisterRequest(
        name=memory.name, key="/" + memory.name.lstrip("/"), byte_size=memory.size
    )
    call: Any = channel.unary_unary(SERVICE + "SystemSharedMemoryRegister")
    call(register.SerializeToString())
    leave: Any = channel.unary_unary(SERVICE + "SystemSharedMemoryUnregister")
    opened.callback(leave, shared_memory_pb2.SystemSharedMemoryUnregisterRequest(name=memory.name).SerializeToString())
    message = infer_pb2.ModelInferRequest(model_name=turn.model)
    given = message.inputs.add(name="x", datatype="FP32", shape=x.shape)
    wanted = message.outputs.add(name="y")
    for tensor, offset, size in ((given, 0, x.nbytes), (wanted, x.nbytes, out)):
        tensor.parameters["shared_memory_region"].string_param = memory.name
        tensor.parameters["shared_memory_offset"].int64_param = offset
        tensor.parameters["shared_memory_byte_size"].int64_param = size
    return message.SerializeToString()


@contextmanager
def ours(processes: int, layers: tuple[str, ...], more: list[str]) -> Iterator[Contender]:
    """This server."""
    with served(processes, "--allow-shared-memory", *more) as server:
        with groupconv.connect(server.address, timeout=300, connections=4 * processes) as connected:
            for name in layers:
                x, w, b = catalogue()[name].arrays()
                settle(connected.load_layer(name, w, b, catalogue()[name].spec, inputs=[x.shape]), x, 16 * processes)
        yield Contender(*server, ours=True, models={name: name for name in layers})


def settle(layer: groupconv.Layer, x: np.ndarray, calls: int) -> None:
    """Wait until so many calls in a row get a measured algorithm: beside Triton, another one might be chosen."""
    until, ready, names = time.monotonic() + PATIENCE, 0, dict[str, None]()
    while ready < calls and time.monotonic() < until:
        shard = layer.run(x).report.steps[0][0]
        ready = 0 if shard.improving else ready + 1
        names[shard.algorithm + "*" * shard.improving] = None
        time.sleep(0.2 * shard.improving)  # requests would disturb the measurement
    print(f"{layer.name}: {', '.join(names)}", flush=True)


def check(contenders: dict[str, Contender], layer: str) -> None:
    """All answer the same, within the rounding of float32."""
    x, expected = catalogue()[layer].arrays()[0], None
    for name, contender in contenders.items():
        with grpc.insecure_channel(contender.address, options=UNLIMITED) as channel:
            infer: Any = channel.unary_unary(SERVICE + "ModelInfer")
            answer = infer_pb2.ModelInferResponse.FromString(infer(request(contender.models[layer], x)))
        y = np.frombuffer(answer.raw_output_contents[0], np.float32)
        expected = y if expected is None else expected
        if not np.allclose(y, expected, rtol=1e-3, atol=1e-3):
            raise SystemExit(f"{name}: another answer for {layer}")


def run(clients: list[Process], contender: Contender, layer: str, wire: str, seconds: float) -> Rates:
    """One turn."""
    turn = Turn(contender.address, contender.models[layer], layer, wire, seconds)
    for one in clients:
        one.pipe.send(tuple(turn))
    for one in clients:
        one.pipe.recv()
    before = contender.cpu()
    for one in clients:
        one.pipe.send("go")
    times = [took for one in clients for took in one.pipe.recv()]
    spent = contender.cpu() - before
    for one in clients:
        one.pipe.send("done")
    return Rates(len(times) / seconds, spent / len(times) * 1e3, statistics.median(times) * 1e3)


def measure(clients: list[Process], contenders: dict[str, Contender], given: argparse.Namespace) -> None:
    """Print a row for each layer, wire and contender, and then how this server's best stands to Triton's best."""
    print(
        "| layer | wire | server | requests/s | CPU, ms | p50 of 1 client, ms |\n| --- | --- | --- | --- | --- | --- |"
    )
    closing = ["| layer | wire | requests/s to Triton's best | p50 to Triton's best |\n| --- | --- | --- | --- |"]
    for layer in given.layers:
        best = 0.0, 0.0  # Triton's over the plain wire
        for wire in given.wires:
            running = {name: c for name, c in contenders.items() if c.ours or wire.startswith("oip")}
            found: dict[str, list[tuple[Rates, Rates]]] = {name: [] for name in running}
            for _ in range(given.rounds):
                for name, contender in running.items():
                    many = run(clients, contender, layer, wire, given.seconds)
                    found[name].append((many, run(clients[:1], contender, layer, wire, given.seconds / 2)))
            rates, p50s = {}, {}
            for name, rounds in found.items():
                rates[name] = statistics.median(many.rate for many, _ in rounds)
                p50s[name] = statistics.median(single.p50 for _, single in rounds)
                cpu = statistics.median(many.cpu for many, _ in rounds)
                print(f"| {layer} | {wire} | {name} | {rates[name]:.0f} | {cpu:.2f} | {p50s[name]:.2f} |", flush=True)
            theirs = [name for name in running if not contenders[name].ours]
            own = [name for name in running if contenders[name].ours]
            if theirs and wire == "oip":
                best = max(rates[name] for name in theirs), min(p50s[name] for name in theirs)
            if best[0]:
                ratios = [f"{name} {rates[name] / best[0]:.2f} ×" for name in own]
                latencies = [f"{name} {p50s[name] / best[1]:.2f} ×" for name in own]
                closing.append(f"| {layer} | {wire} | {', '.join(ratios)} | {', '.join(latencies)} |")
    print("\n" + "\n".join(closing))
    print("\nTriton's best is that of its configurations over `oip`.")


def main() -> None:
    """Start all, measure, print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    names = {"type": lambda text: tuple(text.split(","))}
    parser.add_argument("--layers", default=LAYERS, **names)
    parser.add_argument("--wires", default=WIRES, **names)
    parser.add_argument("--processes", default=("1", "2"), **names, help="of this server")
    parser.add_argument("--clients", type=int, default=8)
    parser.add_argument("--seconds", type=float, default=2.0, help="of a turn of all clients; one client has half")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--serve", default="", help="more options of this server")
    parser.add_argument("--no-triton", action="store_true", help="measure this server alone")
    parser.add_argument("--wait", action="store_true", help="begin when standard input has a line")
    given = parser.parse_args()
    with ExitStack() as stack:
        contenders = {}
        for count in given.processes:
            name = f"groupconv, {count} process{'es' * (count != '1')}"
            contenders[name] = stack.enter_context(ours(int(count), given.layers, given.serve.split()))
        if not given.no_triton:
            triton = Triton(given.layers)
            stack.callback(triton.close)
            for name in INSTANCES:
                models = {layer: model_name(layer, name) for layer in given.layers}
                contenders[f"Triton, {name}"] = Contender(triton.address, triton.process.pid, ours=False, models=models)
        clients = [Process(client) for _ in range(given.clients)]
        for one in clients:
            stack.callback(one.close)
        for layer in given.layers:
            check(contenders, layer)
        if given.wait:
            print("ready", flush=True)
            sys.stdin.readline()
        measure(clients, contenders, given)


if __name__ == "__main__":
    main()
