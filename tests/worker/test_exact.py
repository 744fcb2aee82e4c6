"""`ConvSpec.exact`: sums of the products themselves, no algorithm that transforms."""

import numpy as np
import pytest

import groupconv
from emulation import emulated_engine, needs_compiler
from groupconv import ConvSpec
from groupconv.convolution.dtypes import types_of
from groupconv.convolution.geometry import resolve
from groupconv.wire.specs import spec_from_wire, spec_to_wire
from groupconv_server.config import Config
from groupconv_server.server import Server
from groupconv_worker.contract import Problem
from groupconv_worker.cpu.engine import CpuEngine
from groupconv_worker.tuning.autotune import Tuner

COLUMN = np.arange(1.0, 16.0)
TRANSFORMED = {
    "winograd": ((1, 32, 40, 40), np.random.default_rng(0).standard_normal((32, 32, 3, 3))),
    "fft": ((1, 1, 60, 60), np.random.default_rng(0).standard_normal((1, 1, 15, 15))),
    "separable": ((1, 1, 60, 60), np.outer(COLUMN, COLUMN)[None, None]),
}


def problem_of(name, *, exact):
    shape, w = TRANSFORMED[name]
    w = w.astype(np.float32)
    f32 = np.dtype(np.float32)
    return Problem(resolve(ConvSpec(padding="same", exact=exact), shape, w.shape), types_of(f32, f32)), w


@pytest.mark.parametrize("resident", [False, True])
@pytest.mark.parametrize("name", TRANSFORMED)
def test_the_cpu_engine_sums(name, resident, monkeypatch, tmp_path):
    monkeypatch.setenv("GROUPCONV_TUNE", "off")
    engine = CpuEngine(threads=1, tuning=tmp_path / "tuning.json")
    problem, w = problem_of(name, exact=False)
    assert engine.prepare(problem, w, resident=resident).algorithm == name
    problem, w = problem_of(name, exact=True)
    assert engine.prepare(problem, w, resident=resident).algorithm not in TRANSFORMED
    assert not {a.name for a in engine.candidates(problem)} & set(TRANSFORMED)
    engine.close()


@needs_compiler
@pytest.mark.parametrize("name", TRANSFORMED)
def test_the_cuda_engine_sums(name):
    problem, w = problem_of(name, exact=True)
    for options in ({}, {"math": "tf32"}, {"algorithm": "fft"}):
        with emulated_engine(with_cudnn=True, **options) as engine:
            chosen = engine.prepare(problem, w).algorithm
            assert chosen not in TRANSFORMED


def test_choices_are_remembered_apart():
    tuner = Tuner(1)
    keys = {tuner._key(problem_of("winograd", exact=exact)[0]) for exact in (False, True)}
    assert len(keys) == 2


def test_it_travels_with_every_kind_of_call():
    assert spec_from_wire(spec_to_wire(ConvSpec(exact=True))).exact
    shape, w = TRANSFORMED["fft"]
    x = np.random.default_rng(1).standard_normal(shape).astype(np.float32)
    with (
        Server(Config(port=0, executor="local", workers=1, threads=1)) as server,
        groupconv.connect(server.address, timeout=60) as client,
    ):
        steps = [groupconv.Step(w, None, ConvSpec(padding="same", exact=exact)) for exact in (False, True)]
        used = [client.run(x, [step]).report.steps[0][0].algorithm for step in steps]
        assert used[0] == "fft"
        assert used[1] not in TRANSFORMED
        want = client.run(x, steps[1:]).output
        answers = [
            client.conv2d(x, w, padding="same", exact=True),
            client.stream_conv2d(x, w, padding="same", exact=True),
        ]
        with client.load_layer("exact", w, None, steps[1].spec) as layer:
            assert layer.info.specs[0].exact
            assert layer.run(x).report.steps[0][0].algorithm not in TRANSFORMED
        for y in answers:
            np.testing.assert_array_equal(y, want)
