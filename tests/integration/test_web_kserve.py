"""KServe's REST protocol on the web port: JSON, binary tensors, errors, and the same answers as over gRPC."""

import json

import numpy as np
import pytest

import groupconv
from groupconv_server.access.rates import CallerLimits
from groupconv_server.access.tokens import entry_text
from groupconv_server.config import Config
from groupconv_server.server import Server
from web_calls import SMALL, TOKEN, http_call

LENGTH = "inference-header-content-length"
X = np.random.default_rng(0).random((1, 2, 6), np.float32)
W = np.random.default_rng(1).random((3, 2, 3), np.float32)


@pytest.fixture(scope="module")
def served():
    with Server(Config(**SMALL)) as server, groupconv.connect(server.address) as client:
        client.load_layer("edge/conv1", W)
        yield server, client.conv1d(X, W)


def rest(server, path, body=None, method=None, **headers):
    """Status, headers and parsed JSON."""
    status, got, content = http_call(server, path, body, method or ("GET" if body is None else "POST"), **headers)
    return status, got, json.loads(content)


def request(**changes):
    """A request in JSON."""
    x = {"name": "x", "datatype": "FP32", "shape": [1, 2, 6], "data": X.tolist()} | changes
    return json.dumps({"id": "7", "inputs": [{k: v for k, v in x.items() if v is not None}]}).encode()


def test_health_and_metadata(served):
    server, _ = served
    assert rest(server, "/v2/health/live")[::2] == (200, {"live": True})
    assert rest(server, "/v2/health/ready")[::2] == (200, {"ready": True})
    assert "binary_tensor_data" in rest(server, "/v2")[2]["extensions"]
    assert rest(server, "/v2/models/edge/conv1/ready")[0] == 200
    assert rest(server, "/v2/models/nobody/ready")[0] == 503
    model = rest(server, "/v2/models/edge/conv1")[2]
    assert model["inputs"] == [{"name": "x", "datatype": "FP32", "shape": [-1, 2, -1]}]
    version = model["versions"][0]
    assert rest(server, f"/v2/models/edge/conv1/versions/{version}")[2]["name"] == "edge/conv1"
    assert rest(server, f"/v2/models/edge/conv1/versions/{version}9/ready")[0] == 503


@pytest.mark.parametrize("version", ["9" * 400, "1.5", "-1", "one"])
def test_a_version_that_cannot_be_is_refused_with_the_reason(served, version):
    server, _ = served
    for path, body in (("", None), ("/ready", None), ("/infer", request())):
        status, _, answer = rest(server, f"/v2/models/edge/conv1/versions/{version}{path}", body)
        assert status == 400
        assert answer["error"].startswith("model_version: expected a number of at most 18 digits, got ")


@pytest.mark.parametrize("data", [X.tolist(), X.ravel().tolist()], ids=["nested", "flat"])
def test_inference_in_json(served, data):
    server, expected = served
    status, headers, answer = rest(server, "/v2/models/edge/conv1/infer", request(data=data))
    assert (status, answer["id"]) == (200, "7")
    assert headers["x-request-id"]
    (y,) = answer["outputs"]
    assert (y["name"], y["shape"]) == ("y", list(expected.shape))
    np.testing.assert_array_equal(np.float32(y["data"]).reshape(y["shape"]), expected)


def test_inference_with_binary_tensors(served):
    server, expected = served
    x = {"name": "x", "datatype": "FP32", "shape": [1, 2, 6], "parameters": {"binary_data_size": X.nbytes}}
    text = json.dumps({"inputs": [x], "outputs": [{"name": "y", "parameters": {"binary_data": True}}]}).encode()
    body = text + X.tobytes()
    headers = {LENGTH.replace("-", "_"): str(len(text))}
    status, got, content = http_call(server, "/v2/models/edge/conv1/infer", body, **headers)
    assert status == 200
    (y,) = json.loads(content[: int(got[LENGTH])])["outputs"]
    assert y["parameters"] == {"binary_data_size": expected.nbytes}
    assert content[int(got[LENGTH]) :] == expected.tobytes()


@pytest.mark.parametrize(
    ("body", "field"),
    [
        (b"{", "body"),
        (b"[" * 100_000, "body"),
        (b"[]", "body"),
        (b"{}", "inputs"),
        (b'{"inputs": [3]}', "inputs[0]"),
        (request(datatype="FP8"), "inputs[0].datatype"),
        (request(shape="no"), "inputs[0].shape"),
        (request(shape=[1, 2.5, 6]), "inputs[0].shape"),
        (request(data=[[1], [2, 3]]), "inputs[0].data"),
        (request(data=None), "inputs[0].data"),
        (request(data=[1.0]), "raw_input_contents[0]"),
        (request(parameters={"binary_data_size": 9}), "inputs[0].parameters.binary_data_size"),
        (request(parameters={"what": []}), "inputs[0].parameters.what"),
        (request(parameters={"shared_memory_region": "a"}), "inputs[0].parameters.shared_memory_region"),
        (b" " * (4 * 2**20 + 1), "body"),
        (b'{"id": "\\ud800", "inputs": []}', "body"),
        (b'{"inputs": [], "outputs": [{"name": "y", "parameters": 3}]}', "outputs[0].parameters"),
        (
            b'{"inputs": [], "outputs": [{"name": "y", "parameters": {"shared_memory_region": "a"}}]}',
            "outputs[0].parameters.shared_memory_region",
        ),
    ],
)
def test_a_wrong_request_names_its_field(served, body, field):
    status, _, answer = rest(served[0], "/v2/models/edge/conv1/infer", body)
    assert (status, answer["error"].partition(":")[0]) == (400, field)


@pytest.mark.parametrize("length", ["-1", "x", "4096", "9" * 5000])
def test_a_wrong_length_of_the_json_is_named(served, length):
    headers = {LENGTH.replace("-", "_"): length}
    status, _, answer = rest(served[0], "/v2/models/edge/conv1/infer", request(), **headers)
    assert (status, answer["error"].partition(":")[0]) == (400, LENGTH)


def test_an_unknown_model_is_not_found(served):
    assert rest(served[0], "/v2/models/nobody/infer", request())[0] == 404


def test_a_token_is_needed(tmp_path):
    path = tmp_path / "tokens.toml"
    path.write_text(entry_text("alice", TOKEN, CallerLimits()))
    with Server(Config(**SMALL, tokens=path)) as server:
        for target, body in (("/v2/health/ready", None), ("/v2/models/edge/infer", request())):
            status, _, answer = rest(server, target, body)
            assert (status, "token" in answer["error"]) == (401, True)
        assert rest(server, "/v2/health/ready", authorization=f"Bearer {TOKEN}")[0] == 200


@pytest.mark.parametrize(
    ("datatype", "value", "got"),
    [
        ("FP32", None, "null"),
        ("FP32", "1", "text"),
        ("FP32", True, "true or false"),
        ("INT8", 1.5, "1.5"),
        ("UINT8", 300, "300"),
        ("BOOL", 2, "2"),
        ("INT64", 2**70, "too large"),
    ],
)
def test_values_that_a_datatype_does_not_hold_are_refused(served, datatype, value, got):
    body = request(datatype=datatype, data=[value] * 12)
    status, _, answer = rest(served[0], "/v2/models/edge/conv1/infer", body)
    assert status == 400
    assert f"inputs[0].data: expected numbers of {datatype}, flat or nested, got" in answer["error"]
    assert got in answer["error"]
