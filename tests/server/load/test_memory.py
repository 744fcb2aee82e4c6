"""The server's memory, from its metrics."""

import time

import numpy as np
import pytest

import groupconv
from groupconv_server.config import Config
from groupconv_server.load.drive import Load
from groupconv_server.load.memory import MemoryProbe, growth
from groupconv_server.load.profile import Profile
from groupconv_server.server import Server

LAYER = "mobilenet_dw_14"


def profile(**fields):
    return Profile.model_validate({"users": 2, "seconds": 0.5, "verify": 1, "mix": [{"layer": LAYER}], **fields})


def test_the_memory_of_a_server_is_watched():
    with Server(Config(port=0, metrics_port=0, executor="local", workers=1, threads=1)) as server:
        memory = MemoryProbe(server.metrics_url, every=0.1)
        loaded = Load(profile(), lambda: groupconv.connect(server.address), target=server.address, memory=memory)
        start = time.perf_counter()
        outcome = loaded.run()
        took = time.perf_counter() - start
    at, size = np.array(outcome.memory).T
    assert 0 <= at[0] <= at[-1] <= took
    assert (size > 1e7).all()


def test_memory_needs_a_url_and_grows_as_its_line_does():
    with pytest.raises(ValueError, match="expected a URL"):
        MemoryProbe("localhost:9464")
    assert growth([(float(t), 1000.0 + 7 * t) for t in range(20)]) == pytest.approx(7)
    assert np.isnan(growth([]))
