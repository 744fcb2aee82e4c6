"""Tables of networks' plans."""

from dataclasses import replace

from groupconv.networks.nodes import NodePlan
from groupconv.networks.plan import NetworkPlan
from groupconv.wire.networks import plan_from_wire, plan_to_wire

CONV = NodePlan("c", "Conv", (1, 2), 3, 4, "groupconv", ("x",), ("a",))
RELU = NodePlan("r", "Relu", (1, 2), 0, 0, "groupconv", ("a",), ("b",))
POOL = NodePlan("p", "MaxPool", (1, 2), 0, 0, "groupconv", ("b",), ("y",))


def test_times_have_columns_once_they_are_known():
    plan = NetworkPlan((CONV, RELU, POOL), (), 0)
    assert "of all" not in str(plan)
    timed = replace(plan, nodes=(replace(CONV, seconds=0.003), RELU, replace(POOL, seconds=0.001)))
    rows = str(timed).splitlines()
    assert rows[0].endswith("of all")
    assert [row.split()[-1] for row in rows[1:4]] == ["75.0%", "-", "25.0%"]
    assert plan_from_wire(plan_to_wire(timed)).nodes == timed.nodes
