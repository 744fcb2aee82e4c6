"""Where workers go: places on the nodes of a cluster, as many as there should be."""

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from groupconv.errors import InvalidArgumentError

STRATEGIES = ("spread", "pack", "strict-spread")


@dataclass(frozen=True, slots=True)
class Placement:
    """What the operator asks of places.

    Attributes:
        strategy: where a given number of workers goes: "spread" over the nodes, "pack" on as few as can be, or
            "strict-spread", one on a node.
        gpus: of each worker, on nodes that have them; below 1 several share one, each with that share of its memory.
        resources: custom resources that each takes from its node.
        labels: that its node must have.
    """

    strategy: str = "spread"
    gpus: float = 1.0
    resources: Mapping[str, float] = field(default_factory=dict)
    labels: Mapping[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if self.strategy not in STRATEGIES:
            raise InvalidArgumentError("placement", f"one of {', '.join(STRATEGIES)}", self.strategy)
        if not (0 < self.gpus < 1 or (self.gpus >= 1 and self.gpus == int(self.gpus))):
            raise InvalidArgumentError("worker_gpus", "a fraction of 1 or a whole number", self.gpus)


@dataclass(frozen=True, slots=True)
class Node:
    """A node of the cluster: what it offers in all.

    Attributes:
        id: Ray's.
        resources: amounts by name, "CPU" and "GPU" among them.
        labels: by name.
    """

    id: str
    resources: Mapping[str, float]
    labels: Mapping[str, str]

    @classmethod
    def of(cls, said: Mapping[str, Any]) -> "Node":
        """From an entry of `ray.nodes()`."""
        return cls(said["NodeID"], said["Resources"], said.get("Labels") or {})

    @property
    def cpus(self) -> int:
        """CPUs it offers."""
        return int(self.resources.get("CPU", 0))


@dataclass(frozen=True, slots=True)
class WorkerPlace:
    """One worker's place: its node, its threads, its GPUs (0 for a worker on CPUs), its engine."""

    node_id: str
    threads: int
    gpus: float
    engine: str


@dataclass(frozen=True, slots=True)
class WorkerPlaces:
    """Says which places are missing.

    Attributes:
        placement: what is asked.
        workers: how many; None means one per GPU (or share of one), and one on each node that has none.
        threads: of each; None gives each its share of the CPUs.
        engine: of each; "auto" is cuda in a place with a GPU.

    Example:
        >>> nodes = [Node("a", {"CPU": 4}, {}), Node("b", {"CPU": 8, "GPU": 2}, {})]
        >>> [(p.node_id, p.threads, p.gpus) for p in WorkerPlaces(Placement(), None, None, "auto").missing(nodes, [])]
        [('a', 4, 0), ('b', 4, 1.0), ('b', 4, 1.0)]
        >>> [p.node_id for p in WorkerPlaces(Placement("strict-spread"), 3, 1, "cpu").missing(nodes, [])]
        ['a', 'b']
    """

    placement: Placement
    workers: int | None
    threads: int | None
    engine: str

    def missing(self, nodes: Sequence[Node], taken: Iterable[WorkerPlace]) -> list[WorkerPlace]:
        """Places to fill.

        Args:
            nodes: that take workers.
            taken: places that have theirs.
        """
        there = list(taken)
        nodes = [node for node in nodes if self._fits(node)]
        if self.workers is None:
            found = []
            for node in nodes:
                here = sum(place.node_id == node.id for place in there)
                found += self._of(node)[here:]
            return found
        threads = self.threads or max(1, sum(node.cpus for node in nodes) // self.workers)
        found = []
        while len(there) < self.workers:
            place = self._next(nodes, there, threads)
            if place is None:
                break
            there.append(place)
            found.append(place)
        return found

    def _fits(self, node: Node) -> bool:
        p = self.placement
        return (
            node.cpus > 0
            and all(node.labels.get(name) == value for name, value in p.labels.items())
            and all(node.resources.get(name, 0) >= amount for name, amount in p.resources.items())
        )

    def _of(self, node: Node) -> list[WorkerPlace]:
        """Its places where their number is not given."""
        gpus = self._shares(node)
        if self.engine == "cuda" and not gpus:
            return []
        number = min(gpus, node.cpus) or 1
        for name, amount in self.placement.resources.items():
            number = min(number, int(node.resources.get(name, 0) // amount))
        threads = min(node.cpus, self.threads or max(1, node.cpus // max(1, number)))
        return [self._place(node, threads, gpu=gpus > 0)] * number

    def _next(self, nodes: Sequence[Node], there: Sequence[WorkerPlace], threads: int) -> WorkerPlace | None:
        """The next place of a given number; GPUs first, CPUs when they are all taken."""
        here = Counter(place.node_id for place in there)
        strict = self.placement.strategy == "strict-spread"
        for gpu in (True, False):
            if not gpu and self.engine == "cuda":
                break
            room = [n for n in nodes if not (strict and here[n.id]) and self._has_room(n, there, threads, gpu=gpu)]
            if room:
                sign = -1 if self.placement.strategy == "pack" else 1
                node = min(room, key=lambda n: sign * here[n.id])
                return self._place(node, min(threads, node.cpus), gpu=gpu)
        return None

    def _has_room(self, node: Node, there: Sequence[WorkerPlace], threads: int, *, gpu: bool) -> bool:
        mine = [place for place in there if place.node_id == node.id]
        if gpu and sum(place.gpus > 0 for place in mine) >= self._shares(node):
            return False
        if sum(place.threads for place in mine) + min(threads, node.cpus) > node.cpus:
            return False
        taken = len(mine) + 1
        return all(node.resources[name] >= taken * amount for name, amount in self.placement.resources.items())

    def _shares(self, node: Node) -> int:
        """Workers its GPUs are for."""
        if self.engine not in ("auto", "cuda"):
            return 0
        gpus, each = node.resources.get("GPU", 0), self.placement.gpus
        return int(gpus) * int(1 / each + 1e-9) if each < 1 else int(gpus // each)

    def _place(self, node: Node, threads: int, *, gpu: bool) -> WorkerPlace:
        engine = "cpu" if self.engine == "auto" and not gpu and node.resources.get("GPU", 0) else self.engine
        return WorkerPlace(node.id, threads, self.placement.gpus if gpu else 0, engine)
