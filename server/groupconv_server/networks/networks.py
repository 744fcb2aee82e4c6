"""The networks of a server: loaded, kept on disk, planned."""

import contextlib
import logging
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from threading import Thread

from groupconv.errors import GroupconvError, InvalidArgumentError
from groupconv.networks.plan import NetworkPlan
from groupconv.networks.tensors import with_fixed_shapes
from groupconv.networks.windows import StreamPlan
from groupconv_server.admission.gate import reserve
from groupconv_server.coordinator.limits import Limits
from groupconv_server.executors.base import Executor
from groupconv_server.layers.names import check_name
from groupconv_server.layers.registry import Layers
from groupconv_server.layers.version import NetworkVersion
from groupconv_server.networks.calls import NetworkCalls
from groupconv_server.networks.cuts import nodes_of, plan_cuts
from groupconv_server.networks.store import NetworkStore, StoredNetwork
from groupconv_server.networks.streaming import plan_stream
from groupconv_server.networks.windows import Allowed
from groupconv_worker.graph.model import Model, read_model
from groupconv_worker.job import Job
from groupconv_worker.networks.runner import States

log = logging.getLogger(__name__)

COPIES = 2
"""Copies of a model in memory: as it was loaded, and as a worker's session keeps it."""


class Networks:
    """Networks in memory and, where the operator gave a folder, on disk.

    Args:
        registry: of layers and networks: one name space, one quota.
        executor: runs them.
        limits: of requests.
        store: on disk; None keeps nothing.

    Attributes:
        calls: runs them.
    """

    def __init__(self, registry: Layers, executor: Executor, limits: Limits, store: NetworkStore | None = None) -> None:
        self.registry, self._executor, self._limits, self._store = registry, executor, limits, store
        self.calls = NetworkCalls(registry, executor, limits)

    def restore(self) -> None:
        """Load every network that is on disk; those that cannot be loaded are reported and left alone."""
        if self._store is None:
            return
        for stored in self._store.all():
            try:
                if not isinstance(stored, StoredNetwork):
                    raise stored[1]
                network = made(stored.name, stored.version, read_model(stored.data))
                with self.registry.reserved(network.bytes) as room:
                    if self._executor.workers():  # else the first call sends it to one
                        self._executor.prepare_network(stored.name, stored.version, network.model)
                    self.registry.place(network, room)
            except GroupconvError as error:
                name = stored.name if isinstance(stored, StoredNetwork) else stored[0]
                log.error("network %s was not loaded: %s", name, error)  # noqa: TRY400 - its message says it all

    def check_name(self, name: str) -> str:
        """Check the name of a network that is about to be loaded.

        Raises:
            InvalidArgumentError: the name is not valid.
            FailedPreconditionError: a layer has it.
        """
        check_name(name)
        self.registry.check_kind(name, NetworkVersion)
        return name

    def load(
        self,
        name: str,
        data: bytes,
        inputs: Sequence[Mapping[str, Sequence[int]]] = (),
        *,
        job: Job | None = None,
    ) -> NetworkVersion:
        """Check a model, prepare it on a worker, keep it on disk, and make it the new version of a network.

        Args:
            name: of the network.
            data: an ONNX file's bytes.
            inputs: sets of input shapes, which are checked and planned now.
            job: of the caller. A network whose caller has gone is not loaded.

        Raises:
            DeadlineExceededError, CancelledError: the job was over before the network was prepared.
            InvalidArgumentError: naming the node at fault, or a set of inputs that does not fit.
            ResourceExhaustedError: it does not fit beside what is loaded, or a tensor is over the limit.
            FailedPreconditionError: a layer has this name, or the network cannot be kept; the version before stays.
        """
        loaded = self.prepared(name, data, inputs)
        try:
            if job is not None and job.poll():
                job.check()
            with self.registry.reserved(loaded.bytes) as room:
                if self._store is not None:
                    self._store.save(name, loaded.version, data)
                self.registry.place(loaded, room)
        except BaseException:
            self._executor.forget(name, loaded.version)
            raise
        return loaded

    def prepared(self, name: str, data: bytes, inputs: Sequence[Mapping[str, Sequence[int]]] = ()) -> NetworkVersion:
        """A new version of a network, prepared on a worker and not placed yet. Arguments and errors: `load`."""
        self.check_name(name)
        model = read_model(data)
        version = self.registry.next_version(name)
        loaded = made(name, version, model)
        self._check(loaded, inputs)
        self.registry.check_fits(loaded.bytes)
        try:
            with self._expecting(loaded):
                self._executor.prepare_network(name, version, model)
        except BaseException:
            self._executor.forget(name, version)
            raise
        return loaded

    def unload(self, name: str) -> None:
        """Remove a network, from disk too.

        Raises:
            NotFoundError: there is none.
            FailedPreconditionError: its files cannot be removed; the network stays.
        """
        self.registry.get(name, NetworkVersion)
        if self._store is not None:
            self._store.remove(name)
        self.registry.unload(name)

    def states(self) -> States:
        """Who answers the calls of each version, as far as workers say it at once."""
        return self._executor.network_states()

    def plan(
        self, name: str, shapes: Mapping[str, Sequence[int]], workers: int = 0, in_flight: int = 1, nodes: int = 1
    ) -> NetworkPlan:
        """What a call with inputs of these shapes would compute, and how the last call was answered.

        Args:
            name: of the network.
            shapes: of the inputs; those without free axes may be left out.
            workers: to cut the network over; 0 leaves cuts out.
            in_flight: calls at a time that share these workers.
            nodes: that have the workers, nearly the same number each.

        Raises:
            NotFoundError, InvalidArgumentError, ResourceExhaustedError: as of `NetworkVersion.bind`.
            FailedPreconditionError: workers are asked for, and the network has no graph that can be cut.
        """
        network = self.registry.get(name, NetworkVersion)
        shapes = with_fixed_shapes(network.model.inputs, shapes)
        plan = network.plan(shapes, self._limits.tensor_bytes)
        if not workers and nodes == 1:
            return plan
        reserve(network.bytes)
        alike = nodes_of(workers, nodes)
        return replace(plan, cuts=plan_cuts(network.model, shapes, alike, in_flight, self.calls.costs())[0])

    def plan_stream(
        self, name: str, shapes: Mapping[str, Sequence[int]], outputs: Sequence[str], window_bytes: int = 0
    ) -> StreamPlan:
        """How maps of these shapes go through a network in windows.

        Raises:
            NotFoundError, InvalidArgumentError, ResourceExhaustedError: as of `plan_stream`.
        """
        limits = self._limits
        workers = max(1, len(self._executor.workers()))
        together = workers if self._executor.computes_here else 1
        memory = limits.network_stream_bytes
        allowed = Allowed(memory, limits.most_output(), limits.tensor_bytes, workers, together)
        return plan_stream(self.registry.get(name, NetworkVersion), shapes, outputs, allowed, window_bytes)

    def _check(self, network: NetworkVersion, inputs: Sequence[Mapping[str, Sequence[int]]]) -> None:
        """Plan the inputs that are expected; of a network without free axes, its only ones."""
        fixed = {info.name: info.shape for info in network.model.inputs}
        if all(isinstance(extent, int) for shape in fixed.values() for extent in shape):
            network.bind(fixed, self._limits.tensor_bytes)  # type: ignore[arg-type] # checked above
        for i, shapes in enumerate(inputs):
            try:
                network.bind(with_fixed_shapes(network.model.inputs, shapes), self._limits.tensor_bytes)
            except InvalidArgumentError as error:
                raise error.within(f"header.inputs[{i}]") from None

    @contextlib.contextmanager
    def _expecting(self, network: NetworkVersion) -> Iterator[None]:
        """Plan a call of one sample meanwhile, if the batch alone is free: the runtime leaves a processor idle."""
        shapes = {
            info.name: tuple(extent if i or isinstance(extent, int) else 1 for i, extent in enumerate(info.shape))
            for info in network.model.inputs
        }
        if not all(isinstance(extent, int) for shape in shapes.values() for extent in shape):
            yield
            return

        def bind() -> None:
            with contextlib.suppress(GroupconvError):  # of a call that may never come
                network.bind(shapes, self._limits.tensor_bytes)  # type: ignore[arg-type] # checked above

        thread = Thread(target=bind, name="plan", daemon=True)
        thread.start()
        try:
            yield
        finally:
            thread.join()


def made(name: str, version: int, model: Model) -> NetworkVersion:
    """A version, with what its runtime computes from constants counted."""
    network = NetworkVersion(name, version, size_of(len(model.data)), model)
    network.bytes += network.skeleton.folded_bytes
    return network


def size_of(model_bytes: int) -> int:
    """Bytes that a network counts against the quota."""
    return COPIES * model_bytes
