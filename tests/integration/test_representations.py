"""Clients, layers, plans and results show themselves: one line for a terminal, a table and a picture for a notebook."""

import xml.etree.ElementTree as ET

import numpy as np
import pytest
from networks import towers

import groupconv
from groupconv import ConvSpec, Step
from groupconv.convolution.html import step_picture
from groupconv.errors import InvalidArgumentError
from groupconv_server.config import Config
from groupconv_server.server import Server

SPEC = ConvSpec(padding=2, groups=2, activation="relu")


@pytest.fixture(scope="module")
def client():
    config = Config(port=0, executor="local", workers=2, threads=1, engine="reference")
    with Server(config) as server, groupconv.connect(server.address, timeout=60) as client:
        yield client


def parsed(html):
    """The HTML as elements; it is well-formed, so XML reads it."""
    return ET.fromstring(f"<div>{html.replace('<br>', '<br/>')}</div>")


def test_a_layer(client):
    with client.load_layer("net/conv2", np.ones((8, 4, 5, 5), np.float32), None, SPEC) as layer:
        assert repr(layer) == (
            f"<groupconv.Layer net/conv2 version {layer.info.version}: kernel (8, 4, 5, 5) float32, 3.1 KiB>"
        )
        cells = [cell.text for cell in parsed(layer._repr_html_()).iter("td")]
        assert cells == ["0", "(8, 4, 5, 5)", repr(SPEC)]


def test_a_network(client):
    with client.load_network("net/towers", towers()) as net:
        assert repr(net).startswith("<Network 'net/towers' version ")
        assert "\n" not in repr(net)
        kinds = [row[0].text for row in parsed(net._repr_html_()).iter("tr")]
        assert kinds == [None, "input", "output"]
        x = np.ones((2, 4, 9, 9), np.float32)
        result = net.run(x)
        assert repr(result).startswith("NetworkResult(")
        assert "(2, 6) float32; " in repr(result)
        assert [cell.text for cell in parsed(result._repr_html_()).iter("td")][1] == "(2, 6) float32"
        plan = net.plan(x.shape)
        assert repr(plan).startswith(f"NetworkPlan({len(plan.nodes)} operators, ")
        assert len(list(parsed(plan._repr_html_()).iter("tr"))) == 1 + len(plan.nodes)


MISTAKES = {
    "a name that is no string": (lambda c, n: c.get_network(3), "name"),
    "a name to load that is no string": (lambda c, n: c.load_network(3, b""), "name"),
    "a name to unload that is no string": (lambda c, n: c.unload_network(None), "name"),
    "an extent that is no integer": (lambda c, n: n.plan((1, 4, "a", 9)), "inputs['x'].shape"),
    "a number for a shape": (lambda c, n: n.plan(5), "inputs['x'].shape"),
    "an array for a shape": (lambda c, n: n.plan(np.ones(4)), "inputs['x'].shape"),
    "a list of inputs": (lambda c, n: n.run(inputs=[np.ones((1, 4, 9, 9))]), "inputs"),
    "an output that is not there": (lambda c, n: n.run(np.ones((1, 4, 9, 9)), outputs=["nope"]), "outputs"),
    "three bytes for a model": (lambda c, n: c.load_network("net/none", b"123"), "model"),
    "a number for a model": (lambda c, n: c.load_network("net/none", 3), "model"),
}


@pytest.mark.parametrize("mistake", MISTAKES)
def test_a_mistake_with_a_network_names_its_field(client, mistake):
    ask, field = MISTAKES[mistake]
    with client.load_network("net/mistakes", towers()) as net, pytest.raises(InvalidArgumentError) as caught:
        ask(client, net)
    assert caught.value.field == field


def test_a_plan(client):
    plan = client.plan((1, 8, 27, 27), (8, 4, 5, 5), SPEC)
    assert repr(plan).startswith("Plan(grouped cut along ")
    assert "predicted" in repr(plan)
    assert "\n" not in repr(plan)
    page = parsed(plan._repr_html_())
    svg = "{http://www.w3.org/2000/svg}"
    (picture,) = page.iter(f"{svg}svg")
    assert len(list(picture.iter(f"{svg}rect"))) == len(plan.steps[0].shards)
    assert len(list(page.iter("tr"))) == 1 + len(plan.steps[0].shards)


def test_workers_beyond_the_colors_are_hatched():
    shards = [(i, f"w{i}", ((0, 1), (0, 8), (i, i + 1))) for i in range(9)]
    page = parsed(step_picture("grouped", (1, 8, 9), shards))
    svg = "{http://www.w3.org/2000/svg}"
    fills = [r.get("fill") for r in page.iter(f"{svg}rect")]
    assert len(set(fills[:7])) == 7
    assert fills[7:] == fills[:2]
    assert len([p for p in page.iter(f"{svg}path") if p.get("fill") == "url(#turned-30)"]) == 2


def test_a_result(client):
    result = client.run(np.ones((1, 8, 27, 27), np.float32), [Step(np.ones((8, 4, 5, 5), np.float32), None, SPEC)])
    assert repr(result).startswith("Result(output (1, 8, 27, 27) float32, Report(")
    assert "\n" not in repr(result)
    page = parsed(result._repr_html_())
    assert [cell.text for cell in page.iter("td")][:3] == ["0", *_first(result)]


def _first(result):
    shard = result.report.steps[0][0]
    return shard.worker, shard.algorithm


def test_small_integers_give_floats_of_the_same_size_as_on_the_command_line(client):
    x = np.arange(27 * 27, dtype=np.uint16).reshape(1, 1, 27, 27)
    kernel = np.ones((1, 1, 3, 3), np.float32)
    y = client.conv2d(x, kernel)
    assert y.dtype == np.float32
    np.testing.assert_array_equal(y, client.conv2d(x.astype(np.float32), kernel))
    assert client.conv2d(x > 100, kernel).dtype == np.float32
    np.testing.assert_array_equal(client.stream_conv2d(x, kernel), y)
    with client.load_layer("tests/integers", kernel) as layer:
        np.testing.assert_array_equal(layer(x), y)
        np.testing.assert_array_equal(layer(x.astype(np.int64)), y)
        assert layer(x > 100).dtype == np.float32
    with client.load_layer("tests/halves", kernel, dtype="float16") as layer:
        np.testing.assert_array_equal(layer(x), y)
