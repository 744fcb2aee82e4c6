"""The compose files: published on loopback alone, a root that is not written, the memory that the limits need."""

import re
from pathlib import Path

import pytest
import yaml

from memory_formula import MIB_PER, needed

ROOT = Path(__file__).parents[2]


def services(name):
    """The services, with the defaults of their variables."""
    text = re.sub(r"\$\{\w+:-([^${}]*)\}", r"\1", (ROOT / name).read_text())
    return yaml.safe_load(text)["services"]


@pytest.mark.parametrize("name", ["docker-compose.yml", "deploy/compose.gpu.yml"])
def test_ports_are_published_on_loopback_alone_and_memory_is_bounded(name):
    for service, said in services(name).items():
        assert "mem_limit" in said, service
        for port in said.get("ports", []):
            assert port.startswith("127.0.0.1:"), service


def test_containers_cannot_write_their_root():
    found = services("docker-compose.yml")
    assert {name for name, service in found.items() if not service.get("read_only")} == {"grafana"}
    for name in ("coordinator", "worker", "load"):
        assert [mount.partition(":")[0] for mount in found[name]["tmpfs"]] == ["/tmp", "/home/groupconv"]


@pytest.mark.parametrize("part", ["coordinator", "worker"])
def test_a_container_gets_the_memory_that_it_may_use(part):
    service = services("docker-compose.yml")[part]
    total, shared = mib(service["mem_limit"]), mib(service["shm_size"])
    folders = sum(mib(re.search(r"size=(\w+)", mount)[1]) for mount in service["tmpfs"])
    assert needed(part, service["environment"], shared + folders) <= total
    assert shared > 0.3 * total


def mib(size):
    """MiB of a size of compose."""
    number, unit = re.fullmatch(r"(\d+)(\w+)", size).groups()
    return int(number) * MIB_PER[unit]
