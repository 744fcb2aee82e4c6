"""What a worker knows of a network's calls, by the network's version and the shapes of their inputs."""

import threading
from collections import OrderedDict
from collections.abc import Callable, Mapping
from typing import Any, Generic, TypeVar

from numpy.typing import NDArray

KEPT = 8
"""Sets of input shapes of a version of which something is known: those that were called last."""
Shapes = tuple[tuple[str, tuple[int, ...]], ...]
Known = TypeVar("Known")


class ByShapes(Generic[Known]):
    """What is known, until its shapes are evicted or its version is popped. Safe to use from several threads.

    Args:
        evicted: called with what leaves as other shapes came.

    Example:
        >>> calls = ByShapes[list[int]](lambda known: known.clear())
        >>> calls.find("net", 1, (("x", (1, 3)),), list).append(7)
        >>> calls.of("net", 1), calls.get("net", 1, (("x", (2, 3)),))
        ([[7]], None)
        >>> calls.pop("net", 1), calls.versions()
        ([[7]], {})
    """

    def __init__(self, evicted: Callable[[Known], None]) -> None:
        self._evicted = evicted
        self._versions: dict[tuple[str, int], OrderedDict[Shapes, Known]] = {}
        self._lock = threading.Lock()

    def find(self, network: str, version: int, shapes: Shapes, make: Callable[[], Known]) -> Known:
        """What is known of these shapes, as those that were called last; made if there is none."""
        with self._lock:
            by_shapes = self._versions.setdefault((network, version), OrderedDict())
            known = by_shapes.pop(shapes, None)
            by_shapes[shapes] = known = make() if known is None else known
            while len(by_shapes) > KEPT:
                self._evicted(by_shapes.popitem(last=False)[1])
            return known

    def get(self, network: str, version: int, shapes: Shapes) -> Known | None:
        """What is known of these shapes; None if there is nothing, as once the version is unloaded."""
        with self._lock:
            by_shapes = self._versions.get((network, version))
            return None if by_shapes is None else by_shapes.get(shapes)

    def of(self, network: str, version: int) -> list[Known]:
        """What is known of all shapes of a version."""
        with self._lock:
            by_shapes = self._versions.get((network, version))
            return [] if by_shapes is None else list(by_shapes.values())

    def versions(self) -> dict[tuple[str, int], list[Known]]:
        """What is known of all versions."""
        with self._lock:
            return {version: list(by_shapes.values()) for version, by_shapes in self._versions.items()}

    def pop(self, network: str, version: int) -> list[Known]:
        """Take out what is known of a version that was unloaded."""
        with self._lock:
            return list(self._versions.pop((network, version), OrderedDict()).values())


def shapes_of(inputs: Mapping[str, NDArray[Any]]) -> Shapes:
    """The shapes of a call's inputs, by name."""
    return tuple((name, array.shape) for name, array in inputs.items())
