"""Steps that follow one another on a device, under emulation: nothing between them returns to the host."""

import gc
import weakref

import numpy as np
import pytest

from emulation import emulated_engine, memory, needs_compiler
from groupconv.convolution.dtypes import types_of
from groupconv.convolution.geometry import resolve
from groupconv.convolution.spec import Activation, ConvSpec
from groupconv_worker import reference
from groupconv_worker.contract import Problem
from groupconv_worker.resident import ResidentKernels, ResidentKey
from groupconv_worker.runtime import run_shard
from groupconv_worker.shard import Stage

pytestmark = needs_compiler
rng = np.random.default_rng(0)
SPECS = (ConvSpec(padding=1, groups=4), ConvSpec(groups=2), ConvSpec(padding=1, stride=2), ConvSpec(transposed=True))
WEIGHTS = ((8, 2, 3, 3), (6, 4, 1, 1), (5, 6, 3, 3), (5, 3, 2, 2))


def chain(batch: int = 3, *, resident: bool = True):
    """Stages, an input, and the exact answer: whole numbers."""
    dtype = np.dtype(np.float32)
    x = rng.integers(-3, 4, (batch, 8, 9, 9)).astype(dtype)
    stages, y = [], x
    for i, (spec, shape) in enumerate(zip(SPECS, WEIGHTS, strict=True)):
        w = rng.integers(-1, 2, shape).astype(dtype)
        problem = Problem(resolve(spec, y.shape, w.shape), types_of(dtype, dtype))
        key = ResidentKey("layer", 1, i, tuple((0, n) for n in shape)) if resident else None
        stages.append(Stage(problem, w, None, key))
        y = reference.convolve(y, w, None, problem.geometry).astype(problem.types.output)
    return tuple(stages), x, y


@pytest.fixture
def copies(monkeypatch):
    """The bytes of each copy between host and device, weights not: they are copied by CuPy's `asarray`."""
    found = []
    move = memory.memcpy_async
    monkeypatch.setattr(memory, "memcpy_async", lambda *a: found.append(a[2]) or move(*a))
    for name in ("set", "get"):
        method = getattr(memory.ndarray, name)

        def counted(self, *arguments, method=method, stream=None, **more):
            if stream is not None:
                found.append(self.nbytes)
            return method(self, *arguments, stream=stream, **more)

        monkeypatch.setattr(memory.ndarray, name, counted)
    return found


@pytest.mark.parametrize("resident", [True, False])
@pytest.mark.parametrize("algorithm", ["direct", "gemm", ""])
def test_a_chain_of_host_arrays_is_copied_once_each_way(copies, algorithm, resident):
    stages, x, want = chain(resident=resident)
    store, out = ResidentKernels(), np.empty_like(want)
    with emulated_engine(algorithm=algorithm) as engine:
        for times in range(3):  # launched, captured, by the graph
            out[...] = 0
            copies.clear()
            ran = run_shard(engine, stages, x, out, store)
            np.testing.assert_array_equal(out, want)
            assert len(ran) == len(stages)
            assert [r.seconds > 0 for r in ran] == [False, False, False, True]
            if not resident or times == 0:
                assert copies == [x.nbytes, out.nbytes]


def test_it_is_one_graph(copies):
    stages, x, want = chain()
    store, out = ResidentKernels(), np.empty_like(want)
    with emulated_engine(algorithm="direct") as engine:
        launches, launch = [], engine._device.kernels.launch
        engine._device.kernels.launch = lambda *a, **more: launches.append(a[0]) or launch(*a, **more)
        for expected in (4, 12, 12, 12):  # as it is; once more, and captured; from then on there is a graph
            out[...] = 0
            run_shard(engine, stages, x, out, store)
            np.testing.assert_array_equal(out, want)
            assert len(launches) == expected
        graphs = [stream.graphs for stream in (engine._device.next_graph_stream() for _ in range(8))]
        assert sum({id(g): len(g) for g in graphs}.values()) == 1


@pytest.mark.parametrize("chunk", [100, 4000])
def test_a_long_chain_goes_in_chunks_of_samples(chunk):
    stages, x, want = chain(batch=7)
    store, out = ResidentKernels(), np.empty_like(want)
    with emulated_engine(algorithm="direct", chunk=chunk) as engine:
        for _ in range(3):
            out[...] = 0
            run_shard(engine, stages, x, out, store)
            np.testing.assert_array_equal(out, want)


def test_it_is_dropped_with_any_of_its_kernels():
    stages, x, want = chain()
    store, out = ResidentKernels(), np.empty_like(want)
    with emulated_engine(algorithm="direct") as engine:
        pool = engine._device.pool
        before = pool.used_bytes()
        for _ in range(3):
            run_shard(engine, stages, x, out, store)
        prepared = [stage.kept.prepared for stage in stages]
        made = weakref.ref(prepared[0].then(prepared[1]))
        assert made() is not None
        del prepared[:]
        last = stages[1].kept
        store._drop((stages[1].key, stages[1].one))
        assert last.prepared is None
        gc.collect()
        assert made() is None
        store.forget("layer", 1)
        gc.collect()
        engine._device._tables.clear()
        engine._device.make_room()
        assert pool.used_bytes() == before


def test_steps_go_one_by_one_where_what_is_between_them_does_not_fit(copies):
    stages, x, want = chain(batch=1)
    store, out = ResidentKernels(), np.empty_like(want)
    with emulated_engine(algorithm="direct", graph_memory=0) as engine:
        for stage in stages:
            stage.keep(store.add(stage.key, stage.one, engine.prepare(stage.one, stage.weight, resident=True)))
        engine._device.pool.set_limit(engine._device.pool.used_bytes() + 6000)
        ran = run_shard(engine, stages, x, out, store)
        np.testing.assert_array_equal(out, want)
        assert all(r.seconds > 0 for r in ran)
        assert len(copies) > 2


def test_activations_between_steps():
    w = rng.standard_normal((8, 8, 3, 3)).astype(np.float32)
    bias = rng.standard_normal(8).astype(np.float32)
    x = rng.standard_normal((2, 8, 6, 6)).astype(np.float32)
    problem = Problem(
        resolve(ConvSpec(padding=1, activation=Activation("relu")), x.shape, w.shape), types_of(x.dtype, w.dtype)
    )
    want = x
    for _ in range(3):
        want = reference.convolve(want, w, bias, problem.geometry).astype(np.float32)
    out = np.empty_like(want)
    with emulated_engine() as engine:
        run_shard(engine, [Stage(problem, w, bias)] * 3, x, out)
    np.testing.assert_allclose(out, want, rtol=1e-4, atol=1e-3)
