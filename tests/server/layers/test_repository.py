"""Loading a layer waits for no other, costs the others nothing before its weights are there, and ends in time."""

import threading
import time
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest

from groupconv import ConvSpec, Step
from groupconv.errors import DeadlineExceededError, ResourceExhaustedError
from groupconv_server.coordinator.coordinator import Coordinator
from groupconv_server.executors.local import LocalExecutor
from groupconv_server.layers.registry import Layers
from groupconv_server.layers.repository import Repository
from groupconv_server.layers.store import LayerStore
from groupconv_worker.job import Job

W = np.ones((4, 2, 3, 3), np.float32)
STEPS = [Step(W, None, ConvSpec(groups=2))]
INPUT = ((1, 4, 8, 8), np.dtype(np.float32))


def executor_for_some(held):
    """An executor that holds every shard of the layers `held` until their events are set."""

    class Holding(LocalExecutor):
        def run(self, tasks, **options):
            layer = tasks[0].stages[0].key[0]
            if layer in held:
                asked.add(layer)
                assert held[layer].wait(60)
            return super().run(tasks, **options)

    asked = set()
    return Holding(workers=1, threads=1, engine="reference"), asked


@pytest.fixture
def slow():
    return threading.Event()


@pytest.fixture
def repository(tmp_path, slow):
    executor, asked = executor_for_some({"slow": slow})
    layers = Layers(executor.forget, capacity=3 * W.nbytes, evict=True)
    made = Repository(layers, LayerStore(tmp_path), Coordinator(executor))
    made.asked = asked
    yield made
    slow.set()
    executor.close()
    made.store.close()


@pytest.fixture
def loading(repository, slow):
    """A load of the layer `slow` that is being prepared while the test runs; its result."""
    with ThreadPoolExecutor(1) as pool:
        coming = pool.submit(repository.load, "slow", STEPS, [INPUT])
        while "slow" not in repository.asked:
            assert not coming.done() or coming.result()
            time.sleep(0.001)
        yield coming
        slow.set()


def names(repository):
    return [layer.name for layer in repository.layers.all()]


def test_other_layers_come_and_go_while_one_is_prepared(repository, loading, slow):
    repository.load("a", STEPS, [INPUT])
    repository.load("b", STEPS)
    repository.unload("b", keep=True)
    repository.reload("b")
    assert names(repository) == ["a", "b"]
    assert repository.store.names() == ["a", "b"]
    repository.unload("b")
    assert not loading.done()
    slow.set()
    assert loading.result().name == "slow"
    assert names(repository) == ["a", "slow"]


def test_none_leaves_before_the_new_one_is_prepared(repository, loading, slow):
    for name in ("a", "b", "c"):
        repository.load(name, STEPS)
    assert names(repository) == ["a", "b", "c"]
    slow.set()
    loading.result()
    assert names(repository) == ["b", "c", "slow"]


def test_of_two_loads_of_one_name_the_one_that_began_last_stays(repository, loading, slow):
    newer = repository.load("slow", [Step(2 * W, None, ConvSpec(groups=2))])
    slow.set()
    older = loading.result()
    assert older.version < newer.version
    assert repository.layers.get("slow") is newer
    assert repository.store.read("slow").version == newer.version
    np.testing.assert_array_equal(repository.store.read("slow").steps[0].kernel, 2 * W)
    assert repository.layers.bytes == W.nbytes


def test_a_load_whose_deadline_has_passed_prepares_nothing_and_changes_nothing(repository):
    repository.load("a", STEPS)
    version = repository.layers.get("a").version
    with pytest.raises(DeadlineExceededError):
        repository.load("a", STEPS, [INPUT], job=Job(time.monotonic() - 1))
    assert repository.layers.get("a").version == version
    assert repository.layers.bytes == W.nbytes


def test_weights_are_counted_as_they_come_and_no_layer_leaves_for_them():
    layers = Layers(lambda name, version: None, capacity=100, evict=True)
    with layers.reserved(60) as room:
        layers.load("a", STEPS, room)
    layers.check_fits(100)
    with layers.uploads.arriving() as first, layers.uploads.arriving() as second:
        first.add(70)
        second.add(30)
        with pytest.raises(ResourceExhaustedError, match="chunk") as refused:
            second.add(1)
        assert refused.value.retry_after > 0
    assert [layer.name for layer in layers.all()] == ["a"]
    with layers.uploads.arriving() as again:
        again.add(100)  # what had come was given back


def test_what_could_not_be_loaded_is_refused_by_its_header():
    layers = Layers(lambda name, version: None, capacity=100)
    with layers.reserved(60) as room:
        layers.load("a", STEPS, room)
    layers.check_fits(40)
    for size in (41, 101):
        with pytest.raises(ResourceExhaustedError, match="do not fit"):
            layers.check_fits(size)
    evicting = Layers(lambda name, version: None, capacity=100, evict=True)
    evicting.check_fits(100)
    with pytest.raises(ResourceExhaustedError, match="do not fit"):
        evicting.check_fits(101)
