"""Log lines of a real `groupconv serve`: ids of requests, and the audit."""

import io
import json
import logging
import os
import queue
import re
import signal
import subprocess
import sys
import threading

import grpc
import numpy as np
import pytest
from google.rpc import error_details_pb2
from grpc_status import rpc_status

import groupconv
from groupconv.errors import InvalidArgumentError
from groupconv.v1 import convolution_pb2
from groupconv.wire.tensors import type_to_wire
from groupconv_server.telemetry import logs
from groupconv_server.telemetry.request import Request, current
from groupconv_server.telemetry.requests import Requests
from groupconv_server.telemetry.traces import Traces

CONVOLVE = "/groupconv.v1.ConvolutionService/Convolve"
GET_LAYER = "/groupconv.v1.LayerService/GetLayer"
LOAD_LAYER = "/groupconv.v1.LayerService/LoadLayer"
STREAM = "/groupconv.v1.StreamService/ConvolveStream"
REFUSALS = {
    "no protobuf": (CONVOLVE, [b"\xff\xff"], "INVALID_ARGUMENT"),
    "an empty request": (CONVOLVE, [b""], "INVALID_ARGUMENT"),
    "over the message limit": (CONVOLVE, [bytes(2**20 + 1)], "RESOURCE_EXHAUSTED"),
    "no such layer": (GET_LAYER, [b"\x0a\x01a"], "NOT_FOUND"),
    "a layer of junk": (LOAD_LAYER, [b"\xff"], "INVALID_ARGUMENT"),
    "a stream of junk": (STREAM, [b"\xff\xff"], "INVALID_ARGUMENT"),
    "a stream of nothing": (STREAM, [], "INVALID_ARGUMENT"),
    "no such method": ("/made.up/Name", [b""], "UNIMPLEMENTED"),
}


class Served:
    """`groupconv serve` with JSON logs."""

    def __init__(self) -> None:
        options = ["--port", "0", "--engine", "reference", "--max-message-mib", "1"]
        command = [sys.executable, "-m", "groupconv_server", "serve", *options, "--log-format", "json"]
        env = os.environ | {"GROUPCONV_LOG_LEVEL": "DEBUG"}
        self.process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=env)
        self.address = json.loads(self.process.stdout.readline())["address"]
        self.lines: queue.Queue[str] = queue.Queue()
        self.reader = threading.Thread(target=lambda: [self.lines.put(line) for line in self.process.stderr])
        self.reader.start()

    def line(self, **fields) -> dict:
        """The next line with these fields; every line is JSON."""
        while True:
            line = json.loads(self.lines.get(timeout=30))
            if fields.items() <= line.items():
                return line

    def end(self) -> int:
        """Its exit code."""
        self.process.send_signal(signal.SIGTERM)
        code = self.process.wait(timeout=30)
        self.reader.join()
        self.process.stdout.close()
        self.process.stderr.close()
        return code


@pytest.fixture(scope="module")
def served():
    served = Served()
    yield served
    assert served.end() == 0
    while not served.lines.empty():
        json.loads(served.lines.get())


@pytest.fixture
def channel(served):
    with grpc.insecure_channel(served.address) as channel:
        yield channel


@pytest.mark.parametrize("case", REFUSALS)
def test_every_refusal_has_a_line_in_the_audit(served, channel, case):
    method, messages, code = REFUSALS[case]
    metadata = [("x-request-id", f"case-{len(case)}")]
    with pytest.raises(grpc.RpcError) as caught:
        list(channel.stream_stream(method)(iter(messages), timeout=30, metadata=metadata))
    line = served.line(logger="groupconv.audit", request_id=f"case-{len(case)}")
    assert (line["event"], line["level"], line["code"]) == ("request refused", "warning", code)
    assert line["method"] == ("unknown" if code == "UNIMPLEMENTED" else method)
    assert line["seconds"] >= 0
    if case == "over the message limit":
        assert line["reason"].startswith("message: over the limit of its size")
        return  # gRPC answered it, in its own words
    assert line["peer"].startswith("ipv4:127.0.0.1:")
    assert line["reason"] == caught.value.details()
    assert caught.value.code().name == code
    assert ("x-request-id", f"case-{len(case)}") in list(caught.value.trailing_metadata())


def test_the_audit_names_the_field_and_never_the_data(served):
    request = convolution_pb2.PlanConvolutionRequest(input=type_to_wire(np.dtype("float32"), (1, 4, 8, 8)))
    request.steps.add(kernel=type_to_wire(np.dtype("float32"), (8, 3, 3, 3)))
    with groupconv.connect(served.address) as client, pytest.raises(InvalidArgumentError) as caught:
        client._call(client._unary("/groupconv.v1.ConvolutionService/PlanConvolution"), request.SerializeToString(), 30)
    line = served.line(event="request refused", code="INVALID_ARGUMENT", request_id=caught.value.request_id)
    assert line["field"] == caught.value.field == "steps[0].kernel.shape[1]"


def test_an_error_carries_the_id_in_its_details(served, channel):
    with pytest.raises(grpc.RpcError) as caught:
        channel.unary_unary(GET_LAYER)(b"\x0a\x01a", metadata=[("x-request-id", "mine")])
    info = error_details_pb2.RequestInfo()
    assert any(detail.Unpack(info) for detail in rpc_status.from_call(caught.value).details)
    assert info.request_id == "mine"


def test_an_answer_brings_its_id_and_has_a_line_at_debug(served, channel):
    _, call = channel.unary_unary("/groupconv.v1.ClusterService/GetCluster").with_call(b"")
    (found,) = [value for key, value in call.trailing_metadata() if key == "x-request-id"]
    line = served.line(event="request done", request_id=found)
    assert line["method"] == "/groupconv.v1.ClusterService/GetCluster"


@pytest.mark.parametrize("given", ["two words", "x" * 129, "", "semi;colon"])
def test_an_id_that_cannot_be_logged_is_replaced(served, channel, given):
    metadata = [("x-request-id", given)]
    _, call = channel.unary_unary("/groupconv.v1.ClusterService/GetCluster").with_call(b"", metadata=metadata)
    (found,) = [value for key, value in call.trailing_metadata() if key == "x-request-id"]
    assert re.fullmatch(r"[0-9a-f]{12}-[0-9a-f]+", found)


def test_the_command_line_names_the_request(served):
    too_large = ["--input", "1,64,512,512", "--kernel", "64,64,1,1"]
    command = [sys.executable, "-m", "groupconv_server", "plan", *too_large, "--target", served.address]
    (line,) = subprocess.run(command, capture_output=True, text=True, check=False).stderr.splitlines()
    (found,) = re.findall(r" \(request (\S+)\)$", line)
    served.line(event="request refused", code="RESOURCE_EXHAUSTED", request_id=found)


@pytest.fixture
def restored():
    """The logging of the process as it was."""
    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level
    yield
    root.handlers[:] = handlers
    root.setLevel(level)


@pytest.mark.parametrize("form", logs.FORMATS)
def test_what_callers_send_stays_on_its_line(restored, form):
    stream = io.StringIO()
    logs.configure(form, "info", stream)
    logging.getLogger("x").warning("refused", extra={"reason": "a\nforged line \x1b[2J"})
    (line,) = stream.getvalue().splitlines()
    assert "\x1b" not in line
    assert "forged line" in line


@pytest.mark.parametrize("form", logs.FORMATS)
def test_a_defect_is_logged_without_the_data_it_met(restored, form):
    stream = io.StringIO()
    logs.configure(form, "INFO", stream)
    pixel = "a caller's pixel"
    try:
        raise RuntimeError("a defect")  # noqa: TRY301
    except RuntimeError:
        logging.getLogger("groupconv").exception("it failed")
    assert "a defect" in stream.getvalue()
    assert pixel not in stream.getvalue()


def test_a_line_has_the_request_it_is_about(restored):
    stream = io.StringIO()
    logs.configure("json", "info", stream)
    token = current.set(Request("/x/Y", [("x-request-id", "mine")], Requests((1.0,)).of("x/Y"), Traces()))
    try:
        try:
            raise ValueError("a defect")  # noqa: TRY301
        except ValueError:
            logging.getLogger("x").exception("%s failed", "it")
    finally:
        current.reset(token)
    line = json.loads(stream.getvalue())
    assert (line["event"], line["request_id"], line["level"]) == ("it failed", "mine", "error")
    assert "ValueError: a defect" in line["exception"]


@pytest.mark.parametrize(("form", "level", "field"), [("xml", "INFO", "log_format"), ("json", "LOUD", "log_level")])
def test_an_unknown_form_or_level_is_refused(form, level, field):
    with pytest.raises(InvalidArgumentError) as caught:
        logs.configure(form, level)
    assert caught.value.field == field
