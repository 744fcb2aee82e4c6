"""Networks on a GPU without a server: our program, recorded as one CUDA graph, beside onnxruntime on the CPU.

    python bench/gpu_networks.py [FILE.onnx|NAME ...] [--input x=1,3,640,640] [--rounds 30] [--dry-run]

Networks are those of networks.py. A time is the median of the rounds, in turns, with the copies of inputs and outputs;
"device" is what the launches take by CUDA events, one after another and without the graph. --dry-run plans alone and
needs no GPU: how many launches, and the bytes of tensors and weights.
"""

import argparse
import statistics
from typing import Any

import numpy as np
from network_engine import drawn, in_turns, session_of
from network_models import DRAWN, LIGHT
from networks import models
from processes import CORES

MIB = 2**20
HEADER = (
    f"{'network':32}{'launches':>9}{'MiB':>7}{'weights':>9}{'ms':>9}{'device':>8}{'ort ms':>9}{'×':>7}  as one graph"
)


def row(name: str, data: bytes, shapes: dict[str, tuple[int, ...]], engine: Any, rounds: int) -> None:
    """Print a row; without an engine the plan alone."""
    from groupconv_worker.cuda.network.network import DeviceNetwork, planned
    from groupconv_worker.graph.graph import UnsupportedNodeError
    from groupconv_worker.graph.importing import Optimized
    from groupconv_worker.graph.model import read_model
    from groupconv_worker.graph.translation import UnboundGraphError

    model = read_model(data)
    try:
        graph = Optimized(model).canonical(shapes)
        plan = planned(graph)
    except (UnsupportedNodeError, UnboundGraphError) as error:
        print(f"{name:32}  onnxruntime alone: {error}", flush=True)
        return
    sizes = f"{len(plan.launches):9}{plan.placed()[1] / MIB:7.1f}{plan.weight_bytes / MIB:9.1f}"
    if engine is None:
        print(f"{name:32}{sizes}", flush=True)
        return
    rng = np.random.default_rng(0)
    inputs = {info.name: drawn(rng, shapes[info.name], info.dtype) for info in model.inputs}
    network, session = DeviceNetwork(graph, engine), session_of(data, CORES)
    ours, theirs = in_turns(rounds, lambda: network.run(inputs), lambda: session.run(None, inputs))
    device = sum(network.node_seconds(inputs).values())
    times = [seconds * 1e3 for seconds in (statistics.median(ours), device, statistics.median(theirs))]
    shown = f"{times[0]:9.3f}{times[1]:8.3f}{times[2]:9.2f}{times[0] / times[2]:7.3f}"
    print(f"{name:32}{sizes}{shown}  {network.what}", flush=True)


def main() -> None:
    """The command."""
    from groupconv_server.cli.options import shapes_of
    from groupconv_worker.engines import create_engine

    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("networks", nargs="*", default=[*DRAWN, *map(str, sorted(LIGHT.glob("*.onnx")))])
    parser.add_argument("--input", action="append", default=[], help="NAME=N,C,H,W of a free input")
    parser.add_argument("--rounds", type=int, default=30)
    parser.add_argument("--dry-run", action="store_true", help="plan alone, without a GPU")
    options = parser.parse_args()
    engine = None if options.dry_run else create_engine("cuda", threads=CORES)
    print(HEADER)
    for name, (data, shapes) in models(options.networks, shapes_of(options.input)).items():
        row(name, data, shapes, engine, options.rounds)


if __name__ == "__main__":
    main()
