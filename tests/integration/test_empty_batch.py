"""A batch of no samples is answered by an output of no samples, everywhere a batch is read."""

import asyncio

import numpy as np
import pytest

import groupconv
from emulation import emulated_engine, needs_compiler
from groupconv import ConvSpec, Step
from groupconv.convolution.dtypes import types_of
from groupconv.convolution.geometry import resolve
from groupconv.errors import InvalidArgumentError, ResourceExhaustedError
from groupconv_server.config import Config
from groupconv_server.server import Server
from groupconv_worker.contract import Problem
from groupconv_worker.engines import create_engine
from groupconv_worker.runtime import run_shard
from groupconv_worker.shard import Stage

VARIANTS = {
    "grouped": ((0, 4, 9, 8), (6, 2, 3, 3), {"groups": 2, "padding": 1}),
    "reflect": ((0, 4, 9), (6, 4, 3), {"padding": 1, "padding_mode": "reflect", "activation": "gelu"}),
    "transposed": ((0, 4, 5, 5, 5), (4, 3, 2, 2, 2), {"transposed": True, "stride": 2}),
    "winograd": ((0, 16, 30, 30), (16, 16, 3, 3), {"padding": 1}),
    "fft": ((0, 1, 40, 40), (1, 1, 15, 15), {"padding": "same"}),
}
DTYPES = (("float32", "float32"), ("bfloat16", "bfloat16"), ("uint8", "int8"), ("int32", "float32"))


def arrays(name, dtypes=DTYPES[0]):
    x_shape, w_shape, options = VARIANTS[name]
    x, w = (np.ones(s, groupconv.convolution.dtypes.DTYPES[d]) for s, d in zip((x_shape, w_shape), dtypes, strict=True))
    spec = ConvSpec(**options)
    return x, w, spec, Problem(resolve(spec, x.shape, w.shape), types_of(x.dtype, w.dtype))


@pytest.fixture(scope="module", params=[1, 8])
def served(request):
    with Server(Config(port=0, executor="local", workers=2, threads=1, max_batch=request.param)) as server:
        yield server


@pytest.fixture(scope="module", params=[None, "auto"])
def client(request, served):
    with groupconv.connect(served.address, timeout=60, shared_memory=request.param or False) as client:
        yield client


@pytest.mark.parametrize("name", VARIANTS)
def test_calls_layers_streams_and_plans(client, name):
    x, w, spec, problem = arrays(name)
    shape, dtype = problem.geometry.output_shape, problem.types.output
    answers = [
        client.convolve(x, w, spec=spec),
        client.run(x, [Step(w, None, spec)]).output,
        client.stream_convolve(x, [Step(w, None, spec)]),
    ]
    with client.load_layer("empty", w, None, spec) as layer:
        answers.append(layer(x))
        answers.append(layer.run(x).output)
    for y in answers:
        assert (y.shape, y.dtype) == (shape, dtype)
    plan = client.plan(x.shape, w.shape, spec)
    assert [(s.output_shape, s.shards, s.reason) for s in plan.steps] == [(shape, (), "the batch is empty")]
    assert "the batch is empty" in str(plan)


def test_chains_and_an_array_to_fill(client):
    x, out = np.ones((0, 2, 7), np.float32), np.empty((0, 5, 5), np.float32)
    steps = [Step(np.ones((3, 2, 3), np.float32)), Step(np.ones((5, 3, 1), np.float32))]
    result = client.run(x, steps, out=out)
    assert result.output is out
    assert len(result.report.plan.steps) == 2


def test_an_empty_batch_of_samples_over_the_limit_is_refused(client):
    spec = ConvSpec(transposed=True, stride=2**27)
    with pytest.raises(ResourceExhaustedError):
        client.convolve(np.ones((0, 1, 9, 9, 9), np.float32), np.ones((1, 1, 1, 1, 1), np.float32), spec=spec)


def test_awaiting(served):
    async def ask():
        async with groupconv.aio.connect(served.address, timeout=60) as client:
            return await client.conv1d(np.ones((0, 1, 4)), np.ones((1, 1, 2)))

    assert asyncio.run(ask()).shape == (0, 1, 3)


@pytest.mark.parametrize(
    ("field", "x_shape", "w_shape"),
    [
        ("input.shape[1]", (1, 0, 4), (1, 1, 2)),
        ("input.shape[2]", (1, 1, 0), (1, 1, 2)),
        ("kernel.shape[0]", (1, 1, 4), (0, 1, 2)),
        ("kernel.shape[2]", (1, 1, 4), (1, 1, 0)),
    ],
)
def test_no_other_extent_may_be_zero(field, x_shape, w_shape):
    with pytest.raises(InvalidArgumentError) as caught:
        resolve(ConvSpec(), x_shape, w_shape)
    assert caught.value.field == field


@pytest.fixture(scope="module", params=["reference", "cpu", pytest.param("cuda", marks=needs_compiler)])
def engine(request):
    if request.param == "cuda":
        with emulated_engine() as engine:
            yield engine
        return
    engine = create_engine(request.param)
    yield engine
    engine.close()


@pytest.mark.parametrize("resident", [False, True])
@pytest.mark.parametrize("dtypes", DTYPES)
@pytest.mark.parametrize("name", VARIANTS)
def test_engines_and_shards(engine, name, dtypes, resident):
    if "activation" in VARIANTS[name][2] and dtypes == DTYPES[2]:
        pytest.skip("integers have relu alone")
    x, w, _, problem = arrays(name, dtypes)
    out = np.empty(problem.geometry.output_shape, problem.types.output)
    engine.prepare(Problem(problem.geometry.with_batch(1), problem.types), w, resident=resident).run(x, out)
    run_shard(engine, [Stage(problem, w)], x, out)
