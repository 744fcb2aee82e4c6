"""What the planner of networks chooses, and that it knows when not to cut."""

from dataclasses import replace

import numpy as np
import pytest
from fully_convolutional import unet
from networks import LIGHT, towers

from groupconv_server.planner.networks.costs import Costs, Interconnect
from groupconv_server.planner.networks.plan import plan_network
from groupconv_server.planner.rates import Rates
from groupconv_worker.graph.importing import Optimized
from groupconv_worker.graph.model import read_model
from groupconv_worker.graph.partition.cut import Cut
from groupconv_worker.graph.partition.partition import partition

COSTS = Costs(Rates())


def graph_of(data, **shapes):
    return Optimized(read_model(data)).canonical(shapes)


@pytest.fixture(scope="module")
def hourglass():
    return unet(levels=3, base=16).SerializeToString()


def kinds(plan):
    return {tensor.cut.split()[0] for tensor in plan.tensors}


def test_a_large_image_alone_is_cut_by_rows(hourglass):
    graph = graph_of(hourglass, x=(1, 2, 256, 256))
    plan, cuts = plan_network(graph, (4,), COSTS)
    made = partition(graph, cuts, plan.used)
    assert kinds(plan) == {"rows"}
    assert plan.used == 4
    assert plan.exchanged_bytes == sum(exchange.nbytes for exchange in made.exchanges) > 0
    assert plan.input_bytes == sum(4 * np.prod(box.shape) for part in made.parts for box in part.inputs.values())
    assert plan.seconds < dict(plan.considered)[1] / 3


def test_a_batch_is_cut_by_samples(hourglass):
    plan, _ = plan_network(graph_of(hourglass, x=(8, 2, 64, 64)), (4,), COSTS)
    assert kinds(plan) == {"samples"}
    assert plan.exchanged_bytes == 0


def test_towers_are_cut_by_group():
    graph = graph_of((LIGHT / "light_bvlc_alexnet.onnx").read_bytes(), data_0=(1, 3, 224, 224))
    plan, _ = plan_network(graph, (2,), COSTS)
    grouped = {node.outputs[0] for node in graph.nodes if node.attributes.get("group", 1) == 2}
    assert {t.cut.split()[0] for t in plan.tensors if t.tensor in grouped} == {"channels"}


def test_as_many_calls_as_workers_are_not_cut(hourglass):
    plan, _ = plan_network(graph_of(hourglass, x=(1, 2, 256, 256)), (4,), COSTS, in_flight=4)
    assert plan.used == 1
    assert plan.exchanged_bytes == 0
    assert "each is whole on one" in plan.reason


def test_half_as_many_calls_get_two_workers_each(hourglass):
    plan, _ = plan_network(graph_of(hourglass, x=(1, 2, 256, 256)), (4,), COSTS, in_flight=2)
    assert plan.used == 2


def test_slow_links_are_not_used(hourglass):
    slow = replace(COSTS, within_node=Interconnect(1e4, 1.0))
    plan, _ = plan_network(graph_of(hourglass, x=(1, 2, 64, 64)), (4,), slow)
    assert plan.exchanged_bytes == 0


def test_a_small_network_is_not_cut():
    plan, _ = plan_network(graph_of(towers(size=8).SerializeToString(), x=(1, 4, 8, 8)), (4,), COSTS)
    assert plan.used == 1
    assert "one worker alone is fastest" in plan.reason


def test_given_cuts_are_kept():
    graph = graph_of(towers(size=16).SerializeToString(), x=(1, 4, 16, 16))
    name = graph.nodes[0].outputs[0]
    cut = Cut.along(graph.tensors[name].shape, 3, (0, 3, 16))
    plan, _ = plan_network(graph, (2,), COSTS, given={name: cut})
    assert plan.tensors[0].cut == "columns 3|13"


def test_the_plan_in_words(hourglass):
    plan, _ = plan_network(graph_of(hourglass, x=(1, 2, 256, 256)), (2,), COSTS)
    text = str(plan)
    assert "rows 128|128" in text
    assert "2 of 2 workers" in text
    assert "× as fast as one worker" in text
    assert plan.as_dict()["tensors"][0]["boxes"][1] == ((0, 1), (0, 16), (128, 256), (0, 256))
