"""Layers on disk: weights as safetensors, the rest as JSON, so that a server that starts again has them.

    <folder>/<slug>-<hash of the name>.json            what the layer is, and the checksum of its weights
    <folder>/<slug>-<hash of the name>.<checksum>.safetensors

The JSON is written last and replaced atomically: at any moment it names weights that are wholly there. A layer that
was damaged is told from one that was not, by its checksum, and left alone.
"""

import hashlib
import json
import os
import re
import tempfile
import threading
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import safetensors
from google.protobuf import json_format
from safetensors.numpy import save

from groupconv.dtypes import DTYPES
from groupconv.errors import DataLossError, InvalidArgumentError, NotFoundError
from groupconv.requests import Array, Step
from groupconv.tensors import type_to_wire
from groupconv.v1 import layer_pb2
from groupconv.wire import spec_to_wire
from groupconv_server.limits import Limits
from groupconv_server.names import check_name
from groupconv_server.steps import Inputs, inputs_of, steps_of

FORMAT = "groupconv-layer/1"
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
    """A layer as it was on disk.

    Attributes:
        name, version: of the layer.
        steps: with read-only weights.
        inputs: to expect.
    """

    name: str
    version: int
    steps: list[Step]
    inputs: Inputs = ()


class LayerStore:
    """A folder of layers. Safe to use from several threads; one server at a time.

    Args:
        folder: made if it is not there.
        limits: what a layer may be.

    Raises:
        OSError: a folder that cannot be made or written.

    Example:
        >>> folder = tempfile.TemporaryDirectory()
        >>> store = LayerStore(Path(folder.name))
        >>> store.save("edge", 3, [Step(np.ones((1, 1, 3), np.float32))])
        >>> store.read("edge").steps[0].kernel.tolist()
        [[[1.0, 1.0, 1.0]]]
        >>> store.remove("edge"); store.names(), folder.cleanup()
        ([], None)
    """

    def __init__(self, folder: Path, limits: Limits | None = None) -> None:
        self.folder, self._limits = folder, limits or Limits()
        self._lock = threading.Lock()
        folder.mkdir(parents=True, exist_ok=True)
        for left in folder.glob("*.part"):  # of a write that a crash cut short
            left.unlink()

    def save(self, name: str, version: int, steps: Sequence[Step], inputs: Inputs = ()) -> None:
        """Keep a layer, in place of the one of that name.

        Raises:
            OSError: the disk is full or gone; what was there stays.
        """
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
        weights = self.folder / f"{_slug(name)}.{digest[:16]}.safetensors"
        about = {
            "format": FORMAT,
            "version": version,
            "layer": json_format.MessageToDict(header),
            "weights": weights.name,
            "sha256": digest,
        }
        with self._lock:
            _write(weights, data)
            _write(self._json(name), json.dumps(about, indent=1).encode())
            for old in self.folder.glob(f"{_slug(name)}.*.safetensors"):
                if old != weights:
                    old.unlink()

    def remove(self, name: str) -> None:
        """Keep a layer no longer; nothing to do if it is not there."""
        with self._lock:
            self._json(name).unlink(missing_ok=True)
            for weights in self.folder.glob(f"{_slug(name)}.*.safetensors"):
                weights.unlink()

    def read(self, name: str) -> Stored:
        """A layer.

        Raises:
            NotFoundError: none of that name is kept.
            DataLossError: it is damaged, saying how.
        """
        check_name(name)
        with self._lock:
            path = self._json(name)
            if not path.exists():
                raise NotFoundError(f"layer: none called {name!r} is kept on disk")
            return self._read(path)

    def names(self) -> list[str]:
        """Of the layers that are kept and not damaged as far as their JSON tells."""
        found = []
        for path in sorted(self.folder.glob("*.json")):
            with suppress(ValueError, KeyError, TypeError, OSError):
                found.append(str(json.loads(path.read_bytes())["layer"]["name"]))
        return found

    def all(self) -> Iterator[Stored | tuple[Path, DataLossError]]:
        """Every layer, and in place of one that is damaged where it is and why it cannot be had."""
        for path in sorted(self.folder.glob("*.json")):
            try:
                with self._lock:
                    yield self._read(path)
            except DataLossError as error:
                yield path, error

    def _json(self, name: str) -> Path:
        return self.folder / f"{_slug(name)}.json"

    def _read(self, path: Path) -> Stored:
        try:
            about = json.loads(path.read_bytes())
            if about["format"] != FORMAT:
                raise DataLossError(f"{path.name}: expected format {FORMAT}, got {about['format']!r}")
            header = json_format.ParseDict(about["layer"], layer_pb2.LayerHeader())
            if path != self._json(check_name(header.name)):
                raise DataLossError(f"{path.name}: another file's name for layer {header.name!r}")
            weights = self.folder / Path(about["weights"]).name  # a name in this folder, whatever it says
            data = weights.read_bytes()
            digest = hashlib.sha256(data).hexdigest()
            if digest != about["sha256"]:
                raise DataLossError(f"{weights.name}: expected SHA-256 {about['sha256']}, got {digest}")
            arrays = {key: _array(value) for key, value in safetensors.deserialize(data)}  # type: ignore[no-untyped-call]
            steps = _filled(header, arrays, self._limits)
            return Stored(header.name, int(about["version"]), steps, inputs_of(header))
        except (OSError, ValueError, KeyError, TypeError, json_format.ParseError, safetensors.SafetensorError) as error:
            raise DataLossError(f"{path.name}: {type(error).__name__}: {error}") from None


def _filled(header: layer_pb2.LayerHeader, arrays: dict[str, Array], limits: Limits) -> list[Step]:
    """The steps of a header, which is checked, with these arrays."""
    steps = []
    for i, shaped in enumerate(steps_of(header, limits)):
        for part, wanted in (("kernel", shaped.kernel), ("bias", shaped.bias)):
            array = arrays.get(f"{i}.{part}")
            got = None if array is None else (array.dtype, array.shape)
            if got != (None if wanted is None else (wanted.dtype, wanted.shape)):
                raise InvalidArgumentError(f"{i}.{part}", str(wanted), got)
        steps.append(Step(arrays[f"{i}.kernel"], arrays.get(f"{i}.bias"), shaped.spec))
    return steps


def _array(stored: dict[str, Any]) -> Array:
    """A tensor of a safetensors file, read-only; safetensors' own NumPy reader has no bfloat16."""
    data, dtype, shape = stored["data"], _STORED[str(stored["dtype"])], stored["shape"]
    return np.frombuffer(bytes(data), dtype=dtype).reshape(shape)


def _slug(name: str) -> str:
    """A file's name for a layer: readable, of bounded length, and no two layers' the same."""
    return f"{re.sub(r'[^A-Za-z0-9_-]', '_', name)[:80]}-{hashlib.sha256(name.encode()).hexdigest()[:16]}"


def _write(path: Path, data: bytes) -> None:
    """Replace a file's content: after a crash it has the old one or the new one, wholly."""
    with tempfile.NamedTemporaryFile(dir=path.parent, suffix=".part", delete=False) as file:
        part = Path(file.name)
        try:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
            part.replace(path)
        except BaseException:
            part.unlink(missing_ok=True)
            raise
    folder = os.open(path.parent, os.O_RDONLY)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)
