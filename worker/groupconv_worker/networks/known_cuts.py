"""What is known of how calls of a network's version, with inputs of certain shapes, are cut over several workers."""

import threading
from dataclasses import dataclass, field, replace

from groupconv_worker.graph.partition.choice import PLANNED, CutChoice
from groupconv_worker.graph.partition.cut import AXES
from groupconv_worker.networks.gang import GangNetwork
from groupconv_worker.networks.runner import NetworkCall

GIVEN = 4
"""Networks that are kept of cuts that callers gave; and plans, of these and for numbers of workers."""


@dataclass(eq=False)
class KnownCuts:
    """The cuts of a network's version with inputs of certain shapes.

    Attributes:
        networks: by the key of their `CutChoice`: the fastest one, and those that were asked for.
        reasons: why there is none, by the key.
        best: the choice by which calls are cut; None if one worker is faster.
        reason: how that was found.
        started: whether it is being found.
        gone: whether the version was unloaded.
    """

    networks: dict[str, GangNetwork] = field(default_factory=dict)
    reasons: dict[str, str] = field(default_factory=dict)
    best: CutChoice | None = None
    reason: str = ""
    started: bool = False
    gone: bool = False
    _planned: dict[tuple[tuple[int, ...], str], CutChoice | None] = field(default_factory=dict)
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def requested(self, call: NetworkCall, nodes: tuple[int, ...]) -> CutChoice | None:
        """The choice that a call asks for; None if the planner prefers one worker.

        Args:
            call: of the network.
            nodes: how many workers each node has.

        Raises:
            GroupconvError: as of the call's planner.
        """
        if call.cut != PLANNED:
            return CutChoice(call.cut)
        key = nodes, CutChoice(PLANNED, call.given).key
        with self._lock:
            if key in self._planned:
                return self._planned[key]
        cuts = None if call.planner is None else call.planner(call.given, nodes)
        choice = CutChoice(PLANNED, cuts) if cuts else None
        with self._lock:
            alike = [known for known in self._planned if (known[1] == PLANNED) == (key[1] == PLANNED)]
            for known in alike[: 1 - GIVEN]:  # callers' plans do not push out the planner's own
                del self._planned[known]
            self._planned[key] = choice
        return choice

    def candidates(self, call: NetworkCall, nodes: tuple[int, ...]) -> list[CutChoice]:
        """The choices to be measured: each axis, and the planner's."""
        planned = self.requested(replace(call, cut=PLANNED, given={}), nodes)
        return [*map(CutChoice, AXES), *([] if planned is None else [planned])]

    def is_best(self, key: str) -> bool:
        """Whether this is the key of the choice by which calls are cut."""
        return self.best is not None and self.best.key == key

    def superfluous(self) -> list[str]:
        """The keys of the networks to drop, as newer ones were asked for; the best one stays."""
        others = [key for key in self.networks if not self.is_best(key)]
        return others[: -len(AXES) - GIVEN]
