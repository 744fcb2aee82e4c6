"""A server of one process whose device is lost: it says so and refuses, rather than fail every request for ever."""

import logging

import numpy as np
import pytest

import groupconv
from emulation import needs_compiler
from groupconv.errors import UnavailableError
from groupconv_server.config import Config
from groupconv_server.server import Server

pytestmark = needs_compiler


def test_a_server_whose_device_is_lost_leaves_serving(cupy, caplog: pytest.LogCaptureFixture):
    x, w = np.ones((1, 2, 6, 6), np.float32), np.ones((2, 2, 3, 3), np.float32)
    with (
        Server(Config(port=0, executor="local", threads=1, engine="cuda")) as server,
        groupconv.connect(server.address, timeout=60) as client,
    ):
        assert client.conv2d(x, w).max() == 18
        assert client.status().state == "SERVING"
        (worker,) = server.executor._workers.values()

        def launch(*_, **__):
            raise cupy.cuda.runtime.CUDARuntimeError(700)

        worker.runtime.engine._device.kernels.launch = launch
        with caplog.at_level(logging.ERROR), pytest.raises(UnavailableError, match="cudaError700"):
            client.conv2d(x, w)
        del worker.runtime.engine._device.kernels.launch  # it would work again, with nobody knows what in its memory
        with pytest.raises(UnavailableError, match="started again"):
            client.conv2d(x, w)
        status = client.status()
        assert status.state == "NOT_SERVING"
        assert "cudaError700" in status.trouble
        assert not status.workers
    assert len([r for r in caplog.records if "started again" in r.message]) == 1
