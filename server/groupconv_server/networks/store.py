"""Networks on disk, beside the layers, so that a server that starts again has them.

    <layer folder>/networks/<slug>-<hash of the name>.json             name, version and checksum
    <layer folder>/networks/<slug>-<hash of the name>.<checksum>.onnx  the model as it was loaded

The JSON is written last and replaced atomically: at any moment it names a model that is wholly there.
"""

import hashlib
import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from groupconv.errors import DataLossError, FailedPreconditionError
from groupconv_server.layers.disk_files import (
    printable,
    read_regular,
    reading,
    remove_older,
    remove_parts,
    write_atomically,
)
from groupconv_server.layers.names import check_name
from groupconv_server.layers.store import DESCRIPTION, LAST_VERSION, LayerStore, slug

FORMAT = "groupconv-network/1"
LARGEST = 2**31
"""Bytes of a model: protobuf takes no more."""


@dataclass(frozen=True, slots=True)
class StoredNetwork:
    """A network as it was on disk."""

    name: str
    version: int
    data: bytes


class NetworkStore:
    """The networks of a layer folder, which the server holds already.

    Args:
        layers: the store of the folder.
    """

    def __init__(self, layers: LayerStore) -> None:
        self._layers = layers
        self.folder = layers.folder / "networks"
        if layers.held.writable and self.folder.is_dir():
            remove_parts(self.folder)

    def save(self, name: str, version: int, data: bytes) -> None:
        """Keep a network, in place of the one of that name.

        Raises:
            FailedPreconditionError: the folder cannot be written, or the disk is full; what was there stays.
        """
        self._layers.check_writable()
        digest = hashlib.sha256(data).hexdigest()
        model = self.folder / f"{slug(name)}.{digest[:16]}.onnx"
        about = {"format": FORMAT, "name": name, "version": version, "model": model.name, "sha256": digest}
        try:
            self.folder.mkdir(exist_ok=True)
            write_atomically(model, data)
            write_atomically(self._json(name), json.dumps(about, indent=1).encode())
        except OSError as error:
            raise FailedPreconditionError(f"the network cannot be kept on disk: {error.strerror}") from error
        remove_older(self.folder, f"{slug(name)}.*.onnx", model)

    def remove(self, name: str) -> None:
        """Keep a network no longer; does nothing if it is not there.

        Raises:
            FailedPreconditionError: the folder cannot be written.
        """
        if not self._json(name).exists():
            return
        self._layers.check_writable()
        try:
            self._json(name).unlink(missing_ok=True)
        except OSError as error:
            raise FailedPreconditionError(f"the network cannot be removed from disk: {error.strerror}") from error
        remove_older(self.folder, f"{slug(name)}.*.onnx")

    def all(self) -> Iterator[StoredNetwork | tuple[str, DataLossError]]:
        """Every network; of one that is damaged its file's name, and why it cannot be read."""
        if not self.folder.is_dir():
            return
        for path in sorted(self.folder.glob("*.json")):
            try:
                with reading(path):
                    network = self._read(path)
            except DataLossError as error:
                yield printable(path), error
            else:
                yield network

    def _read(self, path: Path) -> StoredNetwork:
        about = json.loads(read_regular(path, DESCRIPTION))
        if about["format"] != FORMAT:
            raise ValueError(f"expected format {FORMAT}, got {about['format']!r}")
        name, version = check_name(about["name"]), about["version"]
        if path != self._json(name):
            raise ValueError(f"another file's name for network {name!r}")
        if type(version) is not int or not 0 < version < LAST_VERSION:
            raise ValueError(f"expected a version of 1 to {LAST_VERSION - 1}")
        data = read_regular(self.folder / Path(about["model"]).name, LARGEST)
        digest = hashlib.sha256(data).hexdigest()
        if digest != about["sha256"]:
            raise ValueError(f"{about['model'][:100]}: expected SHA-256 {about['sha256']}, got {digest}")
        return StoredNetwork(name, version, data)

    def _json(self, name: str) -> Path:
        return self.folder / f"{slug(name)}.json"
