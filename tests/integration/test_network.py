"""Hosts of their own, as far as the network goes: a link between them is cut and mended under load."""

import json
import re
import subprocess
import sys
import time

import pytest

from clusters import Cluster
from hosts import connect, cut_off, hosts, on, why_not
from waiting import until

GROUPCONV = [sys.executable, "-m", "groupconv_server"]


@pytest.mark.slow
@pytest.mark.ray
@pytest.mark.timeout(300)
def test_a_link_is_cut_and_mended_under_load():
    if reason := why_not():
        pytest.skip(reason)
    with hosts(3) as (first, second, third), Cluster(prefix=on(first)) as cluster:
        cluster.add(prefix=on(second))
        lost = cluster.add(prefix=on(third))
        with cluster.serving() as (server, address):
            at = ["--target", address]

            def workers():
                said = subprocess.run(
                    [*on(first), *GROUPCONV, "status", "--json", *at], capture_output=True, text=True, check=True
                )
                return len(json.loads(said.stdout)["workers"])

            until(lambda: workers() == 2)
            command = [*on(first), *GROUPCONV, "load", *at, "--clients", "2", "--seconds", "25"]
            with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True) as load:
                time.sleep(3)  # the load is under way; it counts what fails whenever the cut comes
                cut_off(third)
                until(lambda: workers() == 1)
                connect(third)
                lost.wait(60)  # it was given up; told so, it ends, and its supervisor starts it again
                cluster.add(prefix=on(third))
                until(lambda: workers() == 2)
                said, _ = load.communicate(timeout=120)
            assert load.returncode == 0, said
            assert re.search(r"\d", said)
            print(said)
            assert server.poll() is None
