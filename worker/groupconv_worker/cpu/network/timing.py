"""How long each node of a program takes: its stages, with the clock read between the nodes."""

from collections.abc import Sequence

import numpy as np

from groupconv_worker.cpu.network.kernels.clock import stamp
from groupconv_worker.cpu.stages import KernelStage


class Stamped:
    """Stages with a reading of the clock before the first one, and behind those of each node.

    Args:
        stages: of a program.
        names: of the node that each stage belongs to.

    Attributes:
        stages: with the readings.

    Raises:
        NotCompiledError: the kernel that reads the clock is not compiled, and must not be in this process.
    """

    def __init__(self, stages: Sequence[KernelStage], names: Sequence[str]) -> None:
        self._names = [name for i, name in enumerate(names) if i + 1 == len(names) or names[i + 1] != name]
        self._clock = np.zeros(len(self._names) + 1, np.int64)
        function, number = stamp(), 0
        self.stages = [KernelStage(function, [self._clock[:1]], 1)]
        for i, stage in enumerate(stages):
            self.stages.append(stage)
            if i + 1 == len(names) or names[i + 1] != names[i]:
                number += 1
                self.stages.append(KernelStage(function, [self._clock[number : number + 1]], 1))

    def seconds(self) -> dict[str, float]:
        """Seconds of each node in the last run, by its first output."""
        by_node: dict[str, float] = {}
        for name, took in zip(self._names, np.diff(self._clock), strict=True):
            by_node[name] = by_node.get(name, 0.0) + float(took) / 1e9
        return by_node


def owners(ends: Sequence[tuple[str, int]], count: int) -> list[str]:
    """The node of each stage.

    Args:
        ends: the first output of each node, and the number of stages once it was lowered.
        count: of stages; those behind the last node are the last node's.

    Example:
        >>> owners([("a", 1), ("b", 1), ("c", 3)], 4)
        ['a', 'c', 'c', 'c']
        >>> owners([("reshape", 0)], 1)  # the copy into the caller's array
        ['reshape']
    """
    names: list[str] = []
    for name, end in ends:
        names += [name] * (end - len(names))
    return names + [ends[-1][0] if ends else ""] * (count - len(names))
