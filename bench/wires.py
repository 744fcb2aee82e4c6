"""What our own protocol and the Open Inference Protocol cost for the same layer, with and without gRPC.

    python bench/wires.py [--rounds 20]

Messages are made once and sent as bytes. `inside` is the method alone, from bytes to bytes; `call` is a call over gRPC
on loopback, one at a time, with the client's share. Rounds take turns. Each figure is processor time in microseconds,
the least of the rounds' means: a busy machine disturbs it least.
"""

import argparse
import time
from collections.abc import Callable
from types import SimpleNamespace

import grpc
import numpy as np

import groupconv
from groupconv.v1 import convolution_pb2
from groupconv.wire.requests import CONVOLVE
from groupconv.wire.tensors import to_wire
from groupconv_server.config import Config
from groupconv_server.inference.servicer import SERVICE, InferenceServicer
from groupconv_server.inference.v2 import infer_pb2
from groupconv_server.layers.catalogue import catalogue
from groupconv_server.server import Server
from groupconv_server.servicers.convolution import ConvolutionServicer

LAYERS = ("mobilenet_dw_14", "resnet50_1x1_56", "alexnet_conv2")
CALLS = 50
CONTEXT = SimpleNamespace(time_remaining=lambda: None, is_active=lambda: True, peer=lambda: "unix:")
"""What both methods ask gRPC for."""


def messages(name: str, x: np.ndarray) -> dict[str, bytes]:
    """One request of each protocol."""
    own = convolution_pb2.ConvolveRequest(input=to_wire(x), layer=name, without_report=True)
    other = infer_pb2.ModelInferRequest(model_name=name, raw_input_contents=[x.tobytes()])
    other.inputs.add(name="x", datatype="FP32", shape=x.shape)
    return {"own": own.SerializeToString(), "open": other.SerializeToString()}


def mean(call: Callable[[], object]) -> float:
    """Microseconds that the processors work on a call."""
    start = time.process_time()
    for _ in range(CALLS):
        call()
    return (time.process_time() - start) / CALLS * 1e6


def main() -> None:
    """Measure and print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=20)
    rounds = parser.parse_args().rounds
    print("| layer | own, inside | open, inside | more | own, call | open, call | more |")
    print("| --- " * 7 + "|")
    with (
        Server(Config(port=0, executor="local", threads=1)) as server,
        grpc.insecure_channel(server.address) as channel,
    ):
        inside = {
            "own": ConvolutionServicer(server.batcher, server.layers).Convolve,
            "open": InferenceServicer(server.batcher, server.repository, networks=server.networks).ModelInfer,
        }
        paths = {"own": CONVOLVE, "open": f"/{SERVICE}/ModelInfer"}
        over = {kind: channel.unary_unary(path) for kind, path in paths.items()}
        for name in LAYERS:
            layer = catalogue()[name]
            x, w, bias = layer.arrays()
            with groupconv.connect(server.address) as client:
                client.load_layer(name, w, bias, layer.spec, inputs=[x.shape])
            requests = messages(name, x)
            taken: dict[str, list[float]] = {}
            for _ in range(rounds):
                for kind, raw in requests.items():
                    taken.setdefault(f"{kind}, inside", []).append(mean(lambda k=kind, r=raw: inside[k](r, CONTEXT)))
                    taken.setdefault(f"{kind}, call", []).append(mean(lambda k=kind, r=raw: over[k](r)))
            found = {what: min(times) for what, times in taken.items()}
            row = [name]
            for where in ("inside", "call"):
                own, other = found[f"own, {where}"], found[f"open, {where}"]
                row += [f"{own:.0f}", f"{other:.0f}", f"{other / own - 1:+.0%}"]
            print("| " + " | ".join(row) + " |", flush=True)


if __name__ == "__main__":
    main()
