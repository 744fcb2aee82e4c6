"""Resident layers and networks: named, versioned, counted against a quota.

A version is immutable. Loading under a name that exists switches the name to the new version at once; requests that
hold the old one end with it, and its memory is given back when the last of them has.
"""

import itertools
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from typing import Any, TypeVar, overload

from groupconv.convolution.steps import Step
from groupconv.errors import FailedPreconditionError, NotFoundError, ResourceExhaustedError
from groupconv.text import human_bytes
from groupconv_server.coordinator.resident import resident_steps
from groupconv_server.layers.names import check_name, shown
from groupconv_server.layers.uploads import Uploads
from groupconv_server.layers.version import LayerVersion, NetworkVersion, Reservation, Usage, Version

V = TypeVar("V", bound=Version)

MOST = 10_000
"""Layers and networks at a time: one costs some 10 KB beside its weights, which may be 4 bytes."""


class Layers:
    """The layers and networks of a server. Safe to use from several threads.

    Args:
        forget: tells the workers to drop a version.
        capacity: bytes of weights of all layers.
        most: layers at a time, however small.
        evict: whether the least recently used layers leave when a new one does not fit.
        used: called after each request with the layer's name, whether it was answered, and its seconds.

    Example:
        >>> import numpy as np
        >>> layers = Layers(lambda name, version: None, capacity=100)
        >>> with layers.reserved(12) as room:
        ...     layers.load("edge", [Step(np.ones((1, 1, 3), np.float32))], room).version
        1
        >>> with layers.using("edge") as layer:
        ...     layer.steps[0].kernel.shape
        (1, 1, 3)
        >>> layers.unload("edge"); layers.bytes
        0
    """

    def __init__(
        self,
        forget: Callable[[str, int], None],
        *,
        capacity: int,
        most: int = MOST,
        evict: bool = False,
        used: Callable[[str, bool, float], None] = lambda *_: None,
    ) -> None:
        self._forget, self.capacity, self.most, self._evict, self._used = forget, capacity, most, evict, used
        self.bytes = 0
        self.uploads = Uploads(capacity)
        self._layers: dict[str, Version] = {}
        self._version, self._clock = 0, itertools.count(1)
        self._lock = threading.Lock()

    def check_fits(self, size: int) -> None:
        """Refuse a layer of `size` bytes that could not be loaded now. Nothing is reserved, and none leaves for it.

        Raises:
            ResourceExhaustedError: naming the size, what is loaded and the limit.
        """
        if not self._fits(size) and not (self._evict and size <= self.capacity):
            raise self._full(size)

    @contextmanager
    def reserved(self, size: int) -> Iterator[Reservation]:
        """Room for a layer of `size` bytes that is about to be loaded; given back unless `load` takes it.

        Raises:
            ResourceExhaustedError: naming the size, what is loaded and the limit.
        """
        with self._lock:
            ended = self._make_room(size)
            fits = self._fits(size)
            if fits:
                self.bytes += size
        self._drop(ended)
        if not fits:
            raise self._full(size)
        room = Reservation(size)
        try:
            yield room
        finally:
            with self._lock:
                self.bytes -= room.bytes

    def next_version(self, name: str) -> int:
        """A version for a layer that is about to be loaded.

        Raises:
            InvalidArgumentError: a name that cannot be.
        """
        check_name(name)
        with self._lock:
            self._version += 1
            return self._version

    def load(self, name: str, steps: Sequence[Step], room: Reservation, version: int | None = None) -> LayerVersion:
        """Make `steps` the new version of a layer, in the room that was reserved for their weights.

        Args:
            name: of the layer.
            steps: with read-only arrays.
            room: which is the layer's from now on.
            version: as of `next_version`, or of a layer that was on disk; None takes the next one.

        Raises:
            InvalidArgumentError: a name that cannot be.
        """
        version = version or self.next_version(name)
        layer = LayerVersion(name, version, room.bytes, resident_steps(name, version, steps))
        self.place(layer, room)
        return layer

    def check_kind(self, name: str, kind: type[Version]) -> None:
        """Refuse the name of a network for a layer, and of a layer for a network.

        Raises:
            FailedPreconditionError: saying which there is.
        """
        other = self._layers.get(name)
        if other is not None and type(other) is not kind:
            what = "network" if isinstance(other, NetworkVersion) else "layer"
            raise FailedPreconditionError(f"there is a {what} called {shown(name)}; unload it or choose another name")

    def place(self, version: Version, room: Reservation) -> None:
        """Make a version the present one of its name, in the room that was reserved for it.

        Raises:
            InvalidArgumentError: a name that cannot be.
            FailedPreconditionError: the name is that of a network for a layer, or the other way round.
        """
        check_name(version.name)
        with self._lock:
            self.check_kind(version.name, type(version))
            version.bytes, room.bytes = room.bytes, 0  # now the version's
            self._version = max(self._version, version.version)
            version.used = next(self._clock)
            old = self._layers.get(version.name)
            ended = self._retire(old) if old else []
            self._layers[version.name] = version
        self._drop(ended)

    @property
    def spare(self) -> int:
        """Bytes of the quota that nothing takes."""
        return max(0, self.capacity - self.bytes)

    def grow(self, version: NetworkVersion, worker: str, program_bytes: int) -> None:
        """Count the programs that a worker has of a network's version by now. It was told how much was to spare."""
        if version.program_bytes.get(worker, 0) == program_bytes:
            return
        with self._lock:
            more = program_bytes - version.program_bytes.get(worker, 0)
            version.program_bytes[worker] = program_bytes
            version.bytes += more
            self.bytes += more

    def superseded(self, name: str, version: int) -> bool:
        """Whether a load of this name that began after that of `version` has ended already."""
        with self._lock:
            layer = self._layers.get(name)
            return layer is not None and layer.version > version

    def forget(self, name: str, version: int) -> None:
        """Have the workers drop a version that was prepared and not loaded."""
        self._forget(name, version)

    @overload
    def get(self, name: str) -> LayerVersion: ...
    @overload
    def get(self, name: str, kind: type[V]) -> V: ...
    def get(self, name: str, kind: type[Version] = LayerVersion) -> Version:
        """The current version.

        Args:
            name: of a layer or a network.
            kind: `LayerVersion`, `NetworkVersion`, or `Version` for either.

        Raises:
            NotFoundError: there is none of this kind.
        """
        with self._lock:
            return self._get(name, kind)

    @overload
    def all(self) -> list[LayerVersion]: ...
    @overload
    def all(self, kind: type[V]) -> list[V]: ...
    def all(self, kind: Any = LayerVersion) -> list[Any]:
        """The current version of everything of a kind, by name; see `get`."""
        with self._lock:
            return [version for _, version in sorted(self._layers.items()) if isinstance(version, kind)]

    def usages(self, versions: Sequence[Version]) -> list[Usage]:
        """The usage of each version."""
        return [version.usage for version in versions]

    def unload(self, name: str) -> None:
        """Let a layer go; its running requests end with it.

        Raises:
            NotFoundError: there is none.
        """
        with self._lock:
            if name not in self._layers:
                raise NotFoundError(f"layer: there is none called {shown(name)}")
            ended = self._retire(self._layers[name])
        self._drop(ended)

    @overload
    def using(self, name: str, samples: int = 1) -> AbstractContextManager[LayerVersion]: ...
    @overload
    def using(self, name: str, samples: int = 1, *, kind: type[V]) -> AbstractContextManager[V]: ...
    @contextmanager
    def using(self, name: str, samples: int = 1, *, kind: Any = LayerVersion) -> Iterator[Any]:
        """Keep the current version for one request of so many samples, which counts in its usage.

        Raises:
            NotFoundError: there is none of this kind.
        """
        start, answered = time.perf_counter(), False
        with self._lock:
            version = self._get(name, kind)
            version.running += 1
            version.used = next(self._clock)
        try:
            yield version
            answered = True
        finally:
            seconds = time.perf_counter() - start
            with self._lock:
                version.running -= 1
                usage = version.usage
                if answered:
                    usage.requests += 1
                    usage.samples += samples
                    usage.seconds += seconds
                else:
                    usage.failures += 1
                ended = self._ended(version)
            self._drop(ended)
            self._used(name, answered, seconds)

    def _fits(self, size: int) -> bool:
        return self.bytes + size <= self.capacity and len(self._layers) < self.most

    def _full(self, size: int) -> ResourceExhaustedError:
        if len(self._layers) >= self.most:
            return ResourceExhaustedError(f"layer: {self.most} are loaded, which is the limit; unload a layer")
        return ResourceExhaustedError(
            f"layer: {human_bytes(size)} of weights do not fit beside the {human_bytes(self.bytes)} loaded, "
            f"the limit is {human_bytes(self.capacity)}; unload a layer"
        )

    def _get(self, name: str, kind: type[V]) -> V:
        version = self._layers.get(name)
        if isinstance(version, kind):
            return version
        what, other = ("network", "layer") if kind is NetworkVersion else ("layer", "network")
        why = "there is none called" if version is None else f"there is a {other}, and no {what}, called"
        raise NotFoundError(f"{what}: {why} {shown(name)}")

    def _make_room(self, size: int) -> list[Version]:
        ended: list[Version] = []
        while self._evict and not self._fits(size) and size <= self.capacity and self._layers:
            ended += self._retire(min(self._layers.values(), key=lambda layer: layer.used))
        return ended

    def _retire(self, layer: Version) -> list[Version]:
        layer.gone = True
        del self._layers[layer.name]
        return self._ended(layer)

    def _ended(self, layer: Version) -> list[Version]:
        """The layer, if nothing uses it any more; its bytes are then free."""
        if not layer.gone or layer.running:
            return []
        self.bytes -= layer.bytes
        return [layer]

    def _drop(self, ended: Sequence[Version]) -> None:
        """Outside the lock: telling workers may take its time."""
        for layer in ended:
            self._forget(layer.name, layer.version)
