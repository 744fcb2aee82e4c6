"""Layers on disk: whole after a crash, told from damaged ones, loaded again at the start."""

import hashlib
import json
import os
import shutil
from contextlib import closing
from dataclasses import dataclass, replace

import ml_dtypes
import numpy as np
import pytest

import groupconv
from groupconv import ConvSpec, Step
from groupconv.convolution.dtypes import DTYPES
from groupconv.convolution.spec import as_activation
from groupconv.errors import (
    DataLossError,
    FailedPreconditionError,
    InvalidArgumentError,
    NotFoundError,
    UnavailableError,
)
from groupconv_server.config import Config
from groupconv_server.coordinator.coordinator import Coordinator
from groupconv_server.layers.registry import Layers
from groupconv_server.layers.repository import Repository, expected
from groupconv_server.layers.store import LayerStore, Stored, slug
from groupconv_server.server import Server

RNG = np.random.default_rng(9)
SPEC = ConvSpec(stride=(2, 1), padding=((0, 1), (2, 0)), dilation=(1, 3), groups=2, activation="relu")


@pytest.fixture
def store(tmp_path):
    with closing(LayerStore(tmp_path / "layers")) as store:
        yield store


def reopened(store):
    """The folder as the next server finds it."""
    store.close()
    return closing(LayerStore(store.folder))


def steps(dtype=np.float32, spec=SPEC):
    return [
        Step((RNG.standard_normal((4, 2, 3, 2)) * 4).astype(dtype), RNG.standard_normal(4).astype(dtype), spec),
        Step((RNG.standard_normal((3, 4, 1, 1)) * 4).astype(dtype)),
    ]


def repository(store, capacity=2**20):
    return Repository(Layers(lambda name, version: None, capacity=capacity), store)


def load(kept, name, made):
    return kept.load(name, made)


@pytest.mark.parametrize("dtype", DTYPES.values(), ids=str)
def test_what_is_read_is_what_was_saved(store, dtype):
    made = steps(dtype)
    store.save("net/conv1", 7, made)
    read = store.read("net/conv1")
    assert (read.name, read.version) == ("net/conv1", 7)
    for wrote, got in zip(made, read.steps, strict=True):
        assert got.kernel.dtype == dtype
        np.testing.assert_array_equal(got.kernel, wrote.kernel)
        assert (got.bias is None) == (wrote.bias is None)
        assert got.bias is None or (got.bias == wrote.bias).all()
        assert not got.kernel.flags.writeable
    spec = read.steps[0].spec
    want = replace(SPEC, activation=as_activation("relu"))
    assert (spec.stride, spec.padding, spec.dilation, spec.groups) == (
        want.stride, want.padding, want.dilation, want.groups
    )  # fmt: skip
    assert as_activation(spec.activation) == want.activation


def test_other_programs_can_read_the_weights(store):
    from safetensors.numpy import load_file

    made = steps()
    store.save("a", 1, made)
    (path,) = store.folder.glob("*.safetensors")
    np.testing.assert_array_equal(load_file(path)["0.kernel"], made[0].kernel)


def test_names_that_look_alike_do_not_meet_and_long_ones_fit(store):
    names = ["a/b", "a_b", "a.b", "a", "a.json", "x" * 256, "x" * 255 + "y", "/".join("z" * 128)]
    for i, name in enumerate(names):
        store.save(name, i + 1, steps())
    assert sorted(store.names()) == sorted(names)
    assert [store.read(name).version for name in names] == list(range(1, len(names) + 1))
    store.remove("a")
    store.remove("a")
    assert sorted(store.names()) == sorted(set(names) - {"a"})
    assert all(path.parent == store.folder for path in store.folder.rglob("*"))


def test_saving_again_replaces_and_leaves_nothing_behind(store):
    for version in (1, 2):
        store.save("a", version, steps())
    assert store.read("a").version == 2
    assert sorted(path.suffix for path in store.folder.iterdir() if path.name != ".lock") == [".json", ".safetensors"]


def test_a_crash_between_the_files_leaves_the_version_before(store, monkeypatch):
    first = steps()
    store.save("a", 1, first)
    replaced = []
    real = os.replace

    def crash(self, target):
        if replaced:
            raise OSError(28, "No space left on device")
        replaced.append(target)
        real(self, target)
        return target

    monkeypatch.setattr("pathlib.Path.replace", crash)
    with pytest.raises(FailedPreconditionError, match="the layer cannot be kept on disk: No space"):
        store.save("a", 2, steps())
    monkeypatch.undo()
    with reopened(store) as again:
        read = again.read("a")
    assert read.version == 1
    np.testing.assert_array_equal(read.steps[0].kernel, first[0].kernel)
    assert not list(store.folder.glob("*.part"))


def bits(path, at):
    data = bytearray(path.read_bytes())
    data[at] ^= 1
    path.write_bytes(data)


def edited(path, **changes):
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


def longer(json_path, weights):
    about = json.loads(json_path.read_text())
    about["layer"]["steps"][0]["kernel"]["shape"][2] = "6"
    json_path.write_text(json.dumps(about))


@pytest.mark.parametrize(
    ("damage", "said"),
    [
        (lambda j, w: bits(w, -1), "SHA-256"),
        (lambda j, w: w.write_bytes(w.read_bytes()[:-4]), "SHA-256"),
        (lambda j, w: w.unlink(), "FileNotFoundError"),
        (lambda j, w: j.write_text("{"), "JSONDecodeError"),
        (lambda j, w: j.write_text("[]"), "TypeError"),
        (lambda j, w: edited(j, format="another/9"), "another/9"),
        (lambda j, w: edited(j, layer={"name": "../a"}), "name"),
        (lambda j, w: edited(j, layer={"name": "b"}), "another file's name"),
        (lambda j, w: edited(j, layer={"nonsense": 1}), "ParseError"),
        (
            lambda j, w: (w.write_bytes(b"x" * 64), edited(j, sha256=hashlib.sha256(b"x" * 64).hexdigest())),
            "Safetensor",
        ),
        (longer, "0.kernel"),
    ],
)
def test_damage_is_reported_and_the_others_are_loaded(store, caplog, damage, said):
    store.save("a", 4, steps())
    store.save("whole", 5, steps())
    (json_path,), (weights,) = store.folder.glob("a-*.json"), store.folder.glob("a-*.safetensors")
    damage(json_path, weights)
    found = list(store.all())
    assert [f.name for f in found if isinstance(f, Stored)] == ["whole"]
    (error,) = [f[1] for f in found if not isinstance(f, Stored)]
    assert said in str(error)
    kept = repository(store)
    kept.restore()
    assert [layer.name for layer in kept.layers.all()] == ["whole"]
    assert said in caplog.text
    assert any(said in reason for reason in kept.unloaded().values())
    assert json_path.exists()  # left for the operator to look at


def test_layers_that_do_not_fit_stay_on_disk(store):
    for name in ("a", "b"):
        store.save(name, 1, steps())
    kept = repository(store, capacity=300)
    kept.restore()
    assert [layer.name for layer in kept.layers.all()] == ["a"]
    assert "do not fit" in kept.unloaded()["b"]
    kept.unload("a", keep=True)
    kept.reload("b")
    assert kept.unloaded() == {"a": "unloaded"}
    kept.unload("b")
    with pytest.raises(NotFoundError):
        kept.reload("b")


def test_versions_go_on_where_they_were(store):
    before = repository(store)
    last = [load(before, "a", steps()).version for _ in range(3)][-1]
    with reopened(store) as again:
        after = repository(again)
        after.restore()
        assert after.layers.get("a").version == last
        assert load(after, "b", steps()).version > last


def test_a_disk_that_fails_refuses_the_load_and_keeps_the_version_before(store, monkeypatch):
    kept = repository(store)
    version = load(kept, "a", steps()).version

    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("groupconv_server.layers.store.write_atomically", full)
    with pytest.raises(FailedPreconditionError, match="No space left"):
        load(kept, "a", steps())
    assert kept.layers.get("a").version == version
    assert kept.layers.bytes == sum(s.kernel.nbytes + (0 if s.bias is None else s.bias.nbytes) for s in steps())


@dataclass
class Few:
    """An executor whose workers are lost with what they are given."""

    there: tuple[str, ...]
    name = "few"

    def workers(self):
        return self.there

    def run(self, *_, **__):
        raise UnavailableError("the worker is lost")


@pytest.mark.parametrize("there", [(), ("a",)])
def test_a_layer_that_cannot_be_prepared_now_is_loaded_all_the_same(store, caplog, there):
    """Where there is no worker it is compiled, so that each that joins prepares it."""
    shape = (1, 4, 9, 9), np.dtype(np.float32)
    store.save("a", 1, steps(), [shape])
    kept = Repository(Layers(lambda name, version: None, capacity=2**20), store, Coordinator(Few(there)))
    kept.restore()
    assert [(layer.name, expected(layer)) for layer in kept.layers.all()] == [("a", [shape])]
    assert ("first request has to prepare it" in caplog.text) == bool(there)


def test_what_cannot_be_removed_does_not_undo_what_was_saved(store, caplog):
    (store.folder / f"{slug('a')}.odd.safetensors").mkdir()
    store.save("a", 1, steps())
    assert store.read("a").version == 1
    store.remove("a")
    assert store.names() == []
    assert "odd.safetensors" in caplog.text


def test_a_folder_that_was_removed_is_named_as_the_reason(store):
    kept = repository(store)
    load(kept, "a", steps())
    shutil.rmtree(store.folder)
    with pytest.raises(FailedPreconditionError, match="the layer folder cannot be listed: No such file"):
        kept.unloaded()
    assert [layer.name for layer in kept.layers.all()] == ["a"]


def test_damaged_on_reload(store):
    kept = repository(store)
    load(kept, "a", steps())
    kept.unload("a", keep=True)
    bits(next(store.folder.glob("a-*.safetensors")), -1)
    with pytest.raises(DataLossError):
        kept.reload("a")
    with pytest.raises(InvalidArgumentError):
        kept.reload("../a")


def test_a_server_that_starts_again_has_its_layers(tmp_path):
    config = Config(port=0, executor="local", threads=1, engine="reference", layer_dir=tmp_path)
    x = RNG.standard_normal((1, 4, 7, 9)).astype(ml_dtypes.bfloat16)
    with Server(config) as server, groupconv.connect(server.address, timeout=60) as client:
        layer = client.load_layer_steps("net/kept", steps(ml_dtypes.bfloat16), inputs=[x.shape])
        client.load_layer("left", np.ones((1, 1, 1), np.float32)).unload()
        want = layer(x)
    with Server(config) as server, groupconv.connect(server.address, timeout=60) as client:
        prepared_for = server.layers.get("net/kept").steps[0].calls.inputs()
        assert prepared_for == [(x.shape, x.dtype)]
        assert [(i.name, i.version) for i in client.list_layers()] == [("net/kept", layer.info.version)]
        np.testing.assert_array_equal(client.get_layer("net/kept")(x), want)
