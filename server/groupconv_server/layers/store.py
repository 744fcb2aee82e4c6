"""Layers on disk, for the next start of the server: weights as safetensors, the rest as JSON.

    <folder>/<slug>-<hash of the name>.json            the layer's description, and the checksum of its weights
    <folder>/<slug>-<hash of the name>.<checksum>.safetensors

The JSON is written last and replaced atomically, so it always names complete weights. A layer whose checksum is wrong
is damaged; it is not loaded, and its files stay.
"""

import hashlib
import json
import logging
import re
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import safetensors
from google.protobuf import json_format
from safetensors.numpy import save

from groupconv.convolution.dtypes import DTYPES
from groupconv.convolution.steps import Array, Step
from groupconv.errors import DataLossError, FailedPreconditionError, GroupconvError, InvalidArgumentError, NotFoundError
from groupconv.v1 import layer_pb2
from groupconv.wire.specs import spec_to_wire
from groupconv.wire.tensors import type_to_wire
from groupconv_server.coordinator.limits import Limits
from groupconv_server.coordinator.steps import Inputs, inputs_of, steps_of
from groupconv_server.layers.disk_files import (
    printable,
    read_regular,
    reading,
    remove_older,
    remove_parts,
    write_atomically,
)
from groupconv_server.layers.folder_lock import FolderLock
from groupconv_server.layers.names import check_name

log = logging.getLogger(__name__)

FORMAT = "groupconv-layer/1"
DESCRIPTION = 2**20
"""Limit of the bytes of a layer's JSON, and of the header of its safetensors file."""
LAST_VERSION = 2**53
"""Versions on disk are below this, so that later versions fit 64 bits."""
_STORED: dict[str, np.dtype] = {
    "F16": DTYPES["float16"],
    "BF16": DTYPES["bfloat16"],
    "F32": DTYPES["float32"],
    "F64": DTYPES["float64"],
    "I8": DTYPES["int8"],
    "U8": DTYPES["uint8"],
    "I32": DTYPES["int32"],
}


@dataclass(frozen=True, slots=True)
class Stored:
    """A layer read from disk.

    Attributes:
        name, version: of the layer.
        steps: with read-only weights.
        inputs: shapes and dtypes to prepare for.
    """

    name: str
    version: int
    steps: list[Step]
    inputs: Inputs = ()


class LayerStore:
    """A folder of layers, for one server at a time. Safe to use from several threads, but not for one layer at a time.

    Args:
        folder: created if there is none. A read-only folder is read, and no changes are kept.
        limits: of layers.
        holder: this server's address, for the errors of other servers.

    Raises:
        FailedPreconditionError: another server holds the folder, or it cannot be created or listed.

    Example:
        >>> import tempfile
        >>> folder = tempfile.TemporaryDirectory()
        >>> store = LayerStore(Path(folder.name))
        >>> store.save("edge", 3, [Step(np.ones((1, 1, 3), np.float32))])
        >>> store.read("edge").steps[0].kernel.tolist()
        [[[1.0, 1.0, 1.0]]]
        >>> store.remove("edge"); store.names(), store.close(), folder.cleanup()
        ([], None, None)
    """

    def __init__(self, folder: Path, limits: Limits | None = None, holder: str = "unknown") -> None:
        self.folder, self._limits = folder, limits or Limits()
        try:
            folder.mkdir(parents=True, exist_ok=True)
            self.held = FolderLock(folder, holder)
            if self.held.writable:
                remove_parts(folder)
        except OSError as error:
            raise FailedPreconditionError(f"--layer-dir {folder}: {error}") from error

    def close(self) -> None:
        """Release the folder."""
        self.held.release()

    def save(self, name: str, version: int, steps: Sequence[Step], inputs: Inputs = ()) -> None:
        """Write a layer, in place of an older version.

        Raises:
            FailedPreconditionError: the folder is read-only, or the disk is full or unavailable; the older version
                stays.
        """
        self.check_writable()
        header = layer_pb2.LayerHeader(name=name, inputs=[type_to_wire(dtype, shape) for shape, dtype in inputs])
        arrays: dict[str, Array] = {}
        for i, step in enumerate(steps):
            message = header.steps.add(
                kernel=type_to_wire(step.kernel.dtype, step.kernel.shape), spec=spec_to_wire(step.spec)
            )
            arrays[f"{i}.kernel"] = np.ascontiguousarray(step.kernel)
            if step.bias is not None:
                message.bias.CopyFrom(type_to_wire(step.bias.dtype, step.bias.shape))
                arrays[f"{i}.bias"] = np.ascontiguousarray(step.bias)
        data = save(arrays)
        digest = hashlib.sha256(data).hexdigest()
        weights = self.folder / f"{slug(name)}.{digest[:16]}.safetensors"
        about = {
            "format": FORMAT,
            "version": version,
            "layer": json_format.MessageToDict(header),
            "weights": weights.name,
            "sha256": digest,
        }
        try:
            write_atomically(weights, data)
            write_atomically(self._json(name), json.dumps(about, indent=1).encode())
        except OSError as error:
            raise FailedPreconditionError(f"the layer cannot be kept on disk: {error.strerror}") from error
        remove_older(self.folder, f"{slug(name)}.*.safetensors", weights)

    def remove(self, name: str) -> None:
        """Remove a layer, if there is one of that name.

        Raises:
            FailedPreconditionError: the folder is read-only, or the disk is unavailable.
        """
        if not self._json(name).exists():
            return
        self.check_writable()
        try:
            self._json(name).unlink(missing_ok=True)
        except OSError as error:
            raise FailedPreconditionError(f"the layer cannot be removed from disk: {error.strerror}") from error
        remove_older(self.folder, f"{slug(name)}.*.safetensors")

    def read(self, name: str) -> Stored:
        """Read a layer.

        Raises:
            NotFoundError: there is none of that name.
            DataLossError: it is damaged.
        """
        check_name(name)
        path = self._json(name)
        if not path.exists():
            raise NotFoundError(f"layer: there is none called {name!r} on disk")
        return self._read(path)

    def names(self) -> list[str]:
        """Names of the layers whose JSON is valid.

        Raises:
            FailedPreconditionError: the folder cannot be listed, as one that was removed.
        """
        names = []
        for path in self._paths():
            with suppress(GroupconvError):
                names.append(self._described(path)[0].name)
        return names

    def all(self) -> Iterator[Stored | tuple[str, DataLossError]]:
        """Read all layers. A damaged one yields its file's name and the error.

        Raises:
            FailedPreconditionError: the folder cannot be listed.
        """
        for path in self._paths():
            try:
                yield self._read(path)
            except DataLossError as error:
                yield printable(path), error

    def _paths(self) -> list[Path]:
        try:
            return sorted(path for path in self.folder.iterdir() if path.suffix == ".json")
        except OSError as error:
            raise FailedPreconditionError(f"the layer folder cannot be listed: {error.strerror}") from error

    def check_writable(self) -> None:
        """Refuse to write to a folder that is read-only.

        Raises:
            FailedPreconditionError: it is.
        """
        if not self.held.writable:
            raise FailedPreconditionError(f"this server cannot write to the layer folder {self.folder}")

    def _json(self, name: str) -> Path:
        return self.folder / f"{slug(name)}.json"

    def _described(self, path: Path) -> tuple[layer_pb2.LayerHeader, dict[str, Any]]:
        """The content of a layer's JSON, checked without the weights.

        Raises:
            DataLossError: the file is damaged.
        """
        with reading(path):
            about = json.loads(read_regular(path, DESCRIPTION))
            if about["format"] != FORMAT:
                raise ValueError(f"expected format {FORMAT}, got {about['format']!r}")
            header = json_format.ParseDict(about["layer"], layer_pb2.LayerHeader())
            if path != self._json(check_name(header.name)):
                raise ValueError(f"another file's name for layer {header.name!r}")
            if type(about["version"]) is not int or not 0 < about["version"] < LAST_VERSION:
                raise ValueError(f"expected a version of 1 to {LAST_VERSION - 1}")
            return header, about

    def _read(self, path: Path) -> Stored:
        header, about = self._described(path)
        with reading(path):
            shaped, inputs = steps_of(header, self._limits), inputs_of(header)
            size = sum(t.nbytes for step in shaped for t in (step.kernel, step.bias) if t is not None)
            weights = self.folder / Path(about["weights"]).name  # only the name counts: the file must be in this folder
            data = read_regular(weights, size + DESCRIPTION)
            digest = hashlib.sha256(data).hexdigest()
            if digest != about["sha256"]:
                raise ValueError(f"{printable(weights)}: expected SHA-256 {about['sha256']}, got {digest}")
            arrays = {key: _array(value) for key, value in safetensors.deserialize(data)}  # type: ignore[no-untyped-call]
            return Stored(header.name, about["version"], _filled(shaped, arrays), inputs)


def _filled(shapes: list[Step], arrays: dict[str, Array]) -> list[Step]:
    """The steps with `arrays`, which must have the right shapes and dtypes."""
    steps = []
    for i, shaped in enumerate(shapes):
        for part, wanted in (("kernel", shaped.kernel), ("bias", shaped.bias)):
            array = arrays.get(f"{i}.{part}")
            got = None if array is None else (array.dtype, array.shape)
            if got != (None if wanted is None else (wanted.dtype, wanted.shape)):
                raise InvalidArgumentError(f"{i}.{part}", str(wanted), got)
        steps.append(Step(arrays[f"{i}.kernel"], arrays.get(f"{i}.bias"), shaped.spec))
    return steps


def _array(stored: dict[str, Any]) -> Array:
    """A read-only tensor of a safetensors file. The library's NumPy reader has no bfloat16."""
    data, dtype, shape = stored["data"], _STORED[str(stored["dtype"])], stored["shape"]
    return np.frombuffer(bytes(data), dtype=dtype).reshape(shape)


def slug(name: str) -> str:
    """A readable and unique file name for a layer, of bounded length."""
    return f"{re.sub(r'[^A-Za-z0-9_-]', '_', name)[:80]}-{hashlib.sha256(name.encode()).hexdigest()[:16]}"
