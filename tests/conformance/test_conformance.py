"""The conformance suite of proto/conformance, run by the Python client; client/typescript/test runs the same files."""

import itertools
import json
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import pytest
from google.protobuf import descriptor_pool, message_factory
from google.protobuf.json_format import ParseDict

from conformance.convolutions import convolutions
from conformance.generate import computed
from groupconv import Step, resolve
from groupconv.convolution.dtypes import is_float
from groupconv.errors import InvalidArgumentError
from groupconv.transport.channel import from_rpc_error
from groupconv.v1 import convolution_pb2, spec_pb2, tensor_pb2
from groupconv.wire.specs import spec_from_wire
from groupconv.wire.tensors import from_wire

FOLDER = Path(__file__).parents[2] / "proto" / "conformance"


def cases(name: str) -> list[Any]:
    """The cases of a file, by their names."""
    return [pytest.param(case, id=case["name"]) for case in json.loads((FOLDER / f"{name}.json").read_text())]


@pytest.mark.parametrize("case", cases("geometry"))
def test_geometry(case):
    message = ParseDict(case["spec"], spec_pb2.ConvSpec())
    if "error" in case:
        with pytest.raises(InvalidArgumentError) as caught:
            resolve(spec_from_wire(message), case["inputShape"], case["kernelShape"])
        assert {"field": caught.value.field, "message": str(caught.value)} == case["error"]
        return
    g, expected = resolve(spec_from_wire(message), case["inputShape"], case["kernelShape"]), case["geometry"]
    assert list(g.output_shape) == expected["outputShape"]
    assert [list(pair) for pair in g.padding] == expected["padding"]
    assert (list(g.stride), list(g.dilation)) == (expected["stride"], expected["dilation"])
    assert (g.weights, g.multiply_adds) == (expected["weights"], expected["multiplyAdds"])
    assert (list(g.receptive_field), g.variant()) == (expected["receptiveField"], expected["variant"])


@pytest.mark.parametrize("case", cases("outputs"))
def test_output(client, case):
    request = ParseDict(case["request"], convolution_pb2.ConvolveRequest())
    steps = [
        Step(from_wire(s.kernel), from_wire(s.bias) if s.HasField("bias") else None, spec_from_wire(s.spec))
        for s in request.steps
    ]
    y = client.run(from_wire(request.input, batch=True), steps).output
    expected = from_wire(ParseDict(case["output"], tensor_pb2.Tensor()), batch=True)
    assert (y.shape, y.dtype) == (expected.shape, expected.dtype)
    np.testing.assert_allclose(y.astype(np.float64), expected.astype(np.float64), rtol=0, atol=case["tolerance"])


@pytest.mark.parametrize("case", cases("plans"))
def test_plan(client, case):
    request = ParseDict(case["request"], convolution_pb2.PlanConvolutionRequest())
    plan = client.plan_steps(
        request.input.shape,
        [s.kernel.shape for s in request.steps],
        [spec_from_wire(s.spec) for s in request.steps],
        cut=request.cut or None,
    )
    for step, expected in zip(plan.steps, case["steps"], strict=True):
        assert [list(s) for s in (step.input_shape, step.kernel_shape, step.output_shape)] == [
            expected["inputShape"], expected["kernelShape"], expected["outputShape"],
        ]  # fmt: skip
        assert (step.variant, step.groups, step.weights) == (
            expected["variant"], expected["groups"], expected["weights"],
        )  # fmt: skip
        assert step.multiply_adds == expected["multiplyAdds"]
        assert step.cut == expected.get("cut", step.cut)
        assert covers(step)


def covers(step) -> bool:
    """Whether the shards make each output once."""
    made = np.zeros(step.output_shape, int)
    for shard in step.shards:
        made[tuple(r.slice for r in shard.output)] += 1
    return bool((made == 1).all())


@pytest.mark.parametrize("case", cases("errors"))
def test_error(server, case):
    service, _, method = case["method"].partition("/")
    described = descriptor_pool.Default().FindServiceByName(service).FindMethodByName(method)
    request = ParseDict(case["request"], message_factory.GetMessageClass(described.input_type)())
    with grpc.insecure_channel(server.address) as channel, pytest.raises(grpc.RpcError) as caught:
        channel.unary_unary(f"/{case['method']}", type(request).SerializeToString)(request, timeout=60)
    error = from_rpc_error(caught.value)
    assert error.status == case["status"]
    assert str(error) == case.get("message", str(error))
    assert getattr(error, "field", None) == case.get("field")
    assert error.request_id


def test_the_files_hold_what_the_reference_engine_computes():
    files = [case.values[0] for case in cases("outputs")]
    for case, named in itertools.zip_longest(files, convolutions()):
        expected = from_wire(ParseDict(case["output"], tensor_pb2.Tensor()), batch=True)
        x, _, y, tolerance = computed(named)
        request = ParseDict(case["request"], convolution_pb2.ConvolveRequest())
        np.testing.assert_array_equal(from_wire(request.input, batch=True), x, case["name"])
        limit = max(tolerance, case["tolerance"]) if is_float(y.dtype) else 0
        np.testing.assert_allclose(expected.astype(np.float64), y.astype(np.float64), rtol=0, atol=limit / 8)
