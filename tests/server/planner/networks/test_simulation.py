"""The simulation of networks: what limits 16 GPUs behind one coordinator."""

import sys
from pathlib import Path

import pytest

BENCH = Path(__file__).parents[4] / "bench"


@pytest.fixture(scope="module")
def simulation():
    before = list(sys.path)
    sys.path.insert(0, str(BENCH))  # benchmarks import each other
    try:
        import simulate_networks
    finally:
        sys.path[:] = before
    return simulate_networks


@pytest.mark.parametrize("slower", [1, 3])
@pytest.mark.parametrize(("pixels", "least"), [(False, 300), (True, 1000)])
def test_sixteen_gpus_are_limited_by_the_input_alone(simulation, pixels, least, slower):
    graph = simulation.AlexNet(64, pixels=pixels).graph()
    costs = simulation.clusters(slower)["H200s on other nodes, 100 Gb/s"]
    point = simulation.simulate(graph, 16, costs)
    assert least <= point.rate <= costs.between_nodes.rate / graph.tensors["image"].nbytes
    assert point.limited.startswith("coordinator's network, out")
    assert slower * costs.rates.memory == simulation.clusters()["H200s on other nodes, 100 Gb/s"].rates.memory


def test_a_call_alone_is_faster_on_more_workers(simulation):
    graph = simulation.AlexNet(1, pixels=False).graph()
    costs = simulation.clusters()["CPU cores, 25 Gb/s"]
    one, four = (simulation.simulate(graph, workers, costs) for workers in (1, 4))
    assert one.exchanged == 0 < four.exchanged
    assert 2 * four.alone < one.alone
