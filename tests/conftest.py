"""Settings for every test."""

import gc
import logging
import os
from collections import defaultdict
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings

collect_ignore = [
    "integration/stock_triton.py",  # a program: its protos have the names of ours
    "emulation/device",  # where these are imported, CuPy is a stand-in: they are for other processes
    "emulation/process",
]
# Timing is never judged: the machine may be busy. Illegal combinations are drawn and dropped, by design.
settings.register_profile(
    "groupconv", deadline=None, suppress_health_check=[HealthCheck.filter_too_much, HealthCheck.too_slow]
)
settings.load_profile("groupconv")

# properties are drawn over more forms of kernels than a server may compile
os.environ.setdefault("GROUPCONV_KERNEL_FORMS", "100000")
# tests leave no processor idle, and some wait for what is compiled
os.environ.setdefault("GROUPCONV_COMPILER_NICE", "19")


@pytest.hookimpl(wrapper=True)
def pytest_collection():
    """Collect without the collector of cycles, which takes a third of that time: what was imported stays.

    It is left out afterwards, too.
    """
    gc.disable()
    try:
        return (yield)
    finally:
        gc.freeze()
        gc.enable()


@pytest.hookimpl(tryfirst=True)  # before pytest-xdist, which reads the groups
def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]):
    """With several processes (--dist loadgroup) one has all tests of Ray, and has them first; files stay together.

    Ray forks, and a process that has other threads by then may hang in its child. Next come the files whose tests may
    take longest, then those of the workers, so that the processes end at about the same time.
    """
    longest = defaultdict[Path, float](float)
    for item in items:
        if config.pluginmanager.hasplugin("xdist"):  # whose marker is not known without it
            item.add_marker(pytest.mark.xdist_group("ray" if item.get_closest_marker("ray") else item.path.name))
        if limit := item.get_closest_marker("timeout"):
            longest[item.path] = max(longest[item.path], limit.args[0])
    items.sort(
        key=lambda item: (
            item.get_closest_marker("ray") is None,
            -longest[item.path],
            "/worker/" not in str(item.path),
        )
    )


@pytest.fixture(autouse=True)
def log_handlers():
    """A command that runs inside a test writes its log to a stream that ends with the test."""
    before = list(logging.root.handlers)
    yield
    for handler in logging.root.handlers[:]:
        if type(handler) is logging.StreamHandler and handler not in before:
            logging.root.removeHandler(handler)


@pytest.fixture
def without_collector():
    """What nobody needs any more is gone at once, or never: the collector of cycles does not run."""
    gc.collect()
    gc.disable()
    yield
    gc.enable()


@pytest.fixture(scope="session")
def server():
    """A server with two local workers on a free loopback port."""
    from groupconv_server.config import Config
    from groupconv_server.coordinator.limits import Limits
    from groupconv_server.server import Server

    limits = Limits(message_bytes=8 * 2**20, tensor_bytes=16 * 2**20)
    with Server(Config(port=0, executor="local", workers=2, threads=1, limits=limits)) as server:
        server.background.wait()  # plans are the same from here on, and workers run what tests send
        yield server


@pytest.fixture(scope="session")
def client(server):
    """The real client of that server."""
    import groupconv

    with groupconv.connect(server.address, timeout=60) as client:
        yield client


@pytest.fixture(scope="session")
def ray_executor():
    """Two Ray actors on a cluster of this machine, shared by every test marked ray."""
    from groupconv_server.executors import create_executor

    executor = create_executor("ray", workers=2, threads=1, engine="reference")
    yield executor
    executor.close()


os.environ["GROUPCONV_TUNE"] = "off"  # no test depends on a measurement, or writes to the user's cache
