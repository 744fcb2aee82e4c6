"""The examples in the docstrings of the client's functions run, and give the shapes that their comments say."""

import inspect
import re
import textwrap

import numpy as np
import pytest

import groupconv
from groupconv.convolutions import Convolutions
from groupconv_server.server import Config, Server

EXAMPLE = re.compile(r"^Example:\n((?:    .*\n?|\n)+)", re.MULTILINE)
FUNCTIONS = [*vars(Convolutions).values(), groupconv.Client.run, groupconv.Client.stream_conv2d]


def example(function):
    """The code of a docstring's example."""
    found = EXAMPLE.search(inspect.getdoc(function) or "")
    return textwrap.dedent(found[1]) if found else ""


FOUND = {function.__name__: example(function) for function in FUNCTIONS if inspect.isfunction(function)}


@pytest.fixture(scope="module")
def client():
    with Server(Config(port=0, workers=1, engine="reference")) as server, groupconv.connect(server.address) as client:
        yield client


@pytest.mark.parametrize("name", [name for name, code in FOUND.items() if code])
def test_it_runs(client, name, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    np.save("huge.npy", np.ones((1, 40, 30), np.float32))
    names = {"np": np, "groupconv": groupconv, "client": client}
    exec(FOUND[name], names)
    if said := re.search(r"# (\([\d, ]+\))\n*$", FOUND[name]):
        assert str(names["y"].shape) == said[1]


def test_the_named_kinds_have_one():
    kinds = ("conv2d", "conv_transpose2d", "pointwise_conv2d", "depthwise_conv2d", "convolve", "run")
    kinds += ("depthwise_separable_conv2d", "spatially_separable_conv2d", "stream_conv2d")
    assert [name for name in kinds if not FOUND[name]] == []
