"""How a network would be cut over workers: in the client, on the command line, and from a file that says it."""

import asyncio
import json

import pytest
from fully_convolutional import unet
from networks import endless, towers
from typer.testing import CliRunner

import groupconv
from groupconv.errors import FailedPreconditionError, InvalidArgumentError
from groupconv_server.cli.app import app
from groupconv_worker.graph.importing import Optimized
from groupconv_worker.graph.model import read_model
from groupconv_worker.graph.partition.sharding import read_cuts, write_cuts

SHAPE = (1, 2, 32, 32)


def test_a_plan_for_workers_that_do_not_exist(client):
    with client.load_network("plan/unet", unet(levels=2, base=4)) as net:
        assert net.plan(SHAPE).cuts is None
        plan = net.plan(SHAPE, workers=8).cuts
        assert plan.workers == 8
        assert [workers for workers, _ in plan.considered] == [1, 2, 4, 8]
        assert plan.seconds == min(seconds for _, seconds in plan.considered)
        assert all(len(tensor.boxes) == plan.used for tensor in plan.tensors)
        assert net.plan(SHAPE, workers=8, in_flight=8).cuts.used == 1
        assert "workers" in str(net.plan(SHAPE, workers=2))
        with pytest.raises(InvalidArgumentError, match=r"^workers: expected 1 to 64, got 65$"):
            net.plan(SHAPE, workers=65)
        with pytest.raises(InvalidArgumentError, match=r"^in_flight: expected a number from 1, got 0"):
            net.plan(SHAPE, workers=2, in_flight=0)


def test_a_plan_for_nodes_that_do_not_exist(client):
    with client.load_network("plan/nodes", unet(levels=2, base=4)) as net:
        plan = net.plan(SHAPE, workers=5, nodes=2).cuts
        assert plan.nodes == (3, 2)
        assert 0 <= plan.between_nodes_bytes <= plan.exchanged_bytes
        assert "between nodes" in str(plan)
        with pytest.raises(InvalidArgumentError, match=r"^nodes: expected 1 to 2, a worker for each, got 3$"):
            net.plan(SHAPE, workers=2, nodes=3)
        with pytest.raises(InvalidArgumentError, match=r"^workers: expected 1 to 64, got 0$"):
            net.plan(SHAPE, nodes=2)


def test_the_async_client_plans_too(server):
    async def planned():
        async with (
            groupconv.aio.connect(server.address) as client,
            await client.load_network("plan/aio", towers()) as net,
        ):
            return (await net.plan((1, 4, 8, 8), workers=2)).cuts

    assert asyncio.run(planned()).workers == 2


def test_a_file_says_how_it_is_cut(client):
    data = unet(levels=2, base=4).SerializeToString()
    tensors = Optimized(read_model(data)).canonical({"x": SHAPE}).nodes
    first = tensors[0].outputs[0]
    boxes = {first: [((0, 1), (0, 4), (0, 32), (0, 5)), ((0, 1), (0, 4), (0, 32), (5, 32))]}
    with client.load_network("plan/given", write_cuts(data, boxes, 2)) as net:
        plan = net.plan(SHAPE, workers=2).cuts
        assert plan.tensors[0].cut == "columns 5|27"
        assert plan.reason == "the cuts were given"
    gap = {first: [((0, 1), (0, 4), (0, 32), (0, 5)), ((0, 1), (0, 4), (0, 32), (6, 32))]}
    message = r"^model: expected cuts that make all of each tensor, got no worker makes \(1, 4, 32, 1\) of 'conv0'"
    with (
        client.load_network("plan/gap", write_cuts(data, gap, 2)) as net,
        pytest.raises(InvalidArgumentError, match=message),
    ):
        net.plan(SHAPE, workers=2)


def test_what_cannot_be_cut_says_why(client):
    with (
        client.load_network("plan/loop", endless()) as net,
        pytest.raises(FailedPreconditionError, match="the network cannot be cut: "),
    ):
        net.plan((4,), workers=2)


def command(*args):
    return CliRunner().invoke(app(), ["networks", "plan", *map(str, args)])


def test_the_command(server, tmp_path):
    path, cut = tmp_path / "unet.onnx", tmp_path / "cut.onnx"
    data = unet(levels=2, base=4).SerializeToString()
    path.write_bytes(data)
    target = ("--target", server.address)
    picture = tmp_path / "cuts.svg"
    options = ("--workers", 4, "--nodes", 2, "--shape", "1,2,32,32", "--picture", picture, "--export", cut, "--json")
    done = command(path, *options, *target)
    assert done.exit_code == 0, (done.output, done.exception)
    found = json.loads(done.stdout)
    assert found["workers"] == 4
    assert found["nodes"] == [2, 2]
    assert "<svg" in picture.read_text()
    graph = Optimized(read_model(data)).canonical({"x": SHAPE})
    given = read_cuts(cut.read_bytes(), graph)[4]
    boxes = {tensor["tensor"]: tensor["boxes"] for tensor in found["tensors"]}
    for name, made in given.items():
        held = [None if box is None else [list(r) for r in box.ranges] for box in made.boxes]
        assert held == boxes[name] + [None] * (4 - len(boxes[name]))
    assert given.keys() == graph.makers.keys()
    alone = command(path, "--shape", "1,2,32,32", "--json", *target)
    nodes = json.loads(alone.stdout)["nodes"]
    assert [node["op"] for node in nodes] == [node.op_type for node in read_model(data).proto.graph.node]
    for args, message in (
        ((path, "--shape", "1,2,32,32", "--export", cut), "--workers: expected a number, for --export"),
        (("unet", "--workers", 2, "--export", cut), "--export: expected an ONNX file"),
    ):
        refused = command(*args, *target)
        assert message in f"{refused.output}{refused.exception}"
