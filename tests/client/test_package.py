"""What `import groupconv` brings, and the names users may rely on."""

import dataclasses
import inspect
import subprocess
import sys
from importlib.util import find_spec

import pytest

import groupconv
from groupconv import errors
from groupconv.options import StreamConv, Streaming
from groupconv.streaming.stream import transfer
from groupconv.transport.channel import Opening


def test_importing_the_client_brings_no_engine_and_no_cluster():
    heavy = "('ray', 'cupy', 'numba', 'onnxruntime', 'scipy')"
    code = f"import sys, groupconv; print([m for m in {heavy} if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


@pytest.mark.skipif(find_spec("ray") is None, reason="only the SDK is installed")
def test_the_server_brings_ray_only_when_asked():
    code = "import sys, groupconv_server.server; print([m for m in ('ray', 'cupy') if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_the_public_names_are_these():
    assert sorted(groupconv.__all__) == groupconv.__all__
    assert set(groupconv.__all__) == {
        "Activation", "AsyncLayer", "AsyncNetwork", "Client", "ConvSpec", "Geometry", "GroupconvError", "Layer",
        "LayerInfo", "Network", "NetworkInfo", "NetworkPlan", "NetworkResult", "NetworkState", "Plan", "RawArray",
        "Report", "Result", "Step", "TensorInfo", "aio", "connect", "create_npy", "open_npy", "receptive_field",
        "resolve",
    }  # fmt: skip


def test_the_awaiting_client_has_the_methods_of_the_blocking_one_with_the_same_parameters():
    def methods(client):
        public = {name: m for name, m in inspect.getmembers(client, inspect.isfunction) if not name.startswith("_")}
        return {name: list(inspect.signature(m).parameters.values()) for name, m in public.items()}

    assert methods(groupconv.Client) == methods(groupconv.aio.Client)


def test_keywords_that_are_passed_on_are_those_of_whom_they_are_passed_to():
    def keywords(function):
        return {p.name for p in inspect.signature(function).parameters.values() if p.kind is p.KEYWORD_ONLY}

    assert keywords(groupconv.connect) == keywords(groupconv.aio.connect) | set(Opening.__annotations__)
    assert keywords(transfer) == set(Streaming.__annotations__)
    spec = {field.name for field in dataclasses.fields(groupconv.ConvSpec)}
    assert set(StreamConv.__annotations__) == spec | set(Streaming.__annotations__)


def test_every_grpc_status_has_its_exception():
    import grpc

    assert set(errors.BY_STATUS) == {code.name for code in grpc.StatusCode} - {"OK"}
