"""The cost of counting one request: CPU time of its record and its metrics, with a scrape for every 1,000 requests.

    python bench/metrics.py [--rounds 15]

The share is that of a whole request of a small layer, client and server together. A larger layer's share is smaller.
"""

import argparse
import statistics
import time

import numpy as np
from prometheus_client import generate_latest

import groupconv
from groupconv.convolution.report import ShardReport
from groupconv_server.config import Config
from groupconv_server.server import Server
from groupconv_server.telemetry.metrics import Metrics
from groupconv_server.telemetry.request import Request
from groupconv_server.telemetry.traces import Traces

METHOD, REQUESTS = "groupconv.v1.ConvolutionService/Convolve", 1000
PHASES = {"plan": 1e-5, "execute": 3e-4, "merge": 1e-6}
REPORTS = [[ShardReport(0, "w0", "direct", seconds=3e-4, compute_seconds=2.9e-4)]]


class Context:
    """gRPC's context of a call without a status, as a record uses it."""

    def set_trailing_metadata(self, metadata: object) -> None:
        """Drop it."""

    def code(self) -> None:
        """No status was set."""


def counted() -> float:
    """CPU seconds of counting one request, by many of them and a scrape."""
    metrics, traces, context = Metrics(), Traces(), Context()
    series = metrics.requests.of(METHOD)
    start = time.thread_time()
    for _ in range(REQUESTS):
        request = Request(METHOD, (), series, traces)
        request.begin(context)  # type: ignore[arg-type]
        series.bytes_in.inc(280_000)
        metrics.shards.ran(REPORTS, PHASES)
        metrics.layers.used("layer", True, 3e-4)
        series.bytes_out.inc(750_000)
        request.end(context, "OK", active=True)
    generate_latest(metrics.registry)
    return (time.thread_time() - start) / REQUESTS


def whole(rounds: int) -> float:
    """CPU seconds of a request of a small layer, of client and server together: the median of rounds."""
    x, w = np.ones((1, 16, 8, 8), np.float32), np.ones((16, 1, 3, 3), np.float32)
    config = Config(port=0, executor="local", workers=1, threads=1)
    with Server(config) as server, groupconv.connect(server.address) as client:
        layer = client.load_layer("small", w, None, groupconv.ConvSpec(padding=1, groups=16))
        found = []
        for _ in range(10 + rounds):
            start = time.process_time()
            for _ in range(100):
                layer(x)
            found.append((time.process_time() - start) / 100)
    return statistics.median(found[10:])


def main() -> None:
    """Print both, medians of rounds."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=15)
    rounds = parser.parse_args().rounds
    metrics, request = statistics.median(counted() for _ in range(rounds)), whole(rounds)
    print(f"counting takes {metrics * 1e6:.1f} of {request * 1e6:.0f} µs of CPU, {metrics / request:.1%} of a request")


if __name__ == "__main__":
    main()
