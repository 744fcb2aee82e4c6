"""Networks cut over Ray workers: as one worker answers, past a deadline, and with workers and hosts that are lost."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

import hosts
from clusters import Cluster
from emulation import needs_compiler

PROGRAM = Path(__file__).with_name("gang_program.py")
TESTS = Path(__file__).parents[3]
PATH = {"PYTHONPATH": str(TESTS)}


def check(number, prefix=(), arguments=(), env=os.environ, variables=PATH):
    """Run the program, in which so many checks hold."""
    command = [*prefix, sys.executable, str(PROGRAM), *arguments]
    ran = subprocess.run(command, env={**env, **variables}, capture_output=True, text=True)
    assert ran.returncode == 0, ran.stdout + ran.stderr
    assert ran.stdout.count(" holds") == number
    print(ran.stdout)


@pytest.mark.slow
@pytest.mark.ray
@pytest.mark.timeout(600)
def test_a_network_over_ray_workers():
    check(7)


@needs_compiler
@pytest.mark.slow
@pytest.mark.ray
@pytest.mark.timeout(600)
def test_a_network_over_emulated_gpus():
    """Each worker's process has one, and reaches the memory of the other one's."""
    emulated = {"PYTHONPATH": f"{TESTS}:{TESTS / 'emulation/process'}", "EXTENT": "32"}
    check(7, arguments=["--engine", "auto"], variables=emulated)


@pytest.mark.slow
@pytest.mark.ray
@pytest.mark.timeout(600)
def test_a_network_over_nodes():
    """Boxes travel by TCP from worker to worker."""
    if reason := hosts.why_not():
        pytest.skip(reason)
    with hosts.hosts(3) as names, Cluster(prefix=hosts.on(names[0])) as cluster:
        for name in names[1:]:
            cluster.add(prefix=hosts.on(name))
        check(7, hosts.on(names[0]), ["--address", cluster.address, "--hosts", *names], cluster.env)
