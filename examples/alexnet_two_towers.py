"""AlexNet's two towers: where they meet, what would travel between two GPUs, and what one and two workers take.

The network is the one that the onnx package ships, whose weights are constants. Its conv2, conv4 and conv5 have the two
groups of the paper, one for each GPU.

Run it:  python examples/alexnet_two_towers.py [towers.svg]
"""

import sys
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import onnx

import groupconv
from groupconv.text import human_bytes, table
from groupconv_server.server import Config, Server
from groupconv_worker.graph.graph import Graph, Node
from groupconv_worker.graph.importing import Optimized
from groupconv_worker.graph.model import read_model

ALEXNET = Path(onnx.__file__).parent / "backend/test/data/light/light_bvlc_alexnet.onnx"
CALLS, CALLERS = 8, 4


def missing(graph: Graph, node: Node) -> tuple[int, str]:
    """What the first tower needs of the second one's half of a node's input.

    Args:
        graph: of the whole network.
        node: each tower computes half of its output's channels.

    Returns:
        Channels of the second tower (all other axes are whole), and why they are needed.
    """
    half = graph.tensors[node.inputs[0]].shape[1] // 2
    match node.op:
        case _ if node.inputs[0] in graph.inputs:
            return 0, "both read the image"
        case "Conv" if node.attributes["group"] == 1:
            return half, "each filter sees all channels"
        case "Conv":
            return 0, "each tower's filters see its own channels"
        case "LRN":
            return node.attributes["size"] // 2, f"sums over {node.attributes['size']} neighbors"
        case "Gemm" | "Softmax":
            return half, "each output needs all features"
        case _:
            return 0, "channel by channel"


def towers(graph: Graph) -> str:
    """A table of all nodes: what each tower computes and what it has to be sent for that."""
    rows = [("node", "operator", "each tower makes", "comes from the other", "bytes", "why")]
    total = 0
    for node in graph.nodes:
        x, y = graph.tensors[node.inputs[0]], graph.tensors[node.outputs[0]]
        channels, why = missing(graph, node)
        nbytes = x.nbytes // x.shape[1] * channels
        total += 2 * nbytes
        made = "×".join(map(str, (y.shape[0], y.shape[1] // 2, *y.shape[2:])))
        sent = f"{channels} of {x.shape[1]} channels" if channels else "-"
        rows.append((node.name, node.op, made, sent, human_bytes(nbytes) if nbytes else "-", why))
    lines = (
        f"both ways, for one image: {human_bytes(total)}, of an input of {human_bytes(graph.tensors['data_0'].nbytes)}"
    )
    return f"{table(rows, left=frozenset({0, 1, 2, 3, 5}))}\n{lines}"


def served(workers: int, x: np.ndarray, picture: Path | None) -> str:
    """Serve AlexNet on so many workers of one thread: the time of a call, and of several callers' calls.

    With a picture, the network is drawn into it, and the planner's cut over two workers is printed.
    """
    with Server(Config(port=0, workers=workers, threads=1)) as server, groupconv.connect(server.address) as client:
        net = client.load_network("alexnet", ALEXNET)
        if picture is not None:
            net.plan(x.shape).picture(picture, "AlexNet")
            print(f"\nas the planner cuts it over two workers:\n{net.plan(x.shape, workers=2).cuts}\n")
        with ThreadPoolExecutor(CALLERS) as pool:
            list(pool.map(net, [x] * CALLERS))  # every worker has made its session now
            start = time.perf_counter()
            net(x)
            alone = time.perf_counter() - start
            start = time.perf_counter()
            list(pool.map(net, [x] * CALLS))
            together = time.perf_counter() - start
        return (
            f"{workers} of 1 thread: {alone * 1e3:.0f} ms a call, {CALLS / together:.1f} calls/s from {CALLERS} callers"
        )


def main() -> None:
    """Print where the towers meet, draw the network, and run it on one worker and on two."""
    picture = Path(sys.argv[1] if len(sys.argv) > 1 else Path(tempfile.gettempdir()) / "alexnet_two_towers.svg")
    x = np.random.default_rng(0).standard_normal((1, 3, 224, 224), dtype=np.float32)
    print(towers(Optimized(read_model(ALEXNET.read_bytes())).bind({"data_0": x.shape})))
    lines = [served(1, x, picture), served(2, x, None)]
    print("workers, each with the whole network:", *lines, sep="\n")
    print(f"drawn: {picture}")


if __name__ == "__main__":
    main()
