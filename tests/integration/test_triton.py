"""The stock tritonclient, unmodified, against a real server."""

import json
import re
import subprocess
import sys
from pathlib import Path

import ml_dtypes
import numpy as np
import pytest
from networks import pixels_to_means, sum_and_difference

import groupconv
from groupconv import ConvSpec
from groupconv_server.config import Config
from groupconv_server.inference.v2 import (
    infer_pb2,
    model_pb2,
    repository_pb2,
    service_pb2,
    shared_memory_pb2,
    statistics_pb2,
)
from groupconv_server.server import Server

STOCK = Path(__file__).with_name("stock_triton.py")
CHECKS = re.findall(r"^def (check_\w+)", STOCK.read_text(), re.MULTILINE)
FILES = (infer_pb2, model_pb2, repository_pb2, service_pb2, shared_memory_pb2, statistics_pb2)


@pytest.fixture(scope="module")
def outcomes():
    """What each check of the other process came to."""
    config = Config(port=0, executor="local", threads=1, engine="reference", shared_memory=True)
    with Server(config) as server, groupconv.connect(server.address, timeout=60) as client:
        layers = {
            "scale": np.float32,
            "leaves": np.float32,
            "half": np.float16,
            "brain": ml_dtypes.bfloat16,
            "bytes": np.int8,
        }
        for name, dtype in layers.items():
            client.load_layer(f"stock/{name}", np.full((3, 1, 1, 1), 2, dtype), spec=ConvSpec(groups=3))
        client.load_network("stock/network", sum_and_difference())
        client.load_network("stock/pixels", pixels_to_means())
        done = subprocess.run(
            [sys.executable, STOCK, server.address], capture_output=True, text=True, timeout=120, check=False
        )
    assert done.returncode == 0, done.stderr
    return dict(map(json.loads, done.stdout.splitlines()))


@pytest.mark.parametrize("check", CHECKS)
def test_stock(outcomes, check):
    assert not outcomes[check], outcomes[check]


def walk(messages):
    for message in messages:
        yield message
        yield from walk(message.nested_types)


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.__name__.rpartition(".")[2])
def test_every_field_has_the_protocols_name_number_and_type(outcomes, file):
    theirs = outcomes["described"]
    for message in walk(file.DESCRIPTOR.message_types_by_name.values()):
        for f in message.fields:
            kind = (f.message_type or f.enum_type or f).full_name * (f.type in (11, 14))
            ours = [f.number, f.type, f.is_repeated, kind]
            assert ours == theirs[message.full_name][f.name], f.full_name


def test_every_method_is_there(outcomes):
    service = service_pb2.DESCRIPTOR.services_by_name["GRPCInferenceService"]
    ours = {m.name: [m.input_type.full_name, m.output_type.full_name] for m in service.methods}
    assert ours == outcomes["described"]["methods"]
