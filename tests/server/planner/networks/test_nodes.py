"""Plans for workers of several nodes: what crosses between nodes goes by a slower link."""

from dataclasses import replace

import pytest
from fully_convolutional import unet
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from networks import LIGHT
from worker.graph.drawn import networks

from groupconv_server.planner.networks.costs import Costs, Interconnect
from groupconv_server.planner.networks.plan import plan_network
from groupconv_server.planner.networks.sample import Sample
from groupconv_server.planner.networks.search import search
from groupconv_server.planner.rates import Rates
from groupconv_worker.graph.importing import Optimized
from groupconv_worker.graph.model import read_model
from groupconv_worker.graph.partition.partition import partition

COSTS = Costs(Rates())
SLOW = replace(COSTS, between_nodes=Interconnect(1e8, 1e-3))
QUIET = [HealthCheck.too_slow, HealthCheck.data_too_large, HealthCheck.filter_too_much]


def graph_of(data, **shapes):
    return Optimized(read_model(data)).canonical(shapes)


@pytest.fixture(scope="module")
def hourglass():
    return graph_of(unet(levels=3, base=16).SerializeToString(), x=(1, 2, 256, 256))


@pytest.fixture(scope="module")
def alexnet():
    return graph_of((LIGHT / "light_bvlc_alexnet.onnx").read_bytes(), data_0=(1, 3, 224, 224))


def sent_between(graph, cuts, nodes):
    """Bytes that cross between nodes, by what the workers really send each other."""
    node = [i for i, workers in enumerate(nodes) for _ in range(workers)]
    exchanges = partition(graph, cuts, len(node)).exchanges
    return sum(e.nbytes for e in exchanges if node[e.sender] != node[e.receiver])


def check_never_above(graph, nodes, costs):
    """A plan costs at most what the plan costs that ignores nodes, with the links as they are."""
    aware, cuts = plan_network(graph, nodes, costs)
    alike, ignoring = plan_network(graph, (sum(nodes),), costs)
    first = [min(count, alike.used - sum(nodes[:i])) for i, count in enumerate(nodes) if sum(nodes[:i]) < alike.used]
    assert aware.seconds <= search(graph, first, costs, ignoring).seconds * (1 + 1e-9)
    over = {name: cut.over(sum(nodes)) for name, cut in cuts.items()}
    assert aware.between_nodes_bytes == sent_between(graph, over, nodes) <= aware.exchanged_bytes


@settings(max_examples=8, deadline=None, suppress_health_check=QUIET)
@given(
    networks(blocks=2), st.lists(st.integers(1, 3), min_size=2, max_size=3), st.floats(1e7, 5e9), st.floats(1e-5, 1e-2)
)
def test_a_plan_never_costs_more_than_one_that_ignores_nodes(drawn, nodes, rate, latency):
    """Of workers so slow that small networks are cut."""
    proto, shape = drawn
    graph = graph_of(proto.SerializeToString(), x=shape)
    rates = Rates(multiply_adds=(1e7,) * 5, memory=1e7)
    check_never_above(
        graph, tuple(sorted(nodes, reverse=True)), Costs(rates, between_nodes=Interconnect(rate, latency))
    )


@pytest.mark.slow
@pytest.mark.parametrize("nodes", [(2, 2), (4, 4), (3, 1), (1, 1, 1)])
@pytest.mark.parametrize("costs", [COSTS, SLOW])
def test_networks_of_the_field_never_cost_more(hourglass, alexnet, nodes, costs):
    for graph in (hourglass, alexnet):
        check_never_above(graph, nodes, costs)


def test_a_slow_network_between_nodes_is_left_out(alexnet):
    """Four workers of one node would share it; two of each of two nodes use one node."""
    assert plan_network(alexnet, (4,), SLOW)[0].used == 4
    plan, _ = plan_network(alexnet, (2, 2), replace(SLOW, between_nodes=Interconnect(1e5, 1.0)))
    assert (plan.used, plan.between_nodes_bytes) == (2, 0)
    assert plan.exchanged_bytes > 0


def test_the_largest_node_is_one_of_the_numbers_considered(hourglass):
    plan, _ = plan_network(hourglass, (3, 3), COSTS)
    assert [workers for workers, _ in plan.considered] == [1, 2, 3, 4, 6]


def test_neighbors_are_on_one_node(hourglass):
    """By rows, only the halos of one pair of eight workers cross."""
    plan, cuts = plan_network(hourglass, (4, 4), COSTS)
    assert plan.used == 8
    exchanges = partition(hourglass, cuts, 8).exchanges
    apart = sum(e.nbytes for e in exchanges if e.sender % 2 != e.receiver % 2)  # with workers dealt out in turns
    assert 0 < plan.between_nodes_bytes < apart / 3
    assert "between nodes" in str(plan)


@pytest.mark.parametrize("nodes", [(1,), (2,), (9,), (64,), (4, 4), (8, 8, 8, 8), (1,) * 16, (7, 2)])
def test_the_sample_stands_for_all_workers(nodes):
    sample = Sample.of(nodes)
    ones = [1.0] * len(sample.workers)
    assert sample.total(ones) == pytest.approx(sum(nodes))
    assert list(sample.of_nodes(ones)) == pytest.approx([len(members) for members in sample.members])
