"""How far a network scales when activations stay on the workers: real plans and exchanges, simulated workers.

    python bench/simulate_networks.py
    python bench/simulate_networks.py --slower 3      if each worker took three times as long for every node

AlexNet with its classifier, as one call for a batch. The planner cuts it, `partition` says who sends what to whom; then
it runs on a virtual clock: the coordinator sends one task after another, each network interface carries one byte after
another in each direction, a worker computes one node after another at its rates. A stream is as many calls as keep all
workers busy, each whole on one worker; a call alone is cut over all of them. Pixels are the same images as uint8, which
a Cast in the network makes float32.
"""

import argparse
import heapq
from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import h200
import numpy as np

from groupconv.text import milliseconds, table
from groupconv_server.layers.catalogue import layer_named
from groupconv_server.planner.networks.costs import Costs, Interconnect
from groupconv_server.planner.networks.plan import plan_network
from groupconv_server.planner.rates import Rates
from groupconv_worker.graph.graph import Graph, Node, Tensor
from groupconv_worker.graph.needed.box import Box
from groupconv_worker.graph.needed.reads import bytes_of
from groupconv_worker.graph.partition.local import whole_node
from groupconv_worker.graph.partition.part import RECEIVE, SEND, Part
from groupconv_worker.graph.partition.partition import Partition, partition

F32 = np.dtype("float32")
COUNTS = (1, 2, 4, 8, 16, 32, 64)
Mail = dict[tuple[int, str, int, int, Box], float]
"""When boxes arrive: by call, tensor, sender, receiver and box."""
TASK = 5.6e-5
"""Seconds of the coordinator for a task (docs/scaling.md)."""
LATENCY = 2e-5
"""Seconds from a worker to another one: assumed."""
CPU = Rates((5e10, 5e10, 1.25e10, 5e9, 2.5e10), memory=1e10, link=3.1e9, latency=3e-4)
"""A core, and 25 Gb/s: assumed, as in simulate.py."""


def clusters(slower: float = 1.0) -> dict[str, Costs]:
    """Rates of workers, and of the network that the coordinator and each worker have.

    Args:
        slower: how many times as long as their rates say workers take for a node.
    """
    gpu = replace(h200.rates(**h200.NETWORK, on_device=True), link=h200.NETWORK["link"])
    names = {"CPU cores, 25 Gb/s": CPU, "H200s on other nodes, 100 Gb/s": gpu}
    return {
        name: Costs(_slower(rates, slower), between_nodes=Interconnect(rates.link, LATENCY))
        for name, rates in names.items()
    }


def _slower(rates: Rates, times: float) -> Rates:
    adds = tuple(each / times for each in rates.multiply_adds)
    return replace(rates, multiply_adds=adds, memory=rates.memory / times)


class AlexNet:
    """Builds AlexNet for a batch: shapes alone, all weights are one zero."""

    def __init__(self, batch: int, *, pixels: bool) -> None:
        self.tensors: dict[str, Tensor] = {}
        self.constants: dict[str, np.ndarray] = {}
        self.nodes: list[Node] = []
        self._tensor("image", (batch, 3, 227, 227), np.dtype("uint8") if pixels else F32)
        self.last = "image"
        if pixels:
            self._node("Cast", "float", self.tensors["image"].shape)
        for i in range(1, 6):
            g = layer_named(f"alexnet_conv{i}").geometry.with_batch(batch)
            weight = self._constant(f"w{i}", g.weight_shape)
            pads = (*(before for before, _ in g.padding), *(after for _, after in g.padding))
            window = {"kernel_shape": g.kernel, "strides": g.stride, "dilations": g.dilation, "pads": pads}
            attributes = {**window, "group": g.groups, "activation": ("Relu",)}
            self._node("Conv", f"conv{i}", g.output_shape, weight, **attributes)
            if i < 3:
                self._node("LRN", f"norm{i}", g.output_shape, size=5)
            if i in (1, 2, 5):
                n, c, h, w = g.output_shape
                window = {"kernel_shape": (3, 3), "strides": (2, 2), "dilations": (1, 1), "pads": (0,) * 4}
                self._node("MaxPool", f"pool{i}", (n, c, (h - 3) // 2 + 1, (w - 3) // 2 + 1), **window)
        features = int(np.prod(self.tensors[self.last].shape[1:]))
        self._node("Reshape", "features", (batch, features))
        for i, classes in ((6, 4096), (7, 4096), (8, 1000)):
            self._node("Gemm", f"fc{i}", (batch, classes), self._constant(f"w{i}", (features, classes)))
            features = classes
        self._node("Softmax", "classes", (batch, 1000), axis=1)

    def graph(self) -> Graph:
        """In canonical form."""
        return Graph(("image",), ("classes",), tuple(self.nodes), self.tensors, self.constants)

    def _tensor(self, name: str, shape: tuple[int, ...], dtype: np.dtype = F32) -> None:
        self.tensors[name] = Tensor(name, dtype, shape)

    def _constant(self, name: str, shape: tuple[int, ...]) -> str:
        self.constants[name] = np.broadcast_to(np.float32(0), shape)
        self._tensor(name, shape)
        return name

    def _node(self, op: str, name: str, shape: tuple[int, ...], *weights: str, **attributes: object) -> None:
        self.nodes.append(Node(op, (self.last, *weights), (name,), attributes, name))
        self._tensor(name, shape)
        self.last = name


@dataclass(frozen=True)
class Point:
    """A network on a number of workers.

    Attributes:
        alone: seconds of a call that is cut over them.
        exchanged: bytes that workers send to one another then.
        rate: calls per second of a stream.
        limited: what the stream keeps busiest, and for which part of the time.
    """

    workers: int
    alone: float
    exchanged: int
    rate: float
    limited: str


def simulate(graph: Graph, workers: int, costs: Costs) -> Point:
    """Plan a call and run it; then a stream of calls, each whole on one worker."""
    plan, cuts = plan_network(graph, (1,) * workers, costs)
    made = partition(graph, cuts, plan.used)
    alone, _ = run([made], [range(len(made.parts))], workers, costs)
    _, cuts = plan_network(graph, (1,) * workers, costs, in_flight=workers)
    whole = partition(graph, cuts, 1)
    calls = 16 * workers
    end, busy = run([whole] * calls, [[i % workers] for i in range(calls)], workers, costs)
    limit = max(busy, key=busy.__getitem__)
    exchanged = sum(exchange.nbytes for exchange in made.exchanges)
    return Point(workers, alone, exchanged, calls / end, f"{limit} {busy[limit] / end:.0%}")


class Clock:
    """Virtual seconds until which each resource is taken, and for how long it was used."""

    def __init__(self) -> None:
        self.until: dict[tuple[str, int], float] = defaultdict(float)
        self.used: dict[str, float] = defaultdict(float)

    def take(self, name: str, number: int, ready: float, seconds: float) -> float:
        """Use a resource from `ready` or when it is free; returns when that ends."""
        self.until[name, number] = max(self.until[name, number], ready) + seconds
        self.used[name] += seconds
        return self.until[name, number]


def run(
    calls: list[Partition], workers_of: Sequence[Sequence[int]], workers: int, costs: Costs
) -> tuple[float, dict[str, float]]:
    """Run calls in their order, part i of each on worker workers_of[call][i].

    Returns:
        When the last answer is there, and for how long each resource was used.
    """
    clock = Clock()
    mail: Mail = {}
    finished: list[tuple[float, int]] = []
    for number, (made, places) in enumerate(zip(calls, workers_of, strict=True)):
        running = []
        for part, place in zip(made.parts, places, strict=True):
            sent = clock.take("coordinator", 0, 0.0, TASK)
            size = sum(bytes_of(made.graph, name, box) for name, box in part.inputs.items())
            arrived = (
                clock.take("coordinator's network, out", 0, sent, size / costs.rates.link) + costs.rates.latency / 2
            )
            running.append(_steps(part, place, places, number, arrived, clock, mail, costs))
        done = [0.0] * len(running)
        waiting = dict(enumerate(running))
        while waiting:
            for i, steps in list(waiting.items()):
                for moment in steps:
                    if moment is None:
                        break
                    done[i] = moment
                else:
                    del waiting[i]
        for name, pieces in made.outputs.items():
            for worker, box in pieces:
                heapq.heappush(finished, (done[worker], bytes_of(made.graph, name, box)))
    end = 0.0
    while finished:
        moment, size = heapq.heappop(finished)
        end = clock.take("coordinator's network, in", 0, moment + costs.rates.latency / 2, size / costs.rates.link)
    return end, {name: used / (workers if name.startswith("workers") else 1) for name, used in clock.used.items()}


def _steps(
    part: Part, place: int, places: Sequence[int], call: int, now: float, clock: Clock, mail: Mail, costs: Costs
) -> Iterator[float | None]:
    """The moments at which a part's nodes end; None where it must wait for another part."""
    for node in part.graph.nodes:
        if node.op == SEND:
            tensor = part.graph.tensors[node.inputs[0]]
            for peer, box in zip(node.attributes["peers"], node.attributes["boxes"], strict=True):
                seconds = int(np.prod(box.shape)) * tensor.dtype.itemsize / costs.between_nodes.rate
                gone = clock.take("workers' networks", place, now, seconds)
                there = clock.take("workers' networks, in", places[peer], gone - seconds, seconds)
                mail[call, node.attributes["tensor"], part.worker, peer, box] = (
                    max(gone, there) + costs.between_nodes.latency
                )
        elif node.op == RECEIVE:
            name = node.attributes["tensor"]
            pairs = zip(node.attributes["peers"], node.attributes["boxes"], strict=True)
            keys = [(call, name, peer, part.worker, box) for peer, box in pairs]
            while not all(key in mail for key in keys):
                yield None
            now = max([now, *(mail.pop(key) for key in keys)])
        else:
            now = clock.take("workers", place, now, costs.node_seconds(whole_node(node, part.graph), part.graph))
        yield now


def main() -> None:
    """Print a table for each cluster and input."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--batch", type=int, default=64, help="images of a call")
    parser.add_argument("--most", type=int, default=64, help="workers")
    parser.add_argument("--slower", type=float, default=1.0, help="times that workers take for a node, by their rates")
    a = parser.parse_args()
    for cluster, costs in clusters(a.slower).items():
        for pixels in (False, True):
            graph = AlexNet(a.batch, pixels=pixels).graph()
            points = [simulate(graph, count, costs) for count in COUNTS if count <= a.most]
            rows = [("workers", "a call alone", "× one", "MiB between workers", "stream", "busiest")]
            rows += [
                (str(p.workers), milliseconds(p.alone), f"{points[0].alone / p.alone:.2f}",
                 f"{p.exchanged / 2**20:.1f}", f"{p.rate:.4g} /s", p.limited)
                for p in points
            ]  # fmt: skip
            size = graph.tensors["image"].nbytes / 2**20
            kind = "uint8" if pixels else "float32"
            print(f"AlexNet, {a.batch} images as {kind} ({size:.1f} MiB); {cluster}\n{table(rows)}\n")


if __name__ == "__main__":
    main()
