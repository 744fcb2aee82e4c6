"""With JSON logs every line is JSON, whoever writes it: from the start of real processes to their end."""

import json
import os
import signal
import socket
import ssl
import subprocess
import sys
from pathlib import Path

import grpc
import pytest
import trustme

from clusters import GROUPCONV, Cluster
from groupconv_server.telemetry.foreign_lines import as_json

CRASHING = """
import faulthandler, logging, os, subprocess, sys, threading, warnings
from groupconv_server.telemetry import logs

logs.configure("json", "INFO")
print("printed", flush=True)
logging.getLogger("mine").info("logged")
warnings.warn("warned")
thread = threading.Thread(target=lambda: 1 / 0, name="divider")
thread.start()
thread.join()
class Broken:
    def __del__(self):
        raise ValueError("destroyed")
Broken()
os.write(2, b"E0000 00:00:1.2 ssl.cc:17] of gRPC core\\n\\n\\x1b[31mred\\x1b[0m \\xff\\n")
os.write(2, b"x" * 200_000 + b"\\n")
subprocess.run(["sh", "-c", "echo of a child; echo of its error >&2"])
for _ in range(20):  # both are longer than a pipe takes at once, and neither is cut by the other
    os.write(2, b"x" * 10_000 + b"\\n")
    logging.getLogger("mine").info("z" * 100_000)
if "uncaught" in sys.argv:
    raise RuntimeError("of the main thread")
faulthandler._sigsegv()
"""


def parsed(*texts):
    """The objects of all lines."""
    return [json.loads(line) for text in texts for line in text.splitlines()]


@pytest.mark.parametrize("end", ["crash", "uncaught"])
def test_whatever_a_process_writes_comes_as_json(end):
    command = [sys.executable, "-c", CRASHING, end]
    done = subprocess.run(command, capture_output=True, timeout=60, check=False)
    assert done.returncode == (1 if end == "uncaught" else -signal.SIGSEGV)
    lines = parsed(done.stdout.decode(), done.stderr.decode())
    levels = {line["event"]: line["level"] for line in lines}
    assert (
        levels.items()
        >= {
            "printed": "info",
            "logged": "info",
            "E0000 00:00:1.2 ssl.cc:17] of gRPC core": "error",
            "red \ufffd": "warning",
            "of a child": "info",
            "of its error": "warning",
            "uncaught exception in thread divider": "error",
        }.items()
    )
    text = json.dumps(lines)
    assert "UserWarning: warned" in text
    assert "ZeroDivisionError" in text
    assert "ValueError: destroyed" in text
    assert sum(len(line["event"]) for line in lines if set(line["event"]) == {"x"}) == 400_000
    assert sum(line["event"] == "z" * 100_000 for line in lines) == 20
    if end == "uncaught":
        assert levels["uncaught exception"] == "critical"
        assert "of the main thread" in text
    else:  # the process that makes JSON outlives the crash
        assert levels["Fatal Python error: Segmentation fault"] == "critical"
        assert "most recent call first" in text


def test_another_command_runs_so_and_its_exit_status_stays():
    """As deploy/coordinator starts Ray's head."""
    command = [sys.executable, "-m", "groupconv_server.telemetry.foreign_lines", "sh", "-c", "echo said; exit 3"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 3
    assert [line["event"] for line in parsed(done.stdout, done.stderr)] == ["said"]


def test_a_line_that_only_begins_like_json_is_wrapped():
    assert json.loads(as_json('{"event": ', "stdout"))["event"] == '{"event": '


def test_every_line_of_a_server_is_json(tmp_path):
    authority = trustme.CA()
    certificate = authority.issue_cert("localhost")
    certificate.private_key_pem.write_to_path(str(tmp_path / "key.pem"))
    certificate.cert_chain_pems[0].write_to_path(str(tmp_path / "cert.pem"))
    options = ["--port", "0", "--engine", "reference", "--log-format", "json"]
    options += ["--tls-cert", str(tmp_path / "cert.pem"), "--tls-key", str(tmp_path / "key.pem")]
    process = subprocess.Popen(
        [*GROUPCONV, "serve", *options],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=os.environ | {"GRPC_VERBOSITY": "INFO", "GROUPCONV_LOG_LEVEL": "DEBUG"},
    )
    ready = process.stdout.readline()
    address = json.loads(ready)["address"]
    host, port = address.rsplit(":", 1)
    for junk in (b"GET / HTTP/1.1\r\n\r\n", b"\x16\x03\x01\x00\x05hello"):  # no handshake
        with socket.create_connection((host, int(port)), timeout=30) as connection:
            connection.sendall(junk)
            connection.recv(100)
    with pytest.raises(ssl.SSLError):  # a handshake that the client ends
        ssl.create_default_context().wrap_socket(
            socket.create_connection((host, int(port))), server_hostname="localhost"
        )
    credentials = grpc.ssl_channel_credentials(authority.cert_pem.bytes())
    options = [("grpc.ssl_target_name_override", "localhost")]
    with grpc.secure_channel(address, credentials, options) as channel:
        for method in ("/groupconv.v1.ConvolutionService/Convolve", "/made.up/Name"):
            with pytest.raises(grpc.RpcError):
                channel.unary_unary(method)(b"\xff\xff", timeout=30)
    process.send_signal(signal.SIGTERM)
    out, err = process.communicate(timeout=60)
    assert process.returncode == 0
    lines = parsed(ready, out, err)
    assert any(line["logger"] == "stderr" and "ssl" in line["event"] for line in lines)  # gRPC core's
    assert {"groupconv.audit", "groupconv_server.process"} <= {line["logger"] for line in lines}
    assert all({"event", "level", "timestamp"} <= line.keys() for line in lines)


@pytest.mark.ray
@pytest.mark.slow
def test_every_line_of_a_cluster_is_json():
    with Cluster() as cluster:
        node = cluster.add(GROUPCONV_LOG_FORMAT="json")
        with cluster.serving("--log-format", "json") as (process, address):
            with grpc.insecure_channel(address) as channel, pytest.raises(grpc.RpcError):
                channel.unary_unary("/groupconv.v1.ConvolutionService/Convolve")(b"\xff\xff", timeout=30)
            node.send_signal(signal.SIGTERM)
            node.wait(60)
            process.send_signal(signal.SIGTERM)
            assert process.wait(60) == 0
            rest = process.stdout.read()
        texts = [Path(cluster.folder, name).read_text() for name in ("node-0.log", "server.log")]
    lines = [parsed(text) for text in texts]
    assert any("Ray runtime started" in line["event"] for line in lines[0])
    assert any(line["logger"] == "groupconv.audit" for line in lines[1])
    parsed(rest)  # raises if a line is not JSON
