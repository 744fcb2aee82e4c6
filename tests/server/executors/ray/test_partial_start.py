"""A server starts with the workers that fit its cluster, also with none; the others come with the nodes."""

import subprocess
from pathlib import Path

import pytest

import groupconv
from clusters import GROUPCONV, Cluster
from waiting import until

pytestmark = [pytest.mark.ray, pytest.mark.slow, pytest.mark.timeout(300)]

FOUR = ["--workers", "4", "--threads", "1"]


def shown(cluster, address):
    """What `groupconv status` prints, in one line."""
    command = [*GROUPCONV, "status", "--target", address]
    done = subprocess.run(command, env=cluster.env | {"COLUMNS": "400"}, capture_output=True, text=True, check=True)
    return " ".join(done.stdout.split())


def count(client):
    return len(client.status().workers)


def test_what_fits_serves_and_the_others_wait_for_room():
    with Cluster() as cluster:
        none = "4 of 4 workers have no place: each waits for 1 CPU; no node offers CPUs"
        with cluster.serving(*FOUR) as (_, address), groupconv.connect(address, timeout=60) as client:
            assert (client.status().state, client.status().trouble) == ("NOT_SERVING", none)
            assert none in shown(cluster, address)
            assert f"starting with 0 of 4 workers; {none}" in Path(cluster.folder, "server.log").read_text()
            cluster.add(cpus=2)
            until(lambda: count(client) == 2, seconds=120, every=0.2)
            assert client.conv1d([[[1.0, 2.0]]], [[[2.0]]]).tolist() == [[[2.0, 4.0]]]
        with cluster.serving(*FOUR) as (_, address), groupconv.connect(address, timeout=60) as client:
            until(lambda: count(client) == 2, seconds=120, every=0.2)  # Ray frees CPUs in its own time
            until(lambda: client.status().trouble.startswith("2 of 4 workers have no place: each waits for 1 CPU; "))
            assert "2 of 4 workers have no place: each waits for 1 CPU; " in shown(cluster, address)
            assert client.conv1d([[[1.0, 2.0]]], [[[2.0]]]).tolist() == [[[2.0, 4.0]]]
            cluster.add(cpus=2)
            until(lambda: count(client) == 4, seconds=120, every=0.2)
            until(lambda: client.status().trouble == "", every=0.2)
