"""How a network is to be cut: all tensors along one axis, or each one as the planner, a file or a caller says."""

import hashlib
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property

from groupconv_worker.graph.graph import Graph
from groupconv_worker.graph.partition.cut import AXES, Cut
from groupconv_worker.graph.partition.partition import Partition
from groupconv_worker.graph.partition.uniform import brought_once, uniform

PLANNED = "planned"
"""The cut of each tensor is given: by the planner, by the network's file, or by the caller."""
CUTS = (*AXES, PLANNED)
"""Names of the ways to cut a network: along one axis, or as planned."""
Cuts = Mapping[str, Cut]
"""The cut of each tensor, by its name."""


@dataclass(frozen=True)
class CutChoice:
    """One way to cut a network.

    Attributes:
        name: one of `CUTS`.
        tensors: the cuts, if they are `PLANNED`.

    Example:
        >>> shape = (1, 8, 6, 6)
        >>> cuts = {"c": Cut.along(shape, 2, (0, 2, 6)), "y": Cut.along(shape, 1, (0, 4, 8))}
        >>> str(CutChoice("rows")), str(CutChoice(PLANNED, cuts))
        ('along rows', 'as planned (1 by rows, 1 by channels)')
    """

    name: str
    tensors: Cuts = field(default_factory=dict)

    @cached_property
    def key(self) -> str:
        """Differs between choices; short, so that it can travel with each call."""
        if not self.tensors:
            return self.name
        text = repr(sorted((name, cut.boxes) for name, cut in self.tensors.items()))
        return f"{self.name} {hashlib.blake2b(text.encode(), digest_size=16).hexdigest()}"

    def partition(self, graph: Graph, workers: int, block: int = 1) -> Partition:
        """Cut a network.

        Args:
            graph: in canonical form.
            workers: over how many.
            block: as of `uniform`.

        Raises:
            ValueError: the network cannot be cut so, or the cuts are of other tensors or for more workers.
        """
        if self.name != PLANNED:
            return uniform(graph, self.name, workers, block)
        if self.tensors.keys() != graph.makers.keys():
            raise ValueError("the cuts are of another network")
        most = max((len(cut.boxes) for cut in self.tensors.values()), default=0)
        if most > workers:
            raise ValueError(f"the cuts are for {most} workers, and there are {workers}")
        return brought_once(graph, {name: cut.over(workers) for name, cut in self.tensors.items()}, workers)

    def __str__(self) -> str:
        if self.name != PLANNED:
            return f"along {self.name}"
        kinds: Counter[str] = Counter()
        for cut in self.tensors.values():
            if cut.axes:
                kinds[str(cut).split()[0]] += 1
        words = [f"{count} by {kind}" for kind, count in kinds.most_common()]
        return f"as planned ({', '.join(words) or 'no tensor'})"
