"""What the stock tritonclient does against a server: `python stock_triton.py ADDRESS` prints an outcome per check.

It runs in a process of its own, because its protos have the names of ours. Every function `check_…` is one check.
"""

import json
import queue
import sys
import traceback

import ml_dtypes
import numpy as np
import pytest
import tritonclient.grpc as triton
from tritonclient.grpc import model_config_pb2, service_pb2
from tritonclient.utils import InferenceServerException, np_to_triton_dtype, shared_memory

ADDRESS = sys.argv[1]
RNG = np.random.default_rng(0)
LAYER = "stock/scale"  # y = 2 · x, 3 channels, depthwise 1×1
HALF, BRAIN, BYTES, WHOLE = "stock/half", "stock/brain", "stock/bytes", "stock/whole"


def sent(x, *, raw=True, datatype=None):
    tensor = triton.InferInput("x", list(x.shape), datatype or np_to_triton_dtype(x.dtype))
    if raw:
        tensor.set_data_from_numpy(x)
    return tensor


def frame(n=1, dtype=np.float32):
    return RNG.standard_normal((n, 3, 5, 4)).astype(dtype)


def check_live_ready_and_metadata(client):
    assert client.is_server_live()
    assert client.is_server_ready()
    assert client.is_model_ready(LAYER)
    assert not client.is_model_ready("stock/none")
    server = client.get_server_metadata()
    assert server.name == "groupconv"
    assert {"statistics", "model_configuration", "system_shared_memory"} <= set(server.extensions)
    model = client.get_model_metadata(LAYER)
    assert [(t.name, t.datatype, list(t.shape)) for t in model.inputs] == [("x", "FP32", [-1, 3, -1, -1])]
    assert [(t.name, t.datatype, list(t.shape)) for t in model.outputs] == [("y", "FP32", [-1, 3, -1, -1])]
    assert client.is_model_ready(LAYER, model.versions[0])
    assert not client.is_model_ready(LAYER, "999999")


def check_config(client):
    config = client.get_model_config(LAYER).config
    assert config.name == LAYER
    assert config.max_batch_size > 0
    assert list(config.input[0].dims) == [3, -1, -1]
    assert model_config_pb2.DataType.Name(config.output[0].data_type) == "TYPE_FP32"
    assert not config.model_transaction_policy.decoupled


def check_a_network_under_its_own_names(client):
    model = client.get_model_metadata("stock/network")
    assert [(t.name, t.datatype, list(t.shape)) for t in model.inputs] == [(n, "FP32", [-1, -1]) for n in "ab"]
    assert [t.name for t in model.outputs] == ["sum", "difference"]
    config = client.get_model_config("stock/network").config
    assert [list(i.dims) for i in config.input] == [[-1, -1], [-1, -1]]
    assert "stock/network" in [m.name for m in client.get_model_repository_index().models]
    a, b = (RNG.standard_normal((2, 3)).astype(np.float32) for _ in range(2))
    inputs = [triton.InferInput(name, [2, 3], "FP32") for name in "ba"]
    for tensor, array in zip(inputs, (b, a), strict=True):
        tensor.set_data_from_numpy(array)
    found = client.infer("stock/network", inputs)
    np.testing.assert_array_equal(found.as_numpy("sum"), a + b)
    np.testing.assert_array_equal(found.as_numpy("difference"), a - b)
    one = client.infer("stock/network", inputs, outputs=[triton.InferRequestedOutput("difference")])
    assert one.as_numpy("sum") is None
    np.testing.assert_array_equal(one.as_numpy("difference"), a - b)
    with pytest.raises(InferenceServerException, match="none called a"):
        client.infer("stock/network", inputs[:1])
    counts = client.get_inference_statistics("stock/network").model_stats[0].inference_stats
    assert (counts.success.count, counts.fail.count) == (2, 1)


def check_pixels_of_a_network(client):
    (image,) = client.get_model_metadata("stock/pixels").inputs
    assert (image.name, image.datatype, list(image.shape)) == ("image", "UINT8", [-1, 3, -1, -1])
    pixels = RNG.integers(0, 256, (2, 3, 9, 8), dtype=np.uint8)
    scaled = pixels / 255
    weight = np.random.default_rng(0).standard_normal((2, 3, 3, 3)).astype(np.float32)  # as `pixels_to_means` has it
    windows = np.lib.stride_tricks.sliding_window_view(scaled, (3, 3), (2, 3))
    tensor = triton.InferInput("image", list(pixels.shape), "UINT8")
    tensor.set_data_from_numpy(pixels)
    found = client.infer("stock/pixels", [tensor]).as_numpy("means")
    np.testing.assert_allclose(found, np.einsum("nchwij,mcij->nm", windows, weight) / 42, rtol=1e-5)


def check_a_network_in_shared_memory(client):
    a = RNG.standard_normal((4, 8)).astype(np.float32)
    region = shared_memory.create_shared_memory_region("net", "/stock_net", 2 * a.nbytes)
    try:
        shared_memory.set_shared_memory_region(region, [a])
        client.register_system_shared_memory("net", "/stock_net", 2 * a.nbytes)
        inputs = [triton.InferInput(name, list(a.shape), "FP32") for name in "ab"]
        for tensor in inputs:
            tensor.set_shared_memory("net", a.nbytes)
        wanted = triton.InferRequestedOutput("sum")
        wanted.set_shared_memory("net", a.nbytes, a.nbytes)
        client.infer("stock/network", inputs, outputs=[wanted])
        y = shared_memory.get_contents_as_numpy(region, np.float32, list(a.shape), offset=a.nbytes)
        np.testing.assert_array_equal(y, a + a)
        client.unregister_system_shared_memory("net")
    finally:
        shared_memory.destroy_shared_memory_region(region)


def check_infer(client):
    x = frame(2)
    result = client.infer(LAYER, [sent(x)], outputs=[triton.InferRequestedOutput("y")], request_id="seven")
    np.testing.assert_allclose(result.as_numpy("y"), 2 * x, rtol=1e-6)
    answer = result.get_response()
    assert (answer.model_name, answer.id) == (LAYER, "seven")
    assert client.infer(LAYER, [sent(x)], model_version=answer.model_version).as_numpy("y").shape == x.shape


def check_parameters(client):
    x = frame()
    result = client.infer(LAYER, [sent(x)], priority=3, timeout=10_000_000, parameters={"mine": "kept out"})
    np.testing.assert_allclose(result.as_numpy("y"), 2 * x, rtol=1e-6)


def check_async_infer(client):
    done = queue.Queue()
    x = frame()
    for _ in range(5):
        client.async_infer(LAYER, [sent(x)], lambda result, error: done.put((result, error)))
    for _ in range(5):
        result, error = done.get(timeout=60)
        assert error is None
        np.testing.assert_allclose(result.as_numpy("y"), 2 * x, rtol=1e-6)


def check_stream(client):
    """Answers in order; one that fails says so, and the stream goes on."""
    done = queue.Queue()
    client.start_stream(lambda result, error: done.put((result, error)))
    xs = [frame() for _ in range(4)]
    for i, x in enumerate(xs):
        client.async_stream_infer("stock/none" if i == 1 else LAYER, [sent(x)], request_id=str(i))
    client.async_stream_infer(LAYER, [sent(xs[0])], request_id="last", enable_empty_final_response=True)
    for i, x in enumerate(xs):
        result, error = done.get(timeout=60)
        if i == 1:
            assert "stock/none" in str(error)
            continue
        assert error is None
        assert result.get_response().id == str(i)
        np.testing.assert_allclose(result.as_numpy("y"), 2 * x, rtol=1e-6)
    result, error = done.get(timeout=60)
    assert error is None
    assert result.get_response().parameters["triton_final_response"].bool_param
    client.stop_stream()


def check_half_and_bfloat16(client):
    x = frame(dtype=np.float16)
    np.testing.assert_allclose(client.infer(HALF, [sent(x)]).as_numpy("y"), 2 * x, rtol=1e-3)
    x = frame(dtype=ml_dtypes.bfloat16)
    y = client.infer(BRAIN, [sent(x)]).as_numpy("y")
    np.testing.assert_allclose(np.asarray(y, np.float32), 2 * x.astype(np.float32), rtol=1e-2)


def check_integers(client):
    x = RNG.integers(-100, 100, (1, 3, 5, 4)).astype(np.int8)
    y = client.infer(BYTES, [sent(x)]).as_numpy("y")
    assert y.dtype == np.int32
    np.testing.assert_array_equal(y, 2 * x.astype(np.int32))
    u = RNG.integers(0, 255, (1, 3, 5, 4)).astype(np.uint8)
    np.testing.assert_array_equal(client.infer(BYTES, [sent(u)]).as_numpy("y"), 2 * u.astype(np.int32))


def check_errors(client):
    x = frame()

    def refused(code, part, *args, **kwargs):
        with pytest.raises(InferenceServerException) as caught:
            client.infer(*args, **kwargs)
        assert caught.value.status() == f"StatusCode.{code}"
        assert part in caught.value.message()

    refused("NOT_FOUND", "stock/none", "stock/none", [sent(x)])
    refused("NOT_FOUND", "version", LAYER, [sent(x)], model_version="999999")
    refused("INVALID_ARGUMENT", "channels", LAYER, [sent(x[:, :2])])
    refused("INVALID_ARGUMENT", "FP32", LAYER, [sent(x.astype(np.int64), datatype="INT64")])
    refused("INVALID_ARGUMENT", "expected FP32, the model's, got 'FP64'", LAYER, [sent(x.astype(np.float64))])
    refused("INVALID_ARGUMENT", "'z'", LAYER, [sent(x)], outputs=[triton.InferRequestedOutput("z")])
    refused("INVALID_ARGUMENT", "classification", LAYER, [sent(x)], outputs=[triton.InferRequestedOutput("y", 3)])
    refused("INVALID_ARGUMENT", "sequence_id", LAYER, [sent(x)], sequence_id=7)
    tensor = sent(x)
    tensor._raw_content = tensor._raw_content[:-4]
    refused("INVALID_ARGUMENT", "expected 240 bytes for input 'x' of shape [1,3,5,4] FP32, got 236", LAYER, [tensor])


def check_statistics(client):
    before = client.get_inference_statistics(LAYER).model_stats[0]
    for n in (1, 4, 4):
        client.infer(LAYER, [sent(frame(n))])
    after = client.get_inference_statistics(LAYER).model_stats[0]
    assert after.inference_count - before.inference_count == 9
    assert after.execution_count - before.execution_count == 3
    spent = after.inference_stats
    assert spent.success.count == after.execution_count
    parts = spent.queue.ns + spent.compute_input.ns + spent.compute_infer.ns + spent.compute_output.ns
    assert 0 < parts <= spent.success.ns
    assert {1, 4} <= {b.batch_size for b in after.batch_stats}
    assert LAYER in {m.name for m in client.get_inference_statistics().model_stats}


def check_repository(client):
    ready = {m.name: m.state for m in client.get_model_repository_index().models}
    assert ready[LAYER] == "READY"
    client.load_model(LAYER)
    client.unload_model("stock/leaves")
    assert not client.is_model_ready("stock/leaves")
    for call in (client.unload_model, client.load_model):
        with pytest.raises(InferenceServerException, match="stock/leaves") as caught:
            call("stock/leaves")
        assert caught.value.status() == "StatusCode.NOT_FOUND"


def check_settings_are_the_operators(client):
    for call in (
        lambda: client.update_trace_settings(settings={"trace_file": "/tmp/theirs"}),
        lambda: client.update_log_settings({"log_file": "/tmp/theirs"}),
    ):
        with pytest.raises(InferenceServerException, match="operator") as caught:
            call()
        assert caught.value.status() == "StatusCode.UNIMPLEMENTED"


def check_system_shared_memory(client):
    x = frame(3)
    region = shared_memory.create_shared_memory_region("stock", "/groupconv-test-stock", 4 * x.nbytes)
    try:
        shared_memory.set_shared_memory_region(region, [x], offset=8)
        client.register_system_shared_memory("stock", "/groupconv-test-stock", 4 * x.nbytes)
        status = client.get_system_shared_memory_status().regions["stock"]
        assert (status.key, status.byte_size) == ("/groupconv-test-stock", 4 * x.nbytes)
        tensor, wanted = sent(x, raw=False), triton.InferRequestedOutput("y")
        tensor.set_shared_memory("stock", x.nbytes, offset=8)
        # in place; elsewhere; unaligned; where the input is, which ends with y = 4 · x
        for offset in (0, 2 * x.nbytes, 2 * x.nbytes + 3, 8):
            wanted.set_shared_memory("stock", x.nbytes, offset=offset)
            shared_memory.set_shared_memory_region(region, [x], offset=8)
            answer = client.infer(LAYER, [tensor], outputs=[wanted])
            assert list(answer.get_response().raw_output_contents) == [b""]  # as Triton does; its C++ client needs it
            got = bytes(region._mpsm_handle.buf[offset : offset + x.nbytes])
            np.testing.assert_allclose(np.frombuffer(got, np.float32).reshape(x.shape), 2 * x, rtol=1e-6)
        client.unregister_system_shared_memory()
        assert "stock" not in client.get_system_shared_memory_status().regions
    finally:
        shared_memory.destroy_shared_memory_region(region)


def described():
    """Every message and enum of the stock protos: names, numbers, types and whether repeated."""

    def fields(message):
        return {
            f.name: [
                f.number,
                f.type,
                f.is_repeated,
                (f.message_type or f.enum_type or f).full_name * (f.type in (11, 14)),
            ]
            for f in message.fields
        }

    def walk(messages):
        for m in messages:
            yield m
            yield from walk(m.nested_types)

    files = (service_pb2.DESCRIPTOR, model_config_pb2.DESCRIPTOR)
    found = {m.full_name: fields(m) for file in files for m in walk(file.message_types_by_name.values())}
    service = service_pb2.DESCRIPTOR.services_by_name["GRPCInferenceService"]
    found["methods"] = {m.name: [m.input_type.full_name, m.output_type.full_name] for m in service.methods}
    return found


def main():
    with triton.InferenceServerClient(ADDRESS) as client:
        for name, check in list(globals().items()):
            if name.startswith("check_"):
                try:
                    check(client)
                except Exception:  # noqa: BLE001 - told to the test
                    print(json.dumps([name, traceback.format_exc()]), flush=True)
                else:
                    print(json.dumps([name, ""]), flush=True)
    print(json.dumps(["described", described()]), flush=True)


if __name__ == "__main__":
    main()
