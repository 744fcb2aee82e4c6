"""What a load of a layer prepares, and how one version follows another, under traffic too."""

import os
import signal
import threading
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress

import numpy as np
import pytest

import groupconv
from groupconv import ConvSpec, Step
from groupconv.errors import InvalidArgumentError, NotFoundError

RNG = np.random.default_rng(6)


def f32(*shape):
    return RNG.standard_normal(shape).astype(np.float32)


def test_a_new_version_takes_over_and_every_answer_is_of_one_version(client):
    """Both steps multiply by the version's number: a mixture would not be a square."""
    x = np.ones((1, 1, 8, 8), np.float32)

    def load(n):
        kernel = np.full((1, 1, 1, 1), n, np.float32)
        return client.load_layer_steps("tests/switched", [Step(kernel), Step(kernel)])

    layer = load(1)
    done = threading.Event()

    def ask():
        seen = []
        while not done.is_set():
            y = layer(x)
            assert (y == y.flat[0]).all()
            seen.append(int(y.flat[0]))
        return seen

    with ThreadPoolExecutor(3) as pool:
        asking = [pool.submit(ask) for _ in range(3)]
        versions = [load(n).info.version for n in range(2, 30)]
        done.set()
        for future in asking:
            seen = future.result()
            assert seen == sorted(seen)  # never back to an older version
            assert set(seen) <= {n * n for n in range(1, 30)}
    assert versions == sorted(set(versions))
    assert layer(x).flat[0] == 29**2
    layer.unload()


@contextmanager
def prepared_by(server):
    """The kernels that the workers prepare, as they are prepared: the problem of each."""
    engines = [worker.runtime.engine for worker in server.executor._workers.values()]
    before, seen = [engine.prepare for engine in engines], []

    def watching(prepare):
        return lambda problem, *a, **k: seen.append(problem) or prepare(problem, *a, **k)

    for engine in engines:
        engine.prepare = watching(engine.prepare)
    try:
        yield seen
    finally:
        for engine, prepare in zip(engines, before, strict=True):
            engine.prepare = prepare


def whole(seen):
    """How often kernels were prepared uncut, by extents; the planner may try a cut at any time, and prepare parts."""
    return Counter(p.geometry.input for p in seen if p.geometry.groups == 2)


def test_a_layer_is_prepared_on_every_worker_when_it_is_loaded_not_when_it_is_first_used(server, client):
    w = f32(4, 2, 3, 3)
    with prepared_by(server) as seen:
        layer = client.load_layer("tests/warm", w, spec=ConvSpec(groups=2), inputs=[(1, 4, 8, 8), (2, 4, 6, 6)])
        at_load = whole(seen)
        assert at_load == {(8, 8): 2, (6, 6): 2}  # on each worker
        for x in (f32(1, 4, 8, 8), f32(2, 4, 6, 6)):
            for _ in range(4):
                layer(x)
        assert whole(seen) == at_load
        layer(f32(1, 4, 5, 5))  # of another size
        assert whole(seen) == {**at_load, (5, 5): 1}
        assert layer.statistics().requests == 9
    layer.unload()


def test_a_new_version_is_prepared_for_what_the_one_before_was_given(server, client):
    layer = client.load_layer("tests/again", f32(2, 2, 3))
    x = f32(1, 2, 9)
    layer(x)
    with prepared_by(server) as seen:
        client.load_layer("tests/again", w := f32(2, 2, 3))
        at_load = len(seen)
        np.testing.assert_allclose(layer(x), client.conv1d(x, w), rtol=1e-5, atol=1e-5)
        assert [p for p in seen[at_load:] if p.geometry.input == (9,)] == seen[at_load:][:1]  # the one-shot's alone
        client.load_layer("tests/again", f32(2, 5, 3))  # for other inputs: what was expected before does not fit
    layer.unload()


def test_an_input_to_expect_that_does_not_fit_refuses_the_load(server, client):
    with pytest.raises(InvalidArgumentError, match="channels") as caught:
        client.load_layer("tests/unfit", f32(2, 2, 3), inputs=[(1, 2, 9), (1, 3, 9)])
    assert caught.value.field.startswith("inputs[1].")
    with pytest.raises(NotFoundError):
        client.get_layer("tests/unfit")
    assert not any(
        key.layer == "tests/unfit" for w in server.executor._workers.values() for key, _ in w.runtime.resident._kept
    )


def test_load_replace_and_unload_under_traffic(server):
    """Every answer is the square of one version's number, or there is no layer at that moment."""
    x = np.ones((1, 1, 8, 8), np.float32)
    done = threading.Event()

    def ask(address):
        answers, missing = 0, 0
        with groupconv.connect(address, timeout=60) as client:
            client.load_layer("tests/once", np.ones((1, 1, 1, 1), np.float32))
            while not done.is_set():
                try:
                    y = client.get_layer("tests/traffic")(x)
                except NotFoundError:
                    missing += 1
                    continue
                root = round(float(y.flat[0]) ** 0.5)
                assert (y == root * root).all()
                answers += 1
        return answers, missing

    def change(address, numbers):
        with groupconv.connect(address, timeout=60) as client:
            for n in numbers:
                kernel = np.full((1, 1, 1, 1), n, np.float32)
                client.load_layer_steps("tests/traffic", [Step(kernel), Step(kernel)])
                if n % 3 == 0:
                    with suppress(NotFoundError):  # another one has unloaded it
                        client.unload_layer("tests/traffic")

    before = server.layers.bytes
    with ThreadPoolExecutor(5) as pool:
        asking = [pool.submit(ask, server.address) for _ in range(3)]
        changing = [pool.submit(change, server.address, range(first, 41, 2)) for first in (1, 2)]
        for future in changing:
            future.result()
        done.set()
        answers = sum(future.result()[0] for future in asking)
    assert answers > 0
    with groupconv.connect(server.address, timeout=60) as client:
        for info in client.list_layers():
            if info.name in ("tests/traffic", "tests/once"):
                client.unload_layer(info.name)
    assert server.layers.bytes == before


@pytest.mark.ray
def test_actors_ask_for_weights_once_and_again_after_a_restart(ray_executor):
    """The weights of a layer travel when an actor lacks them, and only then."""
    import ray

    from groupconv_server.coordinator.coordinator import Coordinator
    from groupconv_server.executors.lanes.dispatch import Dispatch
    from groupconv_server.layers.registry import Layers

    layers = Layers(ray_executor.forget, capacity=2**20)
    coordinator = Coordinator(ray_executor)
    w, x = f32(4, 2, 3, 3), f32(2, 4, 8, 8)
    spec = ConvSpec(groups=2)
    want = coordinator.convolve(x, [Step(w, None, spec)]).output
    with layers.reserved(w.nbytes) as room:
        layers.load("ray", [Step(w, None, spec)], room)
    launched = []
    send = Dispatch._send
    Dispatch._send = lambda self, attempt, *a, **k: launched.append(attempt.weights) or send(self, attempt, *a, **k)
    try:
        with layers.using("ray") as layer:

            def ask():
                launched.clear()
                np.testing.assert_array_equal(coordinator.convolve(x, layer.steps).output, want)
                return sum(launched)

            while ask():  # until every actor that the planner likes has them, and they do not travel again
                pass
            for slot in ray_executor.membership.slots:
                ray.get(slot.actor.forget.remote("ray", layer.version))
            assert ask() >= 1
    finally:
        Dispatch._send = send
        layers.unload("ray")


@pytest.mark.ray
def test_replaced_under_traffic_while_a_worker_is_killed(ray_executor):
    """Answers stay wholly of one version, and none is lost; the actor that is killed comes back without weights."""
    from groupconv_server.coordinator.coordinator import Coordinator
    from groupconv_server.layers.registry import Layers
    from groupconv_server.layers.repository import Repository

    layers, coordinator = Layers(ray_executor.forget, capacity=2**20), Coordinator(ray_executor)
    repository = Repository(layers, coordinator=coordinator)
    x = np.ones((2, 2, 6, 6), np.float32)
    restarts = sum(w.restarts for w in ray_executor.describe())
    done = threading.Event()

    def load(n):
        steps = [Step(np.full((2, 1, 1, 1), n, np.float32), None, ConvSpec(groups=2))] * 2
        repository.load("killed", steps, [(x.shape, x.dtype)])

    def ask():
        seen = []
        while not done.is_set():
            with layers.using("killed") as layer:
                y = coordinator.convolve(x, layer.steps).output
            assert (y == y.flat[0]).all()
            seen.append(int(y.flat[0]))
        return seen

    load(1)
    with ThreadPoolExecutor(2) as pool:
        asking = [pool.submit(ask) for _ in range(2)]
        try:
            for n in range(2, 8):
                if n == 4:
                    os.kill(ray_executor.membership.slots[0].facts["pid"], signal.SIGKILL)
                load(n)
        finally:
            done.set()
        for future in asking:
            seen = future.result(60)
            assert seen
            assert seen == sorted(seen)
            assert set(seen) <= {n * n for n in range(1, 8)}
    limit = time.monotonic() + 60
    while len(ray_executor.workers()) < 2 and time.monotonic() < limit:
        with layers.using("killed") as layer:
            assert (coordinator.convolve(x, layer.steps).output == 49).all()
    assert sum(w.restarts for w in ray_executor.describe()) == restarts + 1
    layers.unload("killed")
