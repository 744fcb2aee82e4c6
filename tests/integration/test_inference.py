"""GRPCInferenceService where no stock client goes: what is refused, typed contents, whose regions are whose."""

import threading
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from multiprocessing.shared_memory import SharedMemory as Object

import grpc
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import groupconv
from groupconv import ConvSpec, Step
from groupconv.errors import InvalidArgumentError
from groupconv_server.config import Config
from groupconv_server.inference.messages import parse, with_output
from groupconv_server.inference.v2 import infer_pb2, model_pb2, service_pb2_grpc, shared_memory_pb2
from groupconv_server.memory.connections import connected
from groupconv_server.server import Server
from groupconv_worker.cuda.engine import why_unavailable
from waiting import until

Request, Parameter = infer_pb2.ModelInferRequest, infer_pb2.InferParameter
X = np.arange(2 * 3 * 4, dtype=np.float32).reshape(2, 3, 4)


@pytest.fixture(scope="module")
def serving():
    """A server with one layer, y = 2 · x on three channels, that lets clients register memory."""
    config = Config(port=0, executor="local", threads=1, engine="reference", shared_memory=True)
    with Server(config) as server, groupconv.connect(server.address, timeout=60) as client:
        client.load_layer("double", np.full((3, 1, 1), 2, np.float32), spec=ConvSpec(groups=3))
        for name, dtype in (("FP16", np.float16), ("INT8", np.int8), ("UINT8", np.uint8)):
            client.load_layer(f"double/{name}", np.full((3, 1, 1), 2, dtype), spec=ConvSpec(groups=3))
        yield server


def channel(server):
    """A connection of its own: gRPC would share one among the channels of a process."""
    return grpc.insecure_channel(server.address, [("grpc.use_local_subchannel_pool", 1)])


@pytest.fixture
def stub(serving):
    with channel(serving) as own:
        yield service_pb2_grpc.GRPCInferenceServiceStub(own)


def request(x=X, **more):
    made = Request(model_name="double", **more)
    made.inputs.add(name="x", datatype="FP32", shape=x.shape)
    made.raw_input_contents.append(x.tobytes())
    return made


def changed(**changes):
    """A request whose input is another one."""
    made = request()
    for name, value in changes.items():
        if name == "shape":
            made.inputs[0].ClearField("shape")
            made.inputs[0].shape.extend(value)
        elif name == "raw":
            made.ClearField("raw_input_contents")
            made.raw_input_contents.extend(value)
        elif name == "contents":
            getattr(made.inputs[0].contents, value[0]).extend(value[1])
        elif name == "parameters":
            for key, one in value.items():
                made.inputs[0].parameters[key].CopyFrom(one)
        else:
            setattr(made.inputs[0], name, value)
    return made


def narrow(datatype, field, values):
    """A request with typed contents for the layer of another dtype."""
    made = changed(raw=[], datatype=datatype, contents=(field, values))
    made.model_name = f"double/{datatype}"
    return made


def twice():
    made = request()
    made.inputs.append(made.inputs[0])
    made.raw_input_contents.append(made.raw_input_contents[0])
    return made


S, I, B = (
    (lambda v: Parameter(string_param=v)),
    (lambda v: Parameter(int64_param=v)),
    (lambda v: Parameter(bool_param=v)),
)


@pytest.mark.parametrize(
    ("asked", "said"),
    [
        (Request(model_name="double"), "inputs: expected one, called 'x'"),
        (twice(), "inputs: expected one, called 'x'"),
        (changed(name="z"), "['z']"),
        (changed(datatype="BYTES"), "inputs[0].datatype: expected one of FP16"),
        (changed(datatype=""), "inputs[0].datatype"),
        (changed(datatype="INT32"), "inputs[0].datatype: expected FP32, the model's, got 'INT32'"),
        (changed(datatype="UINT8"), "inputs[0].datatype: expected FP32, the model's, got 'UINT8'"),
        (changed(datatype="FP64"), "inputs[0].datatype: expected FP32, the model's, got 'FP64'"),
        (changed(shape=[2, 3, 0]), "inputs[0].shape[2]: expected an extent of at least 1"),
        (
            changed(shape=[2] * 100),
            "inputs[0].shape: expected shape [-1,3,-1], the model's (batch, channels, space; -1",
        ),
        (changed(shape=[2, 3, -1]), "inputs[0].shape[2]"),
        (changed(shape=[2**40, 3, 2**40]), "raw_input_contents[0]: expected 14507109835375550096474112 bytes"),
        (changed(shape=[0, 3, 2**62], raw=[b""]), "inputs[0].shape: expected samples of less than"),
        (changed(shape=[-1, 3, 4]), "inputs[0].shape[0]: expected an extent of at least 0"),
        (changed(shape=[2, 3]), "inputs[0].shape: expected shape [-1,3,-1]"),
        (changed(shape=[2, 3, 5]), "raw_input_contents[0]: expected 120 bytes"),
        (changed(shape=[24]), "inputs[0].shape"),
        (changed(shape=[2, 4, 3]), "got 'shape [2,4,3]'"),
        (changed(raw=[b""]), "expected 96 bytes for input 'x' of shape [2,3,4] FP32, got 0"),
        (changed(raw=[]), "raw_input_contents"),
        (changed(raw=[X.tobytes(), b""]), "raw_input_contents"),
        (changed(contents=("fp32_contents", X.ravel())), "raw_input_contents"),
        (changed(raw=[], contents=("fp32_contents", [1])), "24 elements in fp32_contents"),
        (changed(raw=[], contents=("fp64_contents", X.ravel())), "fp64_contents"),
        (narrow("FP16", "fp32_contents", X.ravel()), "raw contents for FP16"),
        (narrow("INT8", "int_contents", [200] * 24), "fit INT8, got 200"),
        (request(parameters={"exact": I(1)}), "parameters.exact: expected true or false"),
        (changed(parameters={"shared_memory_region": S("a")}), "shared_memory_byte_size"),
        (changed(parameters={"shared_memory_byte_size": I(96)}), "shared_memory_region"),
        (changed(parameters={"shared_memory_region": I(1)}), "a string"),
        (changed(parameters={"shared_memory_region": S("a"), "shared_memory_byte_size": I(96)}), "raw_input_contents"),
        (changed(raw=[], parameters={"shared_memory_region": S("a"), "shared_memory_byte_size": I(95)}), "96 bytes"),
        (request(parameters={"priority": S("high")}), "parameters.priority: expected an integer"),
        (request(parameters={"timeout": B(True)}), "parameters.timeout: expected an integer"),
        (request(parameters={"timeout": I(-1)}), "parameters.timeout"),
        (request(parameters={"sequence_id": I(1)}), "parameters.sequence_id"),
        (request(outputs=[Request.InferRequestedOutputTensor(name="y")] * 2), "outputs"),
    ],
)
def test_what_cannot_be_is_refused_with_what_was_expected_and_the_next_is_served(stub, asked, said):
    with pytest.raises(grpc.RpcError) as caught:
        stub.ModelInfer(asked, timeout=60)
    assert caught.value.code() is grpc.StatusCode.INVALID_ARGUMENT
    assert said in caught.value.details()
    assert stub.ModelInfer(request(), timeout=60).raw_output_contents == [(2 * X).tobytes()]


def test_bytes_that_are_no_message_are_refused(serving):
    with channel(serving) as own:
        ask = own.unary_unary("/inference.GRPCInferenceService/ModelInfer")
        for raw in (b"\xff\xff", b"\x3a\x05ab", request().SerializeToString()[:-1]):
            with pytest.raises(grpc.RpcError) as caught:
                ask(raw, timeout=60)
            assert caught.value.code() is grpc.StatusCode.INVALID_ARGUMENT


@settings(max_examples=60, deadline=None)
@given(length=st.integers(1, 40), name=st.text(max_size=20))
def test_answers_are_laid_out_as_protobuf_reads_them_and_aligned(length, name):
    message, y = with_output(infer_pb2.ModelInferResponse(model_name=name), np.dtype(np.float64), (1, length))
    assert y.ctypes.data % 16 == 0
    y[...] = np.arange(length)
    answer = infer_pb2.ModelInferResponse.FromString(message)
    assert answer.model_name == name
    assert list(answer.raw_output_contents) == [y.tobytes()]
    contents = parse(infer_pb2.ModelInferRequest(id=name, raw_input_contents=[y.tobytes()]).SerializeToString())[1]
    assert [bytes(c) for c in contents] == [y.tobytes()]


@pytest.mark.parametrize(
    ("asked", "datatype", "dtype"),
    [
        (changed(raw=[], contents=("fp32_contents", X.ravel())), "FP32", np.float32),
        (narrow("INT8", "int_contents", X.ravel().astype(int)), "INT32", np.int32),
        (narrow("UINT8", "uint_contents", X.ravel().astype(int)), "INT32", np.int32),
    ],
)
def test_typed_contents(stub, asked, datatype, dtype):
    answer = stub.ModelInfer(asked, timeout=60)
    model = stub.ModelMetadata(model_pb2.ModelMetadataRequest(name=asked.model_name), timeout=60)
    assert answer.outputs[0].datatype == model.outputs[0].datatype == datatype
    np.testing.assert_array_equal(np.frombuffer(answer.raw_output_contents[0], dtype).reshape(X.shape), 2 * X)


def test_an_empty_batch_is_answered_by_an_empty_one(stub):
    raw, typed = changed(shape=[0, 3, 4], raw=[b""]), changed(shape=[0, 3, 4], raw=[])
    typed.inputs[0].contents.SetInParent()
    for asked in (raw, typed):
        answer = stub.ModelInfer(asked, timeout=60)
        assert list(answer.outputs[0].shape) == [0, 3, 4]
        assert list(answer.raw_output_contents) == [b""]


@contextmanager
def held(serving, name):
    """A layer whose first request stays in the worker until it is let go; yields what says that, and what lets it."""
    (worker,) = serving.executor._workers.values()
    prepare, entered, go = worker.runtime.engine.prepare, threading.Event(), threading.Event()

    def waiting(*arguments, **options):
        entered.set()
        assert go.wait(60)
        return prepare(*arguments, **options)

    with groupconv.connect(serving.address, timeout=60) as client:
        client.load_layer(name, np.full((3, 1, 1), 2, np.float32), spec=ConvSpec(groups=3))
        worker.runtime.engine.prepare = waiting
        try:
            yield entered, go
        finally:
            go.set()
            worker.runtime.engine.prepare = prepare
            client.unload_layer(name)


def test_a_requests_own_timeout_ends_it(serving, stub):
    """One worker, held by another request: the timeout of 1 ms passes while this one waits."""
    with held(serving, "slow") as (entered, go), ThreadPoolExecutor(1) as pool:
        slow = request()
        slow.model_name = "slow"
        running = pool.submit(stub.ModelInfer, slow, 60)
        assert entered.wait(60)
        with pytest.raises(grpc.RpcError) as caught:
            stub.ModelInfer(request(parameters={"timeout": I(1000)}), timeout=60)
        assert caught.value.code() is grpc.StatusCode.DEADLINE_EXCEEDED
        go.set()
        assert running.result().outputs
    assert stub.ModelInfer(request(parameters={"timeout": I(60_000_000)}), timeout=60).outputs


def test_steps_of_types_that_cannot_follow_one_another_are_no_layer(serving):
    steps = [Step(np.ones((1, 1, 1), np.float32)), Step(np.ones((1, 1, 1), np.float16))]
    with (
        groupconv.connect(serving.address, timeout=60) as client,
        pytest.raises(InvalidArgumentError, match="follow one another"),
    ):
        client.load_layer_steps("odd", steps)


def test_the_announced_input_is_one_the_steps_accept(serving, stub):
    """int32 and a float32 kernel give float64, which the second kernel wants; float32 would not do."""
    steps = [Step(np.ones((1, 1, 1), np.float32)), Step(np.ones((1, 1, 1), np.float64))]
    with groupconv.connect(serving.address, timeout=60) as client, client.load_layer_steps("mixed", steps):
        model = stub.ModelMetadata(model_pb2.ModelMetadataRequest(name="mixed"), timeout=60)
        assert (model.inputs[0].datatype, model.outputs[0].datatype) == ("INT32", "FP64")


@pytest.fixture
def theirs():
    made = Object(create=True, size=4096)
    yield made
    made.close()
    made.unlink()


def register(stub, name, theirs, offset=0, size=4096):
    message = shared_memory_pb2.SystemSharedMemoryRegisterRequest(
        name=name, key=theirs.name, offset=offset, byte_size=size
    )
    stub.SystemSharedMemoryRegister(message, timeout=60)


def unregister(stub, name=""):
    stub.SystemSharedMemoryUnregister(shared_memory_pb2.SystemSharedMemoryUnregisterRequest(name=name), timeout=60)


def status(stub):
    return stub.SystemSharedMemoryStatus(shared_memory_pb2.SystemSharedMemoryStatusRequest(), timeout=60).regions


def there(name, size, offset=0):
    return {
        "shared_memory_region": S(name),
        "shared_memory_byte_size": I(size),
        "shared_memory_offset": I(offset),
    }


def in_memory(name, x_at=0, y_at=2048, size=96):
    made = changed(raw=[], parameters=there(name, X.nbytes, x_at))
    made.outputs.add(name="y", parameters=there(name, size, y_at))
    return made


@pytest.mark.parametrize(
    ("asked", "said"),
    [
        (in_memory("a", x_at=4001), "shared_memory_byte_size"),
        (in_memory("a", x_at=4096), "shared_memory_offset"),
        (in_memory("a", x_at=2**63 - 1), "shared_memory_offset"),
        (in_memory("a", x_at=-8), "shared_memory_offset"),
        (in_memory("a", y_at=4001), "shared_memory_byte_size"),
        (in_memory("a", y_at=2**63 - 90), "shared_memory_offset"),
        (in_memory("a", size=95), "at least 96 bytes for output 'y' of shape [2,3,4] FP32, got 95"),
    ],
)
def test_parts_outside_a_region_are_refused(stub, theirs, asked, said):
    register(stub, "a", theirs)
    theirs.buf[: X.nbytes] = X.tobytes()
    with pytest.raises(grpc.RpcError) as caught:
        stub.ModelInfer(asked, timeout=60)
    assert caught.value.code() is grpc.StatusCode.INVALID_ARGUMENT
    assert said in caught.value.details()
    assert theirs.name not in caught.value.details()
    stub.ModelInfer(in_memory("a"), timeout=60)
    assert bytes(theirs.buf[2048 : 2048 + 96]) == (2 * X).tobytes()
    unregister(stub)


def test_a_region_unregistered_during_a_request_serves_it_to_the_end(serving, stub, theirs):
    register(stub, "a", theirs)
    theirs.buf[: X.nbytes] = X.tobytes()
    with held(serving, "slow") as (entered, go), ThreadPoolExecutor(1) as pool:
        slow = in_memory("a")
        slow.model_name = "slow"
        running = pool.submit(stub.ModelInfer, slow, 60)
        assert entered.wait(60)
        unregister(stub, "a")
        go.set()
        assert running.result().outputs[0].parameters["shared_memory_region"].string_param == "a"
    assert bytes(theirs.buf[2048 : 2048 + 96]) == (2 * X).tobytes()
    with pytest.raises(grpc.RpcError) as caught:
        stub.ModelInfer(in_memory("a"), timeout=60)
    assert caught.value.code() is grpc.StatusCode.NOT_FOUND


def test_unregister_all_and_keys_are_the_callers(serving, stub, theirs):
    with channel(serving) as other:
        another = service_pb2_grpc.GRPCInferenceServiceStub(other)
        register(stub, "mine", theirs)
        register(another, "theirs", theirs)
        assert (status(stub)["mine"].key, status(stub)["theirs"].key) == (theirs.name, "")
        unregister(stub)
        assert list(status(stub)) == ["theirs"]
        unregister(another)


def test_the_regions_of_a_client_that_left_are_anyones(serving, stub, theirs):
    with channel(serving) as other:
        register(service_pb2_grpc.GRPCInferenceServiceStub(other), "a", theirs, size=8)
    until(lambda: not connected({serving.shared_memory.regions("a")[0].owner}))  # the server has seen it end
    register(stub, "a", theirs)
    assert status(stub)["a"].byte_size == 4096
    unregister(stub)


def test_shared_memory_is_off_unless_the_operator_allows_it(server, theirs):
    with grpc.insecure_channel(server.address) as own:
        stub = service_pb2_grpc.GRPCInferenceServiceStub(own)
        with pytest.raises(grpc.RpcError) as caught:
            register(stub, "a", theirs)
    assert caught.value.code() is grpc.StatusCode.FAILED_PRECONDITION
    assert "--allow-shared-memory" in caught.value.details()


def test_device_memory_needs_a_gpu(serving, stub):
    if not why_unavailable():
        pytest.skip("there is a GPU")
    message = shared_memory_pb2.CudaSharedMemoryRegisterRequest(name="a", raw_handle=b"x" * 64, byte_size=8)
    with pytest.raises(grpc.RpcError) as caught:
        stub.CudaSharedMemoryRegister(message, timeout=60)
    assert caught.value.code() is grpc.StatusCode.UNIMPLEMENTED
    stub.CudaSharedMemoryUnregister(shared_memory_pb2.CudaSharedMemoryUnregisterRequest(), timeout=60)
    assert not stub.CudaSharedMemoryStatus(shared_memory_pb2.CudaSharedMemoryStatusRequest(), timeout=60).regions
