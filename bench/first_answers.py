"""From the bytes of a network to its first answer: our server beside a plain session of onnxruntime.

    python bench/first_answers.py [FILE.onnx|NAME ...] [--input x=1,3,640,640] [--rounds 5]

The plain session is made of the same bytes in this process, with all cores, and runs once; our server is a process of
its own, which is sent the bytes and called once. They take turns, and each figure is the median of the rounds, in
milliseconds. "load" is from `connect` until `load_network` returns, "call" is the first call after it; × is ours over
the plain one's. "fresh" is the × of the first network in a server's life. Between two rounds the server has settled who
answers, so that nothing is compiled beside the next one. A NAME is one of network_models.py; inputs with free axes take
their shape from --input, or from the table there.
"""

import argparse
import statistics
import time

import numpy as np
from network_engine import drawn
from network_models import DRAWN
from networks import models, session_of, settled
from processes import CORES, Process, serve

COLUMNS = ("plain load", "plain run", "our load", "our call", "×", "call ×", "fresh ×")


def plain(data: bytes, inputs: dict[str, np.ndarray]) -> tuple[float, float]:
    """Seconds of a plain session: to make it, and to run it once."""
    start = time.perf_counter()
    session = session_of(data)
    middle = time.perf_counter()
    session.run(None, inputs)
    return middle - start, time.perf_counter() - middle


def ours(target: str, data: bytes, inputs: dict[str, np.ndarray]) -> tuple[float, float]:
    """Seconds of a server: to connect and load the network, and to answer the first call."""
    import groupconv

    start = time.perf_counter()
    with groupconv.connect(target) as client:
        net = client.load_network("net", data)
        middle = time.perf_counter()
        net.run(inputs=inputs)
        return middle - start, time.perf_counter() - middle


def row(data: bytes, inputs: dict[str, np.ndarray], rounds: int, patience: float) -> list[float]:
    """The figures of a network: milliseconds, then ratios."""
    server = Process(serve, "local", 1, CORES, False)
    target = server.pipe.recv()
    found: list[tuple[float, float, float, float]] = []
    for _ in range(1 + rounds):
        found.append((*plain(data, inputs), *ours(target, data, inputs)))
        settled(target, inputs, patience)
    server.close()
    middle = [statistics.median(values) for values in zip(*found[1:], strict=True)]
    both = middle[0] + middle[1]
    fresh = (found[0][2] + found[0][3]) / both
    return [*(1e3 * value for value in middle), (middle[2] + middle[3]) / both, middle[3] / both, fresh]


def main() -> None:
    """The command."""
    from groupconv_server.cli.options import shapes_of
    from groupconv_worker.graph.model import read_model

    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("networks", nargs="*", default=list(DRAWN))
    parser.add_argument("--input", action="append", default=[], help="NAME=N,C,H,W of a free input")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--settle", type=float, default=120.0, help="seconds to wait for a program to take over")
    options = parser.parse_args()
    networks = models(options.networks, shapes_of(options.input))
    print(f"{CORES} cores, {options.rounds} rounds, ms and ×\n{'network':32}" + "".join(f"{c:>12}" for c in COLUMNS))
    for name, (data, shapes) in networks.items():
        rng = np.random.default_rng(0)
        inputs = {info.name: drawn(rng, shapes[info.name], info.dtype) for info in read_model(data).inputs}
        figures = row(data, inputs, options.rounds, options.settle)
        print(f"{name:32}" + "".join(f"{figure:12.2f}" for figure in figures), flush=True)


if __name__ == "__main__":
    main()
