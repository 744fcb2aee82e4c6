"""Folders of layers that other processes have written to."""

import json
import os
from contextlib import closing
from pathlib import Path

import numpy as np
import pytest

from groupconv import Step
from groupconv.errors import DataLossError
from groupconv_server.layers.disk_files import read_regular
from groupconv_server.layers.registry import Layers
from groupconv_server.layers.repository import Repository
from groupconv_server.layers.store import DESCRIPTION, LayerStore

KERNEL = np.arange(12, dtype=np.float32).reshape(2, 2, 3)


def saved(folder, name="whole"):
    """The JSON and the weights of a new layer."""
    with closing(LayerStore(folder)) as store:
        store.save(name, 3, [Step(KERNEL)])
    (about,) = folder.glob(f"{name}-*.json")
    return about, folder / json.loads(about.read_bytes())["weights"]


def restored(folder):
    """The names of the layers that a server loads from the folder, and its reasons for the others."""
    with closing(LayerStore(folder)) as store:
        kept = Repository(Layers(lambda name, version: None, capacity=2**20), store)
        kept.restore()
        kept.unloaded()
        json.dumps(kept.damaged).encode()  # goes into answers
        "".join((*kept.damaged, *kept.damaged.values())).encode()
        return [layer.name for layer in kept.layers.all()], kept.damaged


def sparse(path, size):
    with path.open("wb") as file:
        file.truncate(size)


ENTRIES = {
    "nested lists": lambda d: (d / "x.json").write_text("[" * 100_000),
    "nested objects": lambda d: (d / "x.json").write_text('{"layer":' * 50_000),
    "nested layer": lambda d: (d / "x.json").write_text(
        '{"format": "groupconv-layer/1", "layer": ' + '{"steps": ' * 400 + "1" + "}" * 401
    ),
    "folder as JSON": lambda d: (d / "x.json").mkdir(),
    "pipe as JSON": lambda d: os.mkfifo(d / "x.json"),
    "link to itself": lambda d: (d / "x.json").symlink_to(d / "x.json"),
    "link to nothing": lambda d: (d / "x.json").symlink_to(d / "none"),
    "link to a device": lambda d: (d / "x.json").symlink_to("/dev/zero"),
    "huge JSON": lambda d: sparse(d / "x.json", 2**40),
    "bytes that are no text": lambda d: (d / "x.json").write_bytes(b"\xff\xfe\xff" * 9),
    "no UTF-8 in the name": lambda d: (d / os.fsdecode(b"\xff\xfe.json")).write_text("{}"),
    "a line break in the name": lambda d: (d / "x\nERROR.json").write_text("{}"),
    "half a character": lambda d: (d / "x.json").write_text('{"format": "\\ud800"}'),
    "half a character in a field": lambda d: (d / "x.json").write_text(
        '{"format": "groupconv-layer/1", "layer": {"\\ud800": 1}}'
    ),
    "infinite numbers": lambda d: (d / "x.json").write_text('{"format": Infinity}'),
    "folder as part": lambda d: (d / "x.part").mkdir(),
    "full folder as part": lambda d: (d / "x.part" / "y").mkdir(parents=True),
    "pipe as part": lambda d: os.mkfifo(d / "x.part"),
    "link as part": lambda d: (d / "x.part").symlink_to("/dev/zero"),
}


@pytest.mark.parametrize("entry", ENTRIES.values(), ids=ENTRIES)
def test_whatever_lies_in_the_folder_the_whole_layers_are_loaded(tmp_path, entry, caplog):
    saved(tmp_path)
    entry(tmp_path)
    bad = {path.name for path in tmp_path.iterdir() if path.name.startswith(("x", os.fsdecode(b"\xff")))}
    loaded, damaged = restored(tmp_path)
    assert loaded == ["whole"]
    assert len(damaged) == sum(name.endswith(".json") for name in bad)
    assert all(name in caplog.text for name in damaged)


def test_a_file_that_cannot_be_read_is_logged(tmp_path, monkeypatch):
    about, _ = saved(tmp_path)
    (tmp_path / "x.json").write_bytes(about.read_bytes())
    (tmp_path / "x.json").chmod(0)
    loaded, damaged = restored(tmp_path)  # root may read it, and finds another layer's description
    assert (loaded, list(damaged)) == (["whole"], ["x.json"])


def changed(about, **values):
    about.write_text(json.dumps(json.loads(about.read_bytes()) | values))


WEIGHTS = {
    "a pipe": lambda about, weights: (weights.unlink(), os.mkfifo(weights)),
    "a device": lambda about, weights: (weights.unlink(), weights.symlink_to("/dev/zero")),
    "a huge file": lambda about, weights: sparse(weights, 2**40),
    "a short file": lambda about, weights: os.truncate(weights, weights.stat().st_size - 1),
    "nothing": lambda about, weights: os.truncate(weights, 0),
    "a header longer than the file": lambda about, weights: weights.write_bytes((2**62).to_bytes(8, "little") + b"{}"),
    "the folder": lambda about, weights: changed(about, weights=""),
    "the parent": lambda about, weights: changed(about, weights=".."),
    "a number": lambda about, weights: changed(about, weights=7),
    "a name with a NUL": lambda about, weights: changed(about, weights="a\0b"),
    "half a character": lambda about, weights: changed(about, weights="\ud800"),
    "another checksum": lambda about, weights: changed(about, sha256="0" * 64),
    "a checksum that is a list": lambda about, weights: changed(about, sha256=[1]),
    "a version of 2^60": lambda about, weights: changed(about, version=2**60),
    "a version of -1": lambda about, weights: changed(about, version=-1),
    "a version that is text": lambda about, weights: changed(about, version="3"),
    "an infinite version": lambda about, weights: changed(about, version=float("inf")),
}


@pytest.mark.parametrize("damage", WEIGHTS.values(), ids=WEIGHTS)
def test_a_layer_with_wrong_weights_is_left_alone(tmp_path, damage):
    about, weights = saved(tmp_path)
    saved(tmp_path, "other")
    damage(about, weights)
    loaded, damaged = restored(tmp_path)
    assert (loaded, list(damaged)) == (["other"], [about.name])
    with closing(LayerStore(tmp_path)) as store, pytest.raises(DataLossError):
        store.read("whole")


def test_links_are_followed_as_a_mounted_volume_has_them(tmp_path):
    about, weights = saved(tmp_path / "real")
    linked = tmp_path / "linked"
    linked.mkdir()
    for path in (about, weights):
        (linked / path.name).symlink_to(path)
    assert restored(linked) == (["whole"], {})


def test_a_description_may_be_as_long_as_a_layer_needs(tmp_path):
    with closing(LayerStore(tmp_path)) as store:
        inputs = [((1, 1, 1000, 1000 + i), np.dtype(np.float32)) for i in range(64)]
        store.save("long", 1, [Step(np.ones((1, 1, 3, 3), np.float32))] * 64, inputs)
        assert len(store.read("long").steps) == 64
    assert max(path.stat().st_size for path in tmp_path.glob("*.json")) < DESCRIPTION / 8


@pytest.mark.parametrize("make", [os.mkdir, os.mkfifo])
def test_what_is_no_file_is_refused_and_stays_open_nowhere(tmp_path, make):
    odd = tmp_path / "odd.json"
    make(odd)
    for _ in range(2):
        with pytest.raises(ValueError, match="expected a regular file, got a folder, pipe"):
            read_regular(odd, 10)
    assert odd not in [path.readlink() for path in opened()]


def opened():
    """The descriptors of this process. That of the folder itself has gone when it is listed."""
    return [path for path in Path("/proc/self/fd").iterdir() if path.is_symlink()]
