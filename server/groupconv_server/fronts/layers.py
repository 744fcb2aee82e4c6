"""The layers of a front: the same as those of every other front, at every moment."""

import os
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack, suppress
from typing import Any

from groupconv.convolution.steps import Step
from groupconv.errors import NotFoundError, UnavailableError
from groupconv_server.coordinator.coordinator import Coordinator
from groupconv_server.coordinator.limits import Limits
from groupconv_server.coordinator.resident import resident_steps
from groupconv_server.coordinator.steps import Inputs
from groupconv_server.executors.base import Executor
from groupconv_server.fronts.counters import Counters, elsewhere, own
from groupconv_server.fronts.link import Link
from groupconv_server.fronts.replica import Change, Replica, Staged
from groupconv_server.fronts.status import sum_usages
from groupconv_server.fronts.weights import mapped, memory_of, share
from groupconv_server.layers.names import check_name
from groupconv_server.layers.registry import Layers
from groupconv_server.layers.repository import Repository, weight_bytes
from groupconv_server.layers.uploads import Uploads
from groupconv_server.layers.version import LayerVersion, NetworkVersion, Usage, Version
from groupconv_server.networks.networks import Networks, made
from groupconv_worker.graph.model import read_model
from groupconv_worker.job import Job


class SharedUploads(Uploads):
    """Uploads of all fronts, within one limit."""

    def __init__(self, capacity: int, counters: Counters) -> None:
        self._word = counters.word("uploads")
        super().__init__(capacity)

    bytes = own("_word")
    elsewhere = elsewhere("_word")


class SharedLayers(Layers):
    """Layers and networks that follow the changes of all fronts. Arguments are those of `Layers`.

    Args:
        replica: has the changes.
        supervisor: numbers the versions.
        counters: of all fronts.
    """

    def __init__(
        self,
        forget: Callable[[str, int], None],
        *,
        replica: Replica,
        supervisor: Link,
        counters: Counters,
        capacity: int,
        used: Callable[[str, bool, float], None],
    ) -> None:
        super().__init__(forget, capacity=capacity, used=used)
        self._replica, self._supervisor = replica, supervisor
        self.uploads = SharedUploads(capacity, counters)

    def next_version(self, name: str) -> int:
        """A version that no other front is given."""
        check_name(name)
        version: int = self._supervisor.call("next_version")
        return version

    def get(self, name: str, kind: Any = LayerVersion) -> Any:
        """The version that holds now for all fronts."""
        self._replica.catch_up()
        return super().get(name, kind)

    def all(self, kind: Any = LayerVersion) -> list[Any]:
        """The versions that hold now for all fronts."""
        self._replica.catch_up()
        return super().all(kind)

    def using(self, name: str, samples: int = 1, *, kind: Any = LayerVersion) -> AbstractContextManager[Any]:
        """Keep the version that holds now for all fronts."""
        self._replica.catch_up()
        return super().using(name, samples, kind=kind)

    def usages(self, versions: Sequence[Version]) -> list[Usage]:
        """The usage of each version at all fronts; at this one alone while the supervisor does not answer."""
        try:
            return sum_usages(self._supervisor.call("gather", "usages"), versions)
        except UnavailableError:
            return super().usages(versions)

    def remove(self, name: str) -> None:
        """Apply the removal of a layer or network."""
        super().unload(name)

    def staged(self, version: Version, size: int) -> Staged:
        """A version that takes its room now, and its name when it holds.

        Raises:
            ResourceExhaustedError: it does not fit.
        """
        undo = ExitStack()
        room = undo.enter_context(self.reserved(size))

        def apply() -> None:
            with undo:
                self.place(version, room)

        def drop() -> None:
            undo.close()
            self.forget(version.name, version.version)

        return Staged(apply, drop)


class SharedRepository(Repository):
    """Loads and unloads layers for all fronts. The supervisor has the folder of layers.

    Args:
        layers: of this front.
        coordinator: of this front.
        replica: gets the layers of other fronts.
        supervisor: has every front prepare a layer, then switches all at once.
    """

    def __init__(self, layers: SharedLayers, coordinator: Coordinator, replica: Replica, supervisor: Link) -> None:
        super().__init__(layers, None, coordinator)
        self._shared, self._supervisor = layers, supervisor
        self._prepared: dict[int, Any] = {}
        replica.register("layer", self._stage, layers.remove)

    def restore(self) -> None:
        """Do nothing: the supervisor brings what is loaded."""

    def load(self, name: str, steps: Sequence[Step], inputs: Inputs = (), *, job: Job | None = None) -> LayerVersion:
        """Load a layer for all fronts; see `Repository.load`."""
        version = self.layers.next_version(name)
        self.layers.check_kind(name, LayerVersion)
        about, handle = share(steps, inputs)
        try:
            here = self._warm(name, version, mapped(about, handle), inputs, job)
            self._prepared[version] = here
            change = Change("layer", name, version, about, None if job is None else job.deadline)
            self._supervisor.call("publish", change, handle=handle)
        except BaseException:
            self.layers.forget(name, version)
            raise
        finally:
            os.close(handle)
            self._prepared.pop(version, None)
        with suppress(NotFoundError):
            layer = self.layers.get(name)
            if layer.version == version:
                return layer
        return LayerVersion(name, version, weight_bytes(here), here, gone=True)

    def unload(self, name: str, *, keep: bool = False) -> None:
        """Unload a layer for all fronts; see `Repository.unload`."""
        self.layers.get(name)
        self._supervisor.call("remove", "layer", name, keep)

    def reload(self, name: str, *, job: Job | None = None) -> None:
        """Load a layer from disk for all fronts; see `Repository.reload`."""
        if not self._loaded(name):
            check_name(name)
            self._supervisor.call("reload", name, None if job is None else job.deadline)
        self.layers.get(name)

    def unloaded(self) -> dict[str, str]:
        """Layers that are only on disk, and the reason for each."""
        found: dict[str, str] = self._supervisor.call("unloaded")
        return found

    def _stage(self, change: Change, handle: int) -> Staged:
        try:
            steps = mapped(change.about, handle)
        finally:
            os.close(handle)
        resident = self._prepared.get(change.version)
        if resident is None:
            resident = resident_steps(change.name, change.version, steps)
            self._warm(change.name, change.version, resident, change.about.inputs, Job(change.deadline))
        return self._shared.staged(LayerVersion(change.name, change.version, 0, resident), weight_bytes(steps))


class SharedNetworks(Networks):
    """Loads and unloads networks for all fronts. The supervisor has the folder of networks."""

    def __init__(
        self, layers: SharedLayers, executor: Executor, limits: Limits, replica: Replica, supervisor: Link
    ) -> None:
        super().__init__(layers, executor, limits)
        self._layers, self._supervisor = layers, supervisor
        self._prepared: dict[int, NetworkVersion] = {}
        replica.register("network", self._stage, layers.remove)

    def load(
        self,
        name: str,
        data: bytes,
        inputs: Sequence[Mapping[str, Sequence[int]]] = (),
        *,
        job: Job | None = None,
    ) -> NetworkVersion:
        """Load a network for all fronts; see `Networks.load`."""
        loaded = self.prepared(name, data, inputs)
        handle = memory_of(len(data))
        try:
            os.pwrite(handle, data, 0)
            if job is not None and job.poll():
                job.check()
            self._prepared[loaded.version] = loaded
            change = Change("network", name, loaded.version, None, None if job is None else job.deadline)
            self._supervisor.call("publish", change, handle=handle)
        except BaseException:
            self._executor.forget(name, loaded.version)
            raise
        finally:
            os.close(handle)
            self._prepared.pop(loaded.version, None)
        return loaded

    def unload(self, name: str) -> None:
        """Unload a network for all fronts; see `Networks.unload`."""
        self.registry.get(name, NetworkVersion)
        self._supervisor.call("remove", "network", name)

    def _stage(self, change: Change, handle: int) -> Staged:
        loaded = self._prepared.get(change.version)
        try:
            if loaded is None:
                model = read_model(os.pread(handle, os.fstat(handle).st_size, 0))
                loaded = made(change.name, change.version, model)
                self._executor.prepare_network(change.name, change.version, model)
        finally:
            os.close(handle)
        return self._layers.staged(loaded, loaded.bytes)
