"""Hosts of their own, as far as the network goes: a link between them is cut and mended under load."""

import json
import os
import re
import shutil
import subprocess
import sys
import time
from contextlib import ExitStack, contextmanager

import pytest

from clusters import Cluster
from waiting import until

GROUPCONV = [sys.executable, "-m", "groupconv_server"]


def ip(*arguments):
    subprocess.run(["ip", *arguments], check=True, capture_output=True, text=True)


def why_not():
    """What is missing for network namespaces, or nothing."""
    if shutil.which("ip") is None:
        return "iproute2 is not installed"
    if os.geteuid() != 0:
        return "only root makes network namespaces"
    try:
        with hosts(1):
            return ""
    except subprocess.CalledProcessError as error:
        return f"no network namespaces here: {error.stderr.strip()}"


@contextmanager
def hosts(number):
    """Namespaces that reach each other at 10.77.0.1, .2, … through a switch, which is one too; yields their names."""
    names = [f"groupconv-{os.getpid()}-{i}" for i in range(number)]
    switch = f"groupconv-{os.getpid()}-switch"
    with ExitStack() as stack:
        for name in [switch, *names]:
            ip("netns", "add", name)
            stack.callback(ip, "netns", "delete", name)
            ip("-n", name, "link", "set", "lo", "up")
        ip("-n", switch, "link", "add", "switch", "type", "bridge")
        ip("-n", switch, "link", "set", "switch", "up")
        for i, name in enumerate(names):
            ip("-n", switch, "link", "add", f"port{i}", "type", "veth", "peer", "name", "eth0", "netns", name)
            ip("-n", switch, "link", "set", f"port{i}", "master", "switch", "up")
            ip("-n", name, "address", "add", f"10.77.0.{i + 1}/24", "dev", "eth0")
            ip("-n", name, "link", "set", "eth0", "up")
            ip("-n", name, "route", "add", "default", "dev", "eth0")
        yield names


def on(host):
    """The prefix of a command that runs on a host."""
    return ["ip", "netns", "exec", host]


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
                ip("-n", third, "link", "set", "eth0", "down")
                until(lambda: workers() == 1)
                ip("-n", third, "link", "set", "eth0", "up")
                ip("-n", third, "route", "replace", "default", "dev", "eth0")
                lost.wait(60)  # it was given up; told so, it ends, and its supervisor starts it again
                cluster.add(prefix=on(third))
                until(lambda: workers() == 2)
                said, _ = load.communicate(timeout=120)
            assert load.returncode == 0, said
            assert re.search(r"\d", said)
            print(said)
            assert server.poll() is None
