"""The store of prepared kernels: what it finds, what it drops."""

import numpy as np

from groupconv import ConvSpec, resolve
from groupconv.convolution.dtypes import types_of
from groupconv_worker.contract import Problem
from groupconv_worker.engines import create_engine
from groupconv_worker.resident import Resident, ResidentKey
from groupconv_worker.shard import Stage, run_shard

ENGINE = create_engine("reference")
WEIGHT = np.ones((1, 1, 3))


def stage(layer: str, batch: int = 1) -> Stage:
    problem = Problem(resolve(ConvSpec(), (batch, 1, 4), WEIGHT.shape), types_of(WEIGHT.dtype, WEIGHT.dtype))
    return Stage(problem, WEIGHT, key=ResidentKey(layer, 1, 0, ((0, 1), (0, 1), (0, 3))))


def use(store: Resident, layer: str, batch: int = 1) -> None:
    run_shard(ENGINE, [stage(layer, batch)], np.ones((batch, 1, 4)), np.empty((batch, 1, 2)), store)


def kept(store: Resident, *layers: str) -> list[bool]:
    return [store.has(stage(layer).key, stage(layer).one) for layer in layers]


def test_the_kernel_unused_for_longest_leaves_a_full_store():
    store = Resident(2 * WEIGHT.nbytes)
    for layer in ("a", "b", "a", "c"):
        use(store, layer)
    assert kept(store, "a", "b", "c") == [True, False, True]
    assert store.bytes == 2 * WEIGHT.nbytes


def test_one_kernel_serves_every_batch():
    store = Resident()
    for batch in (1, 3, 2):
        use(store, "a", batch)
    assert store.bytes == WEIGHT.nbytes


def test_a_version_that_is_forgotten_is_prepared_again():
    store = Resident()
    use(store, "a")
    use(store, "b")
    store.forget("a", 1)
    assert kept(store, "a", "b") == [False, True]
    assert store.bytes == WEIGHT.nbytes
    use(store, "a")
    assert kept(store, "a", "b") == [True, True]
