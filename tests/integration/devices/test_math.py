"""The precision of a request reaches the products of the device, whichever way the request came."""

import asyncio
import json

import grpc
import numpy as np
import pytest
from typer.testing import CliRunner

import groupconv
from emulation import cublas, needs_compiler
from groupconv_server.cli.app import app
from groupconv_server.config import Config
from groupconv_server.inference.v2 import infer_pb2, service_pb2_grpc
from groupconv_server.server import Server

pytestmark = needs_compiler
COMPUTE = {"float32": 68, "tf32": 77, "float16": 74, "bfloat16": 75}
CHANNELS = 32
X, W = np.ones((1, CHANNELS, 6, 6), np.float32), np.ones((CHANNELS, CHANNELS, 1, 1), np.float32)


@pytest.fixture(scope="module")
def server(cupy):
    with Server(Config(port=0, executor="local", threads=1, engine="cuda")) as server:
        yield server


@pytest.fixture(scope="module")
def client(server):
    with groupconv.connect(server.address, timeout=60) as client:
        yield client


@pytest.fixture
def used():
    """The precisions of the products since the last call of this."""
    names = {compute: math for math, compute in COMPUTE.items()}

    def found():
        # the list is the process's: servers of other tests may still measure products of other sizes
        seen = {names[call.compute] for call in cublas.CALLS if call.k == CHANNELS}
        cublas.CALLS.clear()
        return seen

    cublas.CALLS.clear()
    return found


def test_calls_and_streams(client, used):
    client.conv2d(X, W)
    assert used() == {"float32"}
    for math in COMPUTE:
        client.conv2d(X, W, math=math)
        assert used() == {math}
    client.stream_conv2d(X, W, math="tf32")
    assert used() == {"tf32"}
    client.depthwise_separable_conv2d(X, np.ones((32, 1, 3, 3), np.float32), W, padding=1, math="bfloat16")
    assert used() == {"bfloat16"}


def test_the_awaiting_client(server, used):
    async def call():
        async with groupconv.aio.connect(server.address, timeout=60) as client:
            await client.conv2d(X, W, math="float16")

    asyncio.run(call())
    assert used() == {"float16"}


def test_layers_and_the_parameter_of_triton_s_clients(server, client, used):
    layer = client.load_layer("rounded", W, None, groupconv.ConvSpec(math="tf32"))
    assert layer.info.specs[0].math == "tf32"
    used()
    layer.run(X)
    assert used() == {"tf32"}
    request = infer_pb2.ModelInferRequest(model_name="rounded", raw_input_contents=[X.tobytes()])
    request.inputs.add(name="x", datatype="FP32", shape=X.shape)
    with grpc.insecure_channel(server.address) as channel:
        stub = service_pb2_grpc.GRPCInferenceServiceStub(channel)
        for math, exact, want in (("", False, "tf32"), ("bfloat16", False, "bfloat16"), ("float32", True, "float32")):
            request.parameters["exact"].bool_param = exact
            if math:
                request.parameters["math"].string_param = math
            stub.ModelInfer(request, timeout=60)
            assert used() == {want}
        request.parameters["math"].string_param = "half"
        with pytest.raises(grpc.RpcError, match=r"parameters\.math: expected one of float32, tf32"):
            stub.ModelInfer(request, timeout=60)


def test_the_command_line(server, used, tmp_path):
    def groupconv_(*words):
        done = CliRunner().invoke(app(), [*map(str, words), "--target", server.address])
        assert done.exit_code == 0, (done.output, done.exception)
        return done.output

    np.save(tmp_path / "x.npy", X)
    np.save(tmp_path / "w.npy", W)
    assert "math=bfloat16" in groupconv_("layers", "load", tmp_path / "w.npy", "--name", "cli", "--math", "bfloat16")
    used()
    groupconv_("conv", tmp_path / "x.npy", "-k", tmp_path / "w.npy", "-o", tmp_path / "y.npy", "--math", "tf32")
    assert used() == {"tf32"}
    assert json.loads(groupconv_("plan", "--input", "1,32,6,6", "--kernel", "32,32,1,1", "--math", "tf32", "--json"))
