"""Where workers go: on the nodes that may have them, as asked, and never more than fit."""

from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from groupconv.errors import InvalidArgumentError
from groupconv_server.executors.placement import STRATEGIES, Node, Placement, WorkerPlace, WorkerPlaces

CPUS = [Node(name, {"CPU": 4}, {"zone": zone}) for name, zone in (("a", "x"), ("b", "x"), ("c", "y"))]
HEAD = Node("head", {}, {})
GPUS = Node("g", {"CPU": 8, "GPU": 2, "disk": 1}, {})


def placed(nodes, *, workers=None, threads=1, engine="auto", **asked):
    places = WorkerPlaces(Placement(**asked), workers, threads, engine).missing(nodes, [])
    return Counter(place.node_id for place in places), places


@pytest.mark.parametrize(
    ("strategy", "workers", "where"),
    [
        ("spread", 3, {"a": 1, "b": 1, "c": 1}),
        ("spread", 4, {"a": 2, "b": 1, "c": 1}),
        ("pack", 4, {"a": 4}),
        ("pack", 5, {"a": 4, "b": 1}),
        ("strict-spread", 5, {"a": 1, "b": 1, "c": 1}),
    ],
)
def test_a_number_goes_where_the_strategy_says(strategy, workers, where):
    assert placed([HEAD, *CPUS], workers=workers, strategy=strategy)[0] == where


def test_auto_is_one_per_gpu_and_one_on_each_node_without():
    where, places = placed([HEAD, *CPUS, GPUS], threads=None)
    assert where == {"a": 1, "b": 1, "c": 1, "g": 2}
    assert [(p.threads, p.gpus) for p in places if p.node_id == "g"] == [(4, 1.0), (4, 1.0)]
    assert {(p.threads, p.gpus) for p in places if p.node_id != "g"} == {(4, 0)}


def test_a_number_takes_gpus_first_and_cpus_beside_them_then():
    _, places = placed([GPUS, CPUS[0]], workers=5, threads=2)
    assert [(p.node_id, p.gpus, p.engine) for p in places] == [
        ("g", 1.0, "auto"),
        ("g", 1.0, "auto"),
        ("a", 0, "auto"),
        ("a", 0, "auto"),
        ("g", 0, "cpu"),
    ]
    assert placed([GPUS, CPUS[0]], workers=4, engine="cuda")[0] == {"g": 2}
    assert {p.gpus for p in placed([GPUS], workers=4, engine="cpu")[1]} == {0}


def test_workers_share_a_gpu_or_take_several():
    assert placed([GPUS], gpus=0.5)[0] == {"g": 4}
    assert placed([GPUS], gpus=2)[0] == {"g": 1}
    assert placed([GPUS], gpus=3, workers=1, engine="cuda")[0] == {}


def test_labels_and_resources_are_met():
    assert placed(CPUS, labels={"zone": "x"})[0] == {"a": 1, "b": 1}
    assert placed([*CPUS, GPUS], workers=5, resources={"disk": 0.5})[0] == {"g": 2}
    assert placed([*CPUS, GPUS], resources={"disk": 1})[0] == {"g": 1}


def test_places_that_are_gone_are_filled_elsewhere():
    places = WorkerPlaces(Placement(), 3, 1, "cpu")
    left = [place for place in places.missing(CPUS, []) if place.node_id != "b"]
    assert [p.node_id for p in places.missing([CPUS[0], CPUS[2]], left)] == ["a"]
    assert places.missing(CPUS, places.missing(CPUS, [])) == []


@given(
    cpus=st.lists(st.integers(0, 8), min_size=1, max_size=5),
    workers=st.none() | st.integers(1, 20),
    threads=st.none() | st.integers(1, 4),
    strategy=st.sampled_from(STRATEGIES),
)
def test_no_node_gets_more_than_it_has(cpus, workers, threads, strategy):
    nodes = [Node(str(i), {"CPU": n}, {}) for i, n in enumerate(cpus)]
    found: list[WorkerPlace] = WorkerPlaces(Placement(strategy), workers, threads, "cpu").missing(nodes, [])
    for node in nodes:
        assert sum(p.threads for p in found if p.node_id == node.id) <= node.cpus
    if workers is not None:
        assert len(found) <= workers
    assert all(place.threads >= 1 for place in found)


@pytest.mark.parametrize("gpus", [0, -1, 1.5])
def test_what_cannot_be_is_refused(gpus):
    with pytest.raises(InvalidArgumentError, match="worker_gpus"):
        Placement(gpus=gpus)
    with pytest.raises(InvalidArgumentError, match="placement: expected one of spread, pack, strict-spread, got 'far'"):
        Placement("far")
