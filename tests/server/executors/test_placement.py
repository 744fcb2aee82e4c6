"""Where workers go: on the nodes that may have them, as asked, and never more than fit."""

import re
from collections import Counter
from pathlib import Path

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from groupconv.errors import InvalidArgumentError
from groupconv_server.executors.placement import STRATEGIES, Node, Placement, WorkerPlace, WorkerPlaces

ROOT = Path(__file__).parents[3]
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


@given(
    nodes=st.lists(st.tuples(st.integers(0, 16), st.integers(0, 8)), min_size=1, max_size=4),
    workers=st.none() | st.integers(1, 20),
    threads=st.none() | st.integers(1, 64),
    gpus=st.sampled_from([1.0, 0.5, 0.25, 0.4, 2.0]),
    strategy=st.sampled_from(STRATEGIES),
)
def test_every_gpu_has_its_workers_whatever_the_threads_and_no_node_gives_more_than_it_has(
    nodes, workers, threads, gpus, strategy
):
    nodes = [Node(str(i), {"CPU": cpus, "GPU": count}, {}) for i, (cpus, count) in enumerate(nodes)]
    found = WorkerPlaces(Placement(strategy, gpus), workers, threads, "auto").missing(nodes, [])
    for node in nodes:
        here = [place for place in found if place.node_id == node.id]
        count = node.resources["GPU"]
        shares = count * int(1 / gpus + 1e-9) if gpus < 1 else count // gpus
        assert sum(place.cpus for place in here) <= node.cpus + 1e-9  # Ray counts in 1e-4
        assert sum(place.gpus for place in here) <= count
        if node.cpus >= len(here):
            assert sum(place.threads for place in here) <= node.cpus
        if workers is None and node.cpus:
            assert sum(place.gpus > 0 for place in here) == shares
            assert sum(not place.gpus for place in here) == (not shares)
    for place in found:
        assert 1 <= place.threads <= (threads or 16)
        assert place.cpus > 0


def test_threads_are_a_share_of_the_cpus_of_a_machine_with_gpus():
    """`--threads 8` on 8 GPUs and 16 CPUs asks for 16 CPUs, not for 64."""
    machine = Node("dgx", {"CPU": 16, "GPU": 8}, {})
    for threads, each in ((None, 2), (1, 1), (8, 2)):
        _, places = placed([machine], threads=threads)
        assert [(p.gpus, p.threads, p.cpus) for p in places] == [(1.0, each, each)] * 8
    _, places = placed([Node("pod", {"CPU": 2, "GPU": 8}, {})], threads=8)
    assert [(p.gpus, p.threads, p.cpus) for p in places] == [(1.0, 1, 0.25)] * 8
    _, places = placed([machine], workers=2, threads=None)
    assert [(p.gpus, p.threads) for p in places] == [(1.0, 8)] * 2


@pytest.mark.parametrize(
    ("nodes", "asked", "said"),
    [
        (CPUS, {"engine": "cuda"}, "no worker has no place: each waits for 1 GPU; a offers 4 CPUs; b offers 4 CPUs; "),
        ([GPUS], {"engine": "cuda", "workers": 3}, "1 of 3 workers have no place: each waits for 1 GPU; "),
        ([GPUS], {"engine": "cuda", "workers": 3}, "g offers 8 CPUs, 2 GPUs and has 2 workers"),
        (CPUS, {"workers": 4, "strategy": "strict-spread"}, "each waits for 1 CPU, a node of its own; a offers 4 CPUs"),
        (CPUS, {"labels": {"zone": "z"}}, "each waits for 1 CPU, label zone=z; a has not the label zone=z; "),
        (CPUS, {"resources": {"disk": 1}}, "each waits for 1 CPU, 1 disk; a offers 0 disk; "),
        ([HEAD], {}, "each waits for 1 CPU; no node offers CPUs"),
    ],
)
def test_what_has_no_place_is_told_with_what_it_waits_for(nodes, asked, said):
    workers, engine = asked.pop("workers", None), asked.pop("engine", "auto")
    places = WorkerPlaces(Placement(**asked), workers, 1, engine)
    assert said in places.shortage(nodes, places.missing(nodes, []))
    everywhere = WorkerPlaces(Placement(), 2, 1, "auto")
    assert everywhere.shortage(CPUS, everywhere.missing(CPUS, [])) == ""


def deployed(service, *files):
    """The environment of a service of compose with the defaults of its variables."""
    found = {}
    for file in files:
        text = re.sub(r"\$\{\w+:-(?:\$\{\w+:-(\w*)\}|(\w*))\}", r"\1\2", (ROOT / file).read_text())
        found |= yaml.safe_load(text)["services"].get(service, {}).get("environment") or {}
    return found


def test_the_files_of_compose_give_one_worker_to_each_gpu():
    files = "docker-compose.yml", "deploy/compose.gpu.yml"
    assert deployed("worker", files[0])["GROUPCONV_CPUS"] == 1
    assert deployed("worker", *files)["GROUPCONV_CPUS"] is None  # all CPUs of the machine
    assert deployed("coordinator", *files)["GROUPCONV_THREADS"] is None
    _, places = placed([Node("machine", {"CPU": 16, "GPU": 8}, {})], threads=None)
    assert [(p.gpus, p.threads) for p in places] == [(1.0, 2)] * 8


@pytest.mark.parametrize("file", ["base/worker.yml", "kuberay.yml"])
def test_pods_offer_the_cpus_that_they_have(file):
    containers = re.findall(
        r"GROUPCONV_CPUS, value: \"(\d+)\".*?limits: {cpu: \"(\d+)\"",
        (ROOT / "deploy/k8s" / file).read_text(),
        re.DOTALL,
    )
    assert containers
    for offered, limit in containers:
        assert offered == limit
        _, places = placed([Node("pod", {"CPU": int(offered), "GPU": 8}, {})], threads=None)
        assert [(p.gpus, p.threads) for p in places] == [(1.0, 1)] * 8
