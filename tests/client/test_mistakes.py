"""Mistakes in arguments end in the project's own exception, which names the field, what was expected and what came."""

import asyncio

import numpy as np
import pytest

import groupconv
from groupconv import ConvSpec, Step
from groupconv.errors import InvalidArgumentError, UnknownArgumentError

X = np.ones((1, 4, 6, 6), np.float32)
W = np.ones((8, 4, 3, 3), np.float32)


@pytest.fixture(scope="module")
def client():
    with groupconv.connect("localhost:1", timeout=5) as client:  # nothing is sent
        yield client


def read_only():
    out = np.empty((1, 8, 4, 4), np.float32)
    out.flags.writeable = False
    return out


MISTAKES = {
    "the class Step": (lambda c: c.run(X, Step), "steps", r"expected a list of groupconv\.Step, got <class"),
    "a lone step": (lambda c: c.run(X, Step(W)), "steps", r"expected a list of steps.*got Step\(kernel \(8, 4, 3, 3\)"),
    "an array as steps": (lambda c: c.run(X, W), "steps[0]", r"a groupconv\.Step, got an array \(4, 3, 3\) float32"),
    "an array as step": (lambda c: c.run(X, [W]), "steps[0]", r"a groupconv\.Step, got an array \(8, 4, 3, 3\)"),
    "no steps": (lambda c: c.run(X, []), "steps", "at least one step"),
    "a dict as spec": (lambda c: c.convolve(X, W, spec={}), "spec", r"a groupconv\.ConvSpec or None, got {}"),
    "a dict as a step's spec": (lambda _: Step(W, None, {"stride": 2}), "spec", "ConvSpec, got {'stride': 2}"),
    "a dict as a plan's spec": (lambda c: c.plan(X.shape, W.shape, {}), "spec", "ConvSpec"),
    "a dict as a layer's spec": (lambda c: c.load_layer("l", W, spec={}), "spec", "ConvSpec"),
    "a spec as bias": (lambda _: Step(W, ConvSpec()), "bias", "the spec is the third argument"),
    "strides": (lambda c: c.conv2d(X, W, strides=2), "strides", r"did you mean stride\?"),
    "strides in a spec": (lambda _: ConvSpec(strides=2), "strides", r"did you mean stride\?"),
    "strides of a stream": (lambda c: c.stream_conv2d(X, W, strides=2), "strides", r"did you mean stride\?"),
    "a stream's option": (lambda c: c.stream_convolve(X, [Step(W)], band_row=2), "band_row", r"mean band_rows\?"),
    "a call's option": (lambda c: c.conv2d(X, W, timeot=2), "timeot", r"did you mean timeout\?"),
    "transposed": (lambda c: c.conv2d(X, W, transposed=True), "transposed", "one of the arguments"),
    "groups of a separable convolution": (
        lambda c: c.depthwise_separable_conv2d(X, np.ones((4, 1, 3, 3)), np.ones((2, 4)), groups=4),
        "groups",
        "one of the arguments",
    ),
    "a large pointwise kernel": (lambda c: c.pointwise_conv2d(X, W), "weight", r"\(M, C, 1, 1\).*got \(8, 4, 3, 3\)"),
    "a large pointwise kernel of two": (
        lambda c: c.depthwise_separable_conv2d(X, np.ones((4, 1, 3, 3)), W),
        "pointwise_weight",
        r"\(M, C, 1, 1\)",
    ),
    "ragged lists": (lambda c: c.conv2d(X, [[1.0], [1.0, 2.0]]), "weight", "expected an array, got list: setting"),
    "words": (lambda c: c.conv2d("a cat", W), "input.dtype", "bool or other integers, which are converted, got '<U5'"),
    "complex numbers": (lambda c: c.conv2d(X * 1j, W), "input.dtype", "complex64"),
    "complex weights": (lambda c: c.conv2d(X, W * 1j), "steps[0].kernel.dtype", "complex64"),
    "a list as out": (lambda c: c.conv2d(X, W, out=[]), "out", r"expected a writable array, got \[\]"),
    "a read-only out": (lambda c: c.conv2d(X, W, out=read_only()), "out", "expected a writable array"),
    "arrays for shapes": (lambda c: c.plan(X, W.shape), "input.shape", "expected a sequence, got an array"),
    "fewer specs than weights": (lambda c: c.plan_steps(X.shape, [W.shape], []), "specs", "expected 1, one for each"),
    "an unknown dtype": (lambda c: c.plan(X.shape, W.shape, dtype="float31"), "dtype", "float16, bfloat16, float32"),
    "a shape for shapes": (lambda c: c.load_layer("l", W, inputs=X.shape), "inputs", r"such as \[\(1, 96, 27, 27\)\]"),
    "integer weights by dtype": (lambda c: c.load_layer("l", W, dtype="int8"), "dtype", "not converted to integers"),
    "an array as a name": (lambda c: c.load_layer(W, W), "name", "a layer's name"),
    "no name": (lambda c: c.get_layer(None), "name", "a layer's name"),
    "a port as target": (lambda _: groupconv.connect(50051), "target", "host:port"),
    "a call's timeout": (lambda c: c.status(timeout="5"), "timeout", "a number of seconds"),
    "a list as a stream's out": (lambda c: c.stream_conv2d(X, W, out=[1]), "out", "expected a writable array"),
    "a number as progress": (lambda c: c.stream_conv2d(X, W, progress=5), "progress", "expected a function"),
    "a number as shape": (lambda c: c.stream_conv2d(iter([X]), W, shape=5, dtype="float32"), "shape", "of all bands"),
    "a negative extent": (lambda c: c.empty((-1, 2)), "shape", "at least 0"),
    "no shape": (lambda c: c.plan(None, W.shape), "input.shape", "expected a sequence, got None"),
    "no specs": (lambda c: c.plan_steps(X.shape, [W.shape], None), "specs", "expected a sequence, got None"),
    "a lone slope": (lambda _: groupconv.Activation("prelu", 0.1), "activation.slope", "a sequence of numbers"),
    "a text as timeout": (lambda _: groupconv.connect("localhost:1", timeout="5"), "timeout", "seconds"),
}  # fmt: skip


@pytest.mark.parametrize("name", MISTAKES)
def test_a_mistake_names_its_field(client, name):
    make, field, words = MISTAKES[name]
    with pytest.raises(InvalidArgumentError, match=words) as caught:
        make(client)
    assert caught.value.field == field
    assert caught.value.expected
    assert str(caught.value).startswith(f"{field}: expected ")


def test_an_unknown_argument_is_a_type_error_too():
    with pytest.raises(TypeError):
        ConvSpec(strides=2)
    error = UnknownArgumentError.of("strides", 2, ["stride"]).within("spec")
    assert isinstance(error, InvalidArgumentError | TypeError)
    assert error.field == "spec.strides"


@pytest.mark.parametrize(
    "call",
    [lambda c: c.conv2d(X, W), lambda c: c.status(), lambda c: c.load_layer("l", W), lambda c: c.stream_conv2d(X, W)],
)
def test_a_closed_client_says_so(call):
    client = groupconv.connect("localhost:1", timeout=5)
    client.close()
    client.close()
    with pytest.raises(InvalidArgumentError, match="client: expected an open client, got a closed one"):
        call(client)

    async def awaiting():
        client = groupconv.aio.connect("localhost:1", timeout=5)
        await client.close()
        await call(client)

    with pytest.raises(InvalidArgumentError, match="client: expected an open client, got a closed one"):
        asyncio.run(awaiting())


def test_an_awaiting_client_names_fields_too():
    async def awaiting():
        async with groupconv.aio.connect("localhost:1", timeout=5) as client:
            await client.run(X, [W])

    with pytest.raises(InvalidArgumentError, match=r"steps\[0\]: expected a groupconv\.Step"):
        asyncio.run(awaiting())


def test_values_show_themselves_in_one_line():
    with groupconv.connect("localhost:1", timeout=5) as client:
        assert repr(client) == "<groupconv.Client of localhost:1: no TLS, timeout 5 s>"
    assert repr(client) == "<groupconv.Client of localhost:1: closed>"
    spec = ConvSpec(padding=2, groups=2, activation="relu")
    assert repr(spec) == "ConvSpec(padding=2, groups=2, activation='relu')"
    assert eval(repr(spec)) == spec
    assert repr(ConvSpec()) == "ConvSpec()"
    assert repr(Step(W, np.ones(8), spec)) == f"Step(kernel (8, 4, 3, 3) float32, bias (8,) float64, {spec})"
