"""Where workers go: on which nodes of a cluster, with how many threads and GPUs."""

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from groupconv.errors import InvalidArgumentError

STRATEGIES = ("spread", "pack", "strict-spread")
UNIT = 10_000
"""Parts of a CPU that can be reserved: Ray counts resources in steps of 0.0001."""


@dataclass(frozen=True, slots=True)
class Placement:
    """Settings of the operator.

    Attributes:
        strategy: where a given number of workers goes: "spread" over the nodes, "pack" on as few as possible, or
            "strict-spread", one on a node.
        gpus: of each worker, on nodes that have GPUs; below 1 several workers share a GPU and its memory.
        resources: custom resources that each worker takes from its node.
        labels: that its node must have.

    Raises:
        InvalidArgumentError: an unknown strategy, or a number of GPUs above 1 that is not whole.
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
    """A node of the cluster.

    Attributes:
        id: Ray's.
        resources: what it offers in all, by name, "CPU" and "GPU" among them.
        labels: by name.
        name: for people.
    """

    id: str
    resources: Mapping[str, float]
    labels: Mapping[str, str]
    name: str = ""

    @classmethod
    def of(cls, entry: Mapping[str, Any]) -> "Node":
        """From an entry of `ray.nodes()`."""
        return cls(entry["NodeID"], entry["Resources"], entry.get("Labels") or {}, entry.get("NodeManagerHostname", ""))

    @property
    def cpus(self) -> int:
        """CPUs it offers; a node with none takes no workers, whatever its GPUs."""
        return int(self.resources.get("CPU", 0))


@dataclass(frozen=True, slots=True)
class WorkerPlace:
    """The place of one worker.

    Attributes:
        node_id: its node.
        threads: CPU threads of its engine; at least 1.
        gpus: that it takes; 0 for a worker on CPUs.
        engine: "auto" or the name of one.
        cpus: CPUs that are reserved for it: as many as threads, or a fraction where the node has fewer CPUs than GPUs.
    """

    node_id: str
    threads: int
    gpus: float
    engine: str
    cpus: float

    def __str__(self) -> str:
        gpus = f"{self.gpus:g} GPU{'s' * (self.gpus > 1)} and " if self.gpus else ""
        return f"{gpus}{self.cpus:g} CPU{'s' * (self.cpus > 1)}"


@dataclass(frozen=True, slots=True)
class WorkerPlaces:
    """Decides which places there should be.

    A node's GPUs are all used, whatever the threads: workers on GPUs share its CPUs evenly, and `threads` is the most
    that each gets. The CPUs reserved on a node are never more than it offers.

    Attributes:
        placement: settings of the operator.
        workers: their number; None means one per GPU (or share of one), and one on each node without GPUs.
        threads: of each, at most; None gives each its share of the node's CPUs.
        engine: of each; "auto" is cuda in a place with a GPU.

    Example:
        >>> nodes = [Node("a", {"CPU": 4}, {}), Node("b", {"CPU": 8, "GPU": 2}, {})]
        >>> [(p.node_id, p.threads, p.gpus) for p in WorkerPlaces(Placement(), None, None, "auto").missing(nodes, [])]
        [('a', 4, 0), ('b', 4, 1.0), ('b', 4, 1.0)]
        >>> [p.node_id for p in WorkerPlaces(Placement("strict-spread"), 3, 1, "cpu").missing(nodes, [])]
        ['a', 'b']
        >>> few = [Node("c", {"CPU": 2, "GPU": 8}, {})]  # each worker has a thread and a quarter of a CPU
        >>> places = WorkerPlaces(Placement(), None, 8, "auto").missing(few, [])
        >>> len(places), places[0].threads, places[0].cpus
        (8, 1, 0.25)
    """

    placement: Placement
    workers: int | None
    threads: int | None
    engine: str

    def missing(self, nodes: Sequence[Node], taken: Iterable[WorkerPlace]) -> list[WorkerPlace]:
        """Places that should have a worker and have none.

        Args:
            nodes: that take workers.
            taken: places that have a worker.
        """
        occupied = list(taken)
        nodes = [node for node in nodes if not self._refusal(node)]
        missing: list[WorkerPlace] = []
        if self.workers is None:
            for node in nodes:
                here = sum(place.node_id == node.id for place in occupied)
                missing += self._of(node)[here:]
            return missing
        threads = self.threads or max(1, sum(node.cpus for node in nodes) // self.workers)
        while len(occupied) < self.workers and (place := self._next(nodes, occupied, threads)) is not None:
            occupied.append(place)
            missing.append(place)
        return missing

    def shortage(self, nodes: Sequence[Node], taken: Iterable[WorkerPlace]) -> str:
        """Why workers have no place, and what they wait for; empty if all have one.

        Args:
            nodes: that take workers.
            taken: places that have a worker.

        Example:
            >>> WorkerPlaces(Placement(), 3, 4, "cpu").shortage([Node("1f", {"CPU": 8.0}, {}, "alpha")], [])
            '3 of 3 workers have no place: each waits for 4 CPUs; alpha offers 8 CPUs'
        """
        here = Counter(place.node_id for place in taken)
        lacking = (self.workers or 1) - here.total()
        if lacking <= 0:
            return ""
        what = f"{lacking} of {self.workers} workers have" if self.workers else "no worker has"
        need = [] if self.engine != "cuda" else [f"{self.placement.gpus:g} GPU{'s' * (self.placement.gpus > 1)}"]
        need += [f"{self.threads or 1} CPU{'s' * ((self.threads or 1) > 1)}"] if not need else []
        need += [f"{amount:g} {name}" for name, amount in self.placement.resources.items()]
        need += [f"label {name}={value}" for name, value in self.placement.labels.items()]
        need += ["a node of its own"] if self.placement.strategy == "strict-spread" else []
        offers = "; ".join(self._refusal(node) or self._offer(node, here[node.id]) for node in nodes if node.cpus)
        return f"{what} no place: each waits for {', '.join(need)}; {offers or 'no node offers CPUs'}"

    def demand(self) -> list[dict[str, float]]:
        """What each of a given number of workers needs of a cluster that adds nodes; nothing for "auto".

        A worker on a GPU takes what CPUs its node has, so it demands none.

        Example:
            >>> WorkerPlaces(Placement(gpus=0.5), 2, None, "cuda").demand()
            [{'GPU': 0.5}, {'GPU': 0.5}]
            >>> WorkerPlaces(Placement(), 1, 4, "cpu").demand()
            [{'CPU': 4}]
        """
        kind = {"GPU": self.placement.gpus} if self.engine == "cuda" else {"CPU": self.threads or 1}
        return [kind | dict(self.placement.resources) for _ in range(self.workers or 0)]

    def _refusal(self, node: Node) -> str:
        """Why a node can take no worker at all; empty if it can."""
        p, name = self.placement, node.name or node.id
        if not node.cpus:
            return f"{name} offers no CPUs"
        for label, value in p.labels.items():
            if node.labels.get(label) != value:
                return f"{name} has not the label {label}={value}"
        for resource, amount in p.resources.items():
            if (offered := node.resources.get(resource, 0)) < amount:
                return f"{name} offers {offered:g} {resource}"
        return ""

    def _offer(self, node: Node, workers: int) -> str:
        kinds = ("CPU", "GPU", *self.placement.resources)
        amounts = ((name, node.resources.get(name, 0)) for name in kinds)
        offers = [f"{n:g} {name}{'s' * (n != 1 and name in ('CPU', 'GPU'))}" for name, n in amounts if n]
        has = f" and has {workers} worker{'s' * (workers > 1)}" if workers else ""
        return f"{node.name or node.id} offers {', '.join(offers)}{has}"

    def _of(self, node: Node) -> list[WorkerPlace]:
        """The places of a node where the number of workers is not given."""
        gpus = self._shares(node)
        if self.engine == "cuda" and not gpus:
            return []
        number = gpus or 1
        for name, amount in self.placement.resources.items():
            number = min(number, int(node.resources.get(name, 0) // amount))
        return [self._place(node, self.threads or node.cpus, sharing=number, gpu=gpus > 0)] * number

    def _next(self, nodes: Sequence[Node], occupied: Sequence[WorkerPlace], threads: int) -> WorkerPlace | None:
        """The next place of a given number of workers: on GPUs first, on CPUs when all GPUs are taken."""
        here = Counter(place.node_id for place in occupied)
        strict = self.placement.strategy == "strict-spread"
        sign = -1 if self.placement.strategy == "pack" else 1
        for gpu in (True, False) if self.engine != "cuda" else (True,):
            for node in sorted(nodes, key=lambda n: sign * here[n.id]):
                mine = [place for place in occupied if place.node_id == node.id]
                if not (strict and mine) and self._has_room(node, mine, threads, gpu=gpu):
                    sharing = min(self._shares(node), self.workers or 1) if gpu else 1
                    return self._place(node, threads, sharing=sharing, gpu=gpu)
        return None

    def _has_room(self, node: Node, mine: Sequence[WorkerPlace], threads: int, *, gpu: bool) -> bool:
        """Whether one more worker fits on a node beside its own."""
        if any(node.resources[r] < (len(mine) + 1) * amount for r, amount in self.placement.resources.items()):
            return False
        if gpu:
            return sum(place.gpus > 0 for place in mine) < self._shares(node)
        return sum(place.cpus for place in mine) + min(threads, node.cpus) <= node.cpus

    def _shares(self, node: Node) -> int:
        """Workers that its GPUs are for."""
        if self.engine not in ("auto", "cuda"):
            return 0
        gpus, each = node.resources.get("GPU", 0), self.placement.gpus
        return int(gpus) * int(1 / each + 1e-9) if each < 1 else int(gpus // each)

    def _place(self, node: Node, threads: int, *, sharing: int, gpu: bool) -> WorkerPlace:
        """A place with so many threads, or fewer where `sharing` workers share the node's CPUs."""
        share = node.cpus * UNIT // sharing / UNIT
        cpus = float(min(threads, int(share))) if share >= 1 else share
        engine = "cpu" if self.engine == "auto" and not gpu and node.resources.get("GPU", 0) else self.engine
        return WorkerPlace(node.id, max(1, int(cpus)), self.placement.gpus if gpu else 0, engine, cpus)
