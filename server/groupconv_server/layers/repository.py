"""The layers of a server, in memory and on disk. Loading a layer keeps it on disk, unloading removes it."""

import logging
from collections.abc import Sequence
from contextlib import suppress

import numpy as np

from groupconv.convolution.steps import Step
from groupconv.errors import GroupconvError, InvalidArgumentError, NotFoundError, ResourceExhaustedError
from groupconv_server.coordinator.calibration import calibrate_joined
from groupconv_server.coordinator.coordinator import Coordinator
from groupconv_server.coordinator.resident import ResidentStep, resident_steps
from groupconv_server.coordinator.steps import Inputs
from groupconv_server.layers.named_locks import NamedLocks
from groupconv_server.layers.registry import Layers
from groupconv_server.layers.store import LayerStore, Stored
from groupconv_server.layers.version import LayerVersion, Version
from groupconv_server.layers.warming import prepare, warm
from groupconv_worker.job import Job

log = logging.getLogger(__name__)

EXPECTED = 8
"""A new version or worker is prepared for at most so many of the last input shapes."""


def expected(layer: LayerVersion) -> list[tuple[tuple[int, ...], np.dtype]]:
    """Shapes and dtypes of the last inputs of a layer."""
    return layer.steps[0].calls.inputs()[-EXPECTED:]


class Repository:
    """The layers of a server and their copies on disk.

    Args:
        layers: in memory.
        store: on disk; None if there is no folder.
        coordinator: prepares new versions before they take requests; None leaves that to the first request.
    """

    def __init__(self, layers: Layers, store: LayerStore | None = None, coordinator: Coordinator | None = None) -> None:
        self.layers, self.store, self._coordinator = layers, store, coordinator
        self.damaged: dict[str, str] = {}
        self._locks = NamedLocks()  # so that memory and disk have the same version

    def restore(self) -> None:
        """Load all layers on disk. Layers that cannot be loaded are logged and skipped."""
        if self.store is None:
            return
        for stored in self.store.all():
            try:
                if not isinstance(stored, Stored):
                    raise stored[1]
                self._load_stored(stored)
            except GroupconvError as error:
                name = stored.name if isinstance(stored, Stored) else stored[0]
                self.damaged[name] = str(error)
                log.error("layer %s was not loaded: %s", name, error)  # noqa: TRY400 - the message is enough
                error.with_traceback(None)  # `found` keeps it, and the traceback files that are open

    def load(self, name: str, steps: Sequence[Step], inputs: Inputs = (), *, job: Job | None = None) -> LayerVersion:
        """Make `steps` the new version of a layer: prepare it on the workers, keep it on disk, and let requests use it.

        Meanwhile other layers can be loaded, and requests go on. Layers are evicted only once this one is prepared.

        Args:
            name: of the layer.
            steps: with read-only arrays.
            inputs: shapes and dtypes to prepare for, beside those of the version before.
            job: of the caller. Preparing ends when the job is over.

        Returns:
            The layer. Of two loads of one name the one that began last stays, whichever ends first.

        Raises:
            InvalidArgumentError: the name is invalid, or an input does not fit the steps.
            ResourceExhaustedError: the layer does not fit beside the loaded ones.
            DeadlineExceededError, CancelledError: the job ended before the layer was prepared.
            FailedPreconditionError: the layer cannot be kept on disk; the version before stays.
        """
        version = self.layers.next_version(name)
        self.layers.check_kind(name, LayerVersion)
        try:
            steps = self._warm(name, version, steps, inputs, job)
            with self._locks.of(name):
                if self.layers.superseded(name, version):
                    self.layers.forget(name, version)
                    resident = resident_steps(name, version, steps)
                    return LayerVersion(name, version, weight_bytes(steps), resident, gone=True)
                with self.layers.reserved(weight_bytes(steps)) as reservation:
                    if self.store is not None:
                        self.store.save(name, version, steps, inputs)
                        self.damaged.pop(name, None)
                    return self.layers.load(name, steps, reservation, version)
        except BaseException:
            self.layers.forget(name, version)
            raise

    def prepare(self, worker: str) -> None:
        """Prepare all layers on a new or restarted worker, for the last inputs of each."""
        if self._coordinator is None:
            return
        if self._coordinator.executor.workers():  # else requests wait for this worker, and need no comparison
            calibrate_joined(self._coordinator, worker)
        for layer in self.layers.all():
            for shape, dtype in expected(layer):
                with suppress(InvalidArgumentError, ResourceExhaustedError):
                    prepare(self._coordinator, worker, layer.steps, shape, dtype)

    def unload(self, name: str, *, keep: bool = False) -> None:
        """Unload a layer, and remove it from disk unless `keep` is true.

        Raises:
            NotFoundError: there is no such layer.
            FailedPreconditionError: its files cannot be removed; the layer stays.
        """
        with self._locks.of(name):
            self.layers.get(name)
            if self.store is not None and not keep:
                self.store.remove(name)
            self.layers.unload(name)

    def reload(self, name: str, *, job: Job | None = None) -> None:
        """Load a layer from disk if it is not loaded.

        Args:
            name: of the layer.
            job: of the caller. When the job is over, preparing is left to the first request.

        Raises:
            NotFoundError: the layer is neither loaded nor on disk.
            DataLossError: its files are damaged.
            ResourceExhaustedError: it does not fit beside the loaded layers.
        """
        if self.store is None or self._loaded(name):
            self.layers.get(name)
            return
        with self._locks.of(name):
            stored = self.store.read(name)
        self._load_stored(stored, job)
        self.damaged.pop(name, None)

    def unloaded(self) -> dict[str, str]:
        """Layers that are only on disk, and the reason for each."""
        if self.store is None:
            return {}
        here = {version.name for version in self.layers.all(Version)}
        names = {*self.store.names(), *self.damaged} - here
        return {name: self.damaged.get(name, "unloaded") for name in sorted(names)}

    def _loaded(self, name: str) -> bool:
        return any(layer.name == name for layer in self.layers.all())

    def _warm(
        self, name: str, version: int, steps: Sequence[Step], inputs: Inputs, job: Job | None = None
    ) -> tuple[ResidentStep, ...]:
        """The steps of a version, prepared on the workers for `inputs` and for the last inputs of the layer."""
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

    def _load_stored(self, stored: Stored, job: Job | None = None) -> None:
        name, version = stored.name, stored.version
        steps = resident_steps(name, version, stored.steps)
        try:
            self._warm(name, version, steps, stored.inputs, job)
        except GroupconvError as error:  # there is no worker yet, or limits have changed
            log.warning("layer %s is loaded, but the first request has to prepare it: %s", name, error)
        with self._locks.of(name):
            if not self._loaded(name):
                with self.layers.reserved(weight_bytes(stored.steps)) as reservation:
                    self.layers.load(name, steps, reservation, version)


def weight_bytes(steps: Sequence[Step]) -> int:
    """Bytes of the weights."""
    return sum(array.nbytes for step in steps for array in (step.kernel, step.bias) if array is not None)
