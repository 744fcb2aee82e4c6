"""Layers in memory and, where the operator gave a folder, on disk: what is loaded is kept, what is unloaded is not."""

import logging
from collections.abc import Sequence
from contextlib import suppress

import numpy as np

from groupconv.convolution.steps import Step
from groupconv.errors import (
    FailedPreconditionError,
    GroupconvError,
    InvalidArgumentError,
    NotFoundError,
    ResourceExhaustedError,
)
from groupconv_server.coordinator.coordinator import Coordinator
from groupconv_server.coordinator.resident import ResidentStep, resident_steps
from groupconv_server.coordinator.steps import Inputs
from groupconv_server.layers.named_locks import NamedLocks
from groupconv_server.layers.registry import Layers
from groupconv_server.layers.store import LayerStore, Stored
from groupconv_server.layers.version import LayerVersion
from groupconv_server.layers.warming import prepare, warm
from groupconv_worker.job import Job

log = logging.getLogger(__name__)

EXPECTED = 8
"""Shapes that a new version, or a worker that joins, is prepared for because they came before."""


def expected(layer: LayerVersion) -> list[tuple[tuple[int, ...], np.dtype]]:
    """Shapes and dtypes of the inputs that a layer's version was last given."""
    return layer.steps[0].calls.inputs()[-EXPECTED:]


class Repository:
    """The layers of a server and their copies on disk.

    Args:
        layers: in memory.
        store: on disk; None keeps nothing.
        coordinator: prepares new versions before they take requests; None leaves that to the first request.
    """

    def __init__(self, layers: Layers, store: LayerStore | None = None, coordinator: Coordinator | None = None) -> None:
        self.layers, self.store, self._coordinator = layers, store, coordinator
        self.damaged: dict[str, str] = {}
        self._locks = NamedLocks()  # changes of one layer end on disk as they do in memory

    def restore(self) -> None:
        """Load every layer that is on disk; those that cannot be loaded are reported and left alone."""
        if self.store is None:
            return
        for found in self.store.all():
            try:
                if not isinstance(found, Stored):
                    raise found[1]
                self._place(found)
            except GroupconvError as error:
                name = found.name if isinstance(found, Stored) else found[0]
                self.damaged[name] = str(error)
                log.error("layer %s was not loaded: %s", name, error)  # noqa: TRY400 - its message says it all

    def load(self, name: str, steps: Sequence[Step], inputs: Inputs = (), *, job: Job | None = None) -> LayerVersion:
        """Make `steps` the new version of a layer: prepared on the workers, kept on disk, then there for requests.

        While it is prepared, other layers are loaded and requests are answered. Only then do other layers leave for it.

        Args:
            name: of the layer.
            steps: with read-only arrays.
            inputs: to expect; those that the version before was given are expected too.
            job: that preparing it is; once that is over, preparing ends.

        Returns:
            The layer. Of two loads of one name the one that began last stays, whichever ends first.

        Raises:
            InvalidArgumentError: a name that cannot be, or an input that does not fit the steps.
            ResourceExhaustedError: it does not fit beside the layers that are loaded.
            DeadlineExceededError, CancelledError: it was not prepared in time, or the caller has gone.
            FailedPreconditionError: it cannot be kept; the version before stays.
        """
        version = self.layers.next_version(name)
        try:
            steps = self._warm(name, version, steps, inputs, job)
            with self._locks.of(name):
                if self.layers.superseded(name, version):
                    self.layers.forget(name, version)
                    return LayerVersion(name, version, resident_steps(name, version, steps), _size(steps), gone=True)
                with self.layers.reserved(_size(steps)) as room:
                    if self.store is not None:
                        self._keep(name, version, steps, inputs)
                    return self.layers.load(name, steps, room, version)
        except BaseException:
            self.layers.forget(name, version)
            raise

    def prepare(self, worker: str) -> None:
        """Have a worker that joins or comes back prepare every layer for the inputs that are expected."""
        if self._coordinator is None:
            return
        self._coordinator.measure(worker)
        for layer in self.layers.all():
            for shape, dtype in expected(layer):
                with suppress(InvalidArgumentError, ResourceExhaustedError):
                    prepare(self._coordinator, worker, layer.steps, shape, dtype)

    def unload(self, name: str, *, keep: bool = False) -> None:
        """Let a layer go, from disk too unless it is to be kept there.

        Raises:
            NotFoundError: there is none.
            FailedPreconditionError: its files cannot be removed; the layer stays.
        """
        with self._locks.of(name):
            self.layers.get(name)
            if self.store is not None and not keep:
                try:
                    self.store.remove(name)
                except OSError as error:
                    raise FailedPreconditionError(f"the layer cannot be removed from disk: {error.strerror}") from error
            self.layers.unload(name)

    def reload(self, name: str, *, job: Job | None = None) -> None:
        """Load a layer from disk if it is not loaded.

        Args:
            name: of the layer.
            job: that preparing it is; once that is over, the first request prepares it.

        Raises:
            NotFoundError: it is neither loaded nor on disk.
            DataLossError: it is damaged.
            ResourceExhaustedError: it does not fit beside the layers that are loaded.
        """
        if self.store is None or self._loaded(name):
            self.layers.get(name)
            return
        with self._locks.of(name):
            stored = self.store.read(name)
        self._place(stored, job)
        self.damaged.pop(name, None)

    def unloaded(self) -> dict[str, str]:
        """Names of layers that are on disk alone, and why where there is a reason."""
        if self.store is None:
            return {}
        here = {layer.name for layer in self.layers.all()}
        names = {*self.store.names(), *self.damaged} - here
        return {name: self.damaged.get(name, "unloaded") for name in sorted(names)}

    def _loaded(self, name: str) -> bool:
        return any(layer.name == name for layer in self.layers.all())

    def _warm(
        self, name: str, version: int, steps: Sequence[Step], inputs: Inputs, job: Job | None = None
    ) -> tuple[ResidentStep, ...]:
        """The steps of a version, prepared on the workers for the inputs that are expected."""
        resident = resident_steps(name, version, steps)
        if self._coordinator is None:
            return resident
        for i, (shape, dtype) in enumerate(inputs):
            try:
                warm(self._coordinator, resident, shape, dtype, job)
            except InvalidArgumentError as error:
                raise error.within(f"inputs[{i}]") from None
        with suppress(NotFoundError):
            for shape, dtype in expected(self.layers.get(name)):
                with suppress(InvalidArgumentError, ResourceExhaustedError):  # the new version may be for other inputs
                    warm(self._coordinator, resident, shape, dtype, job)
        return resident

    def _keep(self, name: str, version: int, steps: Sequence[Step], inputs: Inputs) -> None:
        assert self.store is not None
        try:
            self.store.save(name, version, steps, inputs)
        except OSError as error:
            raise FailedPreconditionError(f"the layer cannot be kept on disk: {error.strerror}") from error
        self.damaged.pop(name, None)

    def _place(self, stored: Stored, job: Job | None = None) -> None:
        name, version = stored.name, stored.version
        steps = resident_steps(name, version, stored.steps)
        try:
            self._warm(name, version, steps, stored.inputs, job)
        except GroupconvError as error:  # no worker yet, or limits that were others: the first request prepares it
            log.warning("layer %s is loaded without being prepared: %s", name, error)
        with self._locks.of(name):
            if not self._loaded(name):
                with self.layers.reserved(_size(stored.steps)) as room:
                    self.layers.load(name, steps, room, version)


def _size(steps: Sequence[Step]) -> int:
    """Bytes of the weights."""
    return sum(array.nbytes for step in steps for array in (step.kernel, step.bias) if array is not None)
