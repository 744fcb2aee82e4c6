"""What telemetry costs: the same load on servers with and without it, in turns.

    python bench/telemetry.py

Each variant is a server process of its own. `off` has no metrics, no returned ids, no audit.
`on` is what `groupconv serve --metrics-port 0 --log-format json` does, scraped every 5 s; `1 %` and `100 %` trace so
many of the requests on top and send the spans by OTLP to a collector that drops them.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import threading
import time
import urllib.request
from concurrent.futures import ThreadPoolExecutor

import grpc
import numpy as np
import psutil

import groupconv
from groupconv import ConvSpec

VARIANTS = {"off": None, "on": 0.0, "1 %": 0.01, "100 %": 1.0}
SCRAPE = 5.0
"""Seconds between scrapes; Prometheus leaves 15 to 60."""
LAYERS = {
    "small": ((1, 16, 8, 8), (16, 1, 3, 3), ConvSpec(padding=1, groups=16)),
    "alexnet_conv2": ((1, 96, 27, 27), (256, 48, 5, 5), ConvSpec(padding=2, groups=2)),
}


def serve(variant: str) -> None:
    """Be a server until standard input ends."""
    from groupconv_server.config import Config
    from groupconv_server.server import Server
    from groupconv_server.telemetry import logs, traces
    from groupconv_server.telemetry.request import Request
    from groupconv_server.telemetry.series import LayerSeries, ShardSeries

    logs.configure("json", "INFO")
    if VARIANTS[variant] is None:
        Request.begin = Request.end = Request.__del__ = lambda *_, **__: None  # type: ignore[method-assign, assignment]
        ShardSeries.ran = LayerSeries.used = lambda *_: None  # type: ignore[method-assign, assignment]
    traces.configure()
    with Server(Config(port=0, executor="local", workers=1, threads=1, metrics_port=0)) as server:
        print(json.dumps({"address": server.address, "page": server.metrics_url}), flush=True)
        sys.stdin.read()


class Variant:
    """A server process and its client."""

    def __init__(self, name: str, collector: str) -> None:
        self.name, share = name, VARIANTS[name]
        env = {k: v for k, v in os.environ.items() if not k.startswith("OTEL_")}
        if share:
            env |= {"OTEL_EXPORTER_OTLP_ENDPOINT": collector, "OTEL_TRACES_SAMPLER": "traceidratio"}
            env["OTEL_TRACES_SAMPLER_ARG"] = str(share)
        command = [sys.executable, __file__, "--serve", name]
        pipe = subprocess.PIPE
        self.process = subprocess.Popen(command, env=env, stdin=pipe, stdout=pipe, stderr=subprocess.DEVNULL, text=True)
        ready = json.loads(self.process.stdout.readline())  # type: ignore[union-attr]
        address, self.page = ready["address"], ready["page"]
        self.client = groupconv.connect(address, timeout=60)
        self.cpu = psutil.Process(self.process.pid)
        self.layers = {}
        rng = np.random.default_rng(0)
        for layer, (shape, kernel, spec) in LAYERS.items():
            loaded = self.client.load_layer(layer, rng.standard_normal(kernel).astype(np.float32), None, spec)
            self.layers[layer] = loaded, rng.standard_normal(shape).astype(np.float32)
            loaded(self.layers[layer][1])

    def burst(self, name: str, clients: int, seconds: float) -> tuple[float, float]:
        """Requests per second, and the server's CPU seconds per request."""
        layer, x = self.layers[name]
        end = time.perf_counter() + seconds

        def ask(_: int) -> int:
            done = 0
            while time.perf_counter() < end:
                layer(x)
                done += 1
            return done

        before, start = self.cpu.cpu_times(), time.perf_counter()
        with ThreadPoolExecutor(clients) as pool:
            done = sum(pool.map(ask, range(clients)))
        took, after = time.perf_counter() - start, self.cpu.cpu_times()
        return done / took, (after.user + after.system - before.user - before.system) / done

    def scrape(self) -> None:
        """What Prometheus does."""
        urllib.request.urlopen(self.page).read()

    def close(self) -> None:
        """End both."""
        self.client.close()
        self.process.communicate()


def collector() -> tuple[grpc.Server, str]:
    """Takes any spans and drops them."""
    server = grpc.server(ThreadPoolExecutor(1))
    export = grpc.unary_unary_rpc_method_handler(lambda *_: b"")
    service = "opentelemetry.proto.collector.trace.v1.TraceService"
    server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler(service, {"Export": export}),))
    port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    return server, f"http://127.0.0.1:{port}"


def main() -> None:
    """Take turns, print the ratios."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--serve", help=argparse.SUPPRESS)
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--seconds", type=float, default=0.4, help="of a variant's turn")
    parser.add_argument("--clients", type=int, default=4)
    parser.add_argument("--variants", default=",".join(VARIANTS), help="of them; off is always one")
    parser.add_argument("--layers", default=",".join(LAYERS))
    args = parser.parse_args()
    if args.serve:
        serve(args.serve)
        return
    receiver, address = collector()
    chosen = args.variants.split(",")
    variants = [Variant(name, address) for name in VARIANTS if name in chosen or name == "off"]
    done = threading.Event()

    def scrape() -> None:
        while not done.wait(SCRAPE):
            for variant in variants[1:]:
                variant.scrape()

    scraper = threading.Thread(target=scrape)
    scraper.start()
    print(f"{args.rounds} rounds of {args.seconds} s each, {args.clients} clients, medians")
    print(f"{'layer':15}{'telemetry':>10}{'requests/s':>12}{'of off':>9}{'CPU µs/request':>16}{'more':>9}")
    try:
        for layer in args.layers.split(","):
            seen: dict[str, list[tuple[float, float]]] = {v.name: [] for v in variants}
            for turn in range(args.rounds):
                for variant in variants[turn % len(variants) :] + variants[: turn % len(variants)]:
                    seen[variant.name].append(variant.burst(layer, args.clients, args.seconds))
            for name, bursts in seen.items():
                rate, cpu = (statistics.median(column) for column in zip(*bursts, strict=True))
                ratio = statistics.median(b[0] / o[0] for b, o in zip(bursts, seen["off"], strict=True))
                more = statistics.median(b[1] - o[1] for b, o in zip(bursts, seen["off"], strict=True))
                print(f"{layer:15}{name:>10}{rate:12.0f}{ratio:9.3f}{cpu * 1e6:16.0f}{more * 1e6:+9.0f}")
    finally:
        done.set()
        scraper.join()
        for variant in variants:
            variant.close()
        receiver.stop(None)


if __name__ == "__main__":
    main()
