"""A short run of the fuzzers; `make fuzz` and the slow test run them for longer."""

from dataclasses import replace

import pytest

from fuzzing import decoders, extremes, live
from groupconv_server.config import Config
from groupconv_server.coordinator.limits import Limits
from groupconv_server.server import Server


@pytest.fixture
def served(tmp_path):
    """A server that must have given everything back."""
    limits = Limits(message_bytes=2**20, tensor_bytes=2**22, stream_bytes=2**20, stream_idle_seconds=2)
    config = Config(port=0, executor="local", workers=2, threads=1, limits=limits, layer_bytes=2**20)
    with Server(replace(config, layer_dir=tmp_path, shared_memory=True)) as server:
        yield server
        assert server.streams.budget.wait_until_free(10)
        assert server.layers.bytes == 0
        assert server._gate.close(10)
        assert server._gate.nbytes == 0


def test_broken_messages_are_refused_by_every_decoder():
    tally = decoders.run(35_000)
    assert sum(sum(ended.values()) for ended in tally.values()) >= 35_000
    assert set(tally) == set(decoders.targets())
    for name, ended in tally.items():
        assert ended.get("taken", 0), name  # the mutations leave some right
        assert name == "chunk" or len(ended) > 1, name  # and make some wrong


def test_a_live_server_refuses_them_and_goes_on(served):
    tally = live.run(served.address, 1_200)
    assert sum(sum(ended.values()) for ended in tally.values()) == 1_200


@pytest.mark.slow
def test_more_broken_messages(served):
    decoders.run(400_000, 1)
    live.run(served.address, 5_000, 1)


def test_requests_of_extreme_parameters_cost_what_they_say():
    found = extremes.run(150)
    assert found.ended["OK"] > 50


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_more_requests_of_extreme_parameters():
    found = extremes.run(3_000, 1)
    assert found.ended["OK"] > 1_200
