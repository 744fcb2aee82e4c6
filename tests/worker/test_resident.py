"""The store of prepared kernels: what it finds, what it drops, and that it counts what they hold."""

import gc
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import pytest

from groupconv import ConvSpec, resolve
from groupconv.convolution.dtypes import types_of
from groupconv_worker.contract import Prepared, Problem
from groupconv_worker.cpu.engine import CpuEngine
from groupconv_worker.cpu.threads import Team
from groupconv_worker.cpu.workspace import BufferPool
from groupconv_worker.engines import create_engine
from groupconv_worker.reference import convolve
from groupconv_worker.resident import OVERHEAD, ResidentKernels, ResidentKey, WeightsMissingError
from groupconv_worker.runtime import run_shard
from groupconv_worker.shard import Stage

ENGINE = create_engine("reference")
WEIGHT = np.ones((1, 1, 3))
ONE = WEIGHT.nbytes + OVERHEAD
F32 = np.dtype(np.float32)


def stage(layer: str, batch: int = 1, weight: np.ndarray = WEIGHT) -> Stage:
    problem = Problem(resolve(ConvSpec(), (batch, 1, 4), WEIGHT.shape), types_of(WEIGHT.dtype, WEIGHT.dtype))
    return Stage(problem, weight, key=ResidentKey(layer, 1, 0, ((0, 1), (0, 1), (0, 3))))


def use(store: ResidentKernels, layer: str, batch: int = 1) -> None:
    run_shard(ENGINE, [stage(layer, batch)], np.ones((batch, 1, 4)), np.empty((batch, 1, 2)), store)


def kept(store: ResidentKernels, *layers: str) -> list[bool]:
    return [(stage(layer).key, stage(layer).one) in store._kept for layer in layers]


def test_the_kernel_unused_for_longest_leaves_a_full_store():
    store = ResidentKernels(2 * ONE)
    for layer in ("a", "b", "a", "c"):
        use(store, layer)
    assert kept(store, "a", "b", "c") == [True, False, True]
    assert store.bytes == 2 * ONE


def test_one_kernel_serves_every_batch():
    store = ResidentKernels()
    for batch in (1, 3, 2):
        use(store, "a", batch)
    assert store.bytes == ONE


def test_a_version_that_is_forgotten_is_prepared_again():
    store = ResidentKernels()
    use(store, "a")
    use(store, "b")
    store.forget("a", 1)
    assert kept(store, "a", "b") == [False, True]
    assert store.bytes == ONE
    use(store, "a")
    assert kept(store, "a", "b") == [True, True]


def test_a_stage_remembers_its_kernel_only_as_long_as_the_store_keeps_it():
    store, mine = ResidentKernels(2 * ONE), stage("mine")
    x, out = np.ones((1, 1, 4)), np.empty((1, 1, 2))
    run_shard(ENGINE, [mine], x, out, store)
    first = mine.kept
    run_shard(ENGINE, [mine], x, out, store)
    assert mine.kept is first
    use(store, "a")
    run_shard(ENGINE, [mine], x, out, store)  # used without a search, which counts as well
    use(store, "b")
    assert kept(store, "mine", "a", "b") == [True, False, True]
    store.forget("mine", 1)
    assert first.prepared is None
    run_shard(ENGINE, [mine], x, out, store)
    assert mine.kept is not first
    assert out.tolist() == [[[3.0, 3.0]]]
    other = ResidentKernels()
    run_shard(ENGINE, [mine], x, out, other)
    assert mine.kept.store is other


def test_a_kernel_larger_than_the_store_is_used_and_not_kept():
    store = ResidentKernels(ONE - 1)
    use(store, "a")
    assert store.bytes == 0


def test_weights_that_neither_came_nor_are_kept_are_asked_for():
    store, x, out = ResidentKernels(), np.ones((1, 1, 4)), np.empty((1, 1, 2))
    without = [stage("a", weight=np.empty((0, 1, 3)))]
    with pytest.raises(WeightsMissingError):
        run_shard(ENGINE, without, x, out, store)
    use(store, "a")
    run_shard(ENGINE, without, x, out, store)
    assert out.tolist() == [[[3.0, 3.0]]]


def test_threads_that_displace_each_others_kernels_get_right_answers():
    """Four threads use eight layers in a store that holds two of them."""
    store, rng = ResidentKernels(2 * ONE), np.random.default_rng(0)
    weights = [rng.standard_normal(WEIGHT.shape) for _ in range(8)]
    x = rng.standard_normal((1, 1, 4))

    def ask(number: int) -> None:
        for i in np.random.default_rng(number).integers(0, 8, 50):
            one, out = stage(f"layer{i}", weight=weights[i]), np.empty((1, 1, 2))
            run_shard(ENGINE, [one], x, out, store)
            np.testing.assert_allclose(out, convolve(x, weights[i], None, one.problem.geometry))
            assert store.bytes <= store.capacity

    with ThreadPoolExecutor(4) as pool:
        list(pool.map(ask, range(4)))
    assert store.bytes == 2 * ONE


@pytest.fixture(scope="module")
def cpu():
    engine = CpuEngine(threads=2)
    yield engine
    engine.close()


def arrays_of(prepared: Prepared) -> int:
    """Bytes of all NumPy memory that is reached from a prepared kernel, but for what the engine shares."""
    seen, waiting, found = set[int](), [prepared], dict[int, int]()
    while waiting:
        thing: Any = waiting.pop()
        shared = isinstance(thing, (type, Team, BufferPool)) or type(thing).__name__ in ("module", "function")
        if id(thing) in seen or shared:
            continue
        seen.add(id(thing))
        if isinstance(thing, np.ndarray):
            if thing.base is None:
                found[id(thing)] = thing.nbytes
            else:
                waiting.append(thing.base)
            continue
        waiting += gc.get_referents(thing)
    return sum(found.values())


KINDS = [
    ("gemm", (1, 4, 20, 20), (8, 4, 3, 3), ConvSpec(stride=2)),
    ("grouped", (1, 8, 20, 40), (8, 1, 3, 3), ConvSpec(groups=8)),
    ("grouped", (1, 8, 9, 9), (8, 4, 4, 4), ConvSpec(stride=2, transposed=True)),
    ("direct", (1, 24, 20, 20), (40, 24, 3, 3), ConvSpec(padding=2, dilation=2)),
    ("cells", (1, 128, 2, 2), (128, 64, 4, 4), ConvSpec(stride=2, transposed=True)),
    ("separable", (1, 8, 40, 40), (8, 1, 5, 5), ConvSpec(groups=8)),
    ("fft", (1, 4, 90, 90), (4, 1, 15, 15), ConvSpec(groups=4)),
    ("winograd", (1, 32, 16, 16), (32, 32, 3, 3), ConvSpec(padding=1)),
    ("winograd", (1, 32, 16, 16), (32, 32, 5, 5), ConvSpec(padding=2)),
    ("onnx", (1, 32, 16, 16), (32, 32, 3, 3), ConvSpec(padding=1)),
]


@pytest.mark.parametrize(("name", "x", "w", "spec"), KINDS, ids=[f"{kind[0]}-{kind[3].transposed}" for kind in KINDS])
def test_a_kernel_counts_what_it_keeps(cpu: CpuEngine, name: str, x: Any, w: Any, spec: ConvSpec):
    weight = np.ones(w, np.float32)
    problem = Problem(resolve(spec, x, w), types_of(F32, F32))
    prepared = getattr(cpu, name).prepare(problem, weight, None, resident=True)
    prepared.run(np.ones(x, np.float32), np.empty(problem.geometry.output_shape, np.float32))
    held = arrays_of(prepared)
    assert weight.nbytes <= prepared.nbytes
    assert held <= prepared.nbytes + 4096  # a bias of zeros, a row of zeros
    assert prepared.nbytes <= 3 * max(held, weight.nbytes) + 2 * 2**18
