"""Hosts of their own, as far as the network goes: namespaces behind a switch. Only root makes them."""

import json
import os
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager


def ip(*arguments: str) -> str:
    """Run `ip`; returns what it writes."""
    return subprocess.run(["ip", *arguments], check=True, capture_output=True, text=True).stdout


def why_not() -> str:
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
def hosts(number: int) -> Iterator[list[str]]:
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
            ip("-n", name, "address", "add", address(i) + "/24", "dev", "eth0")
            ip("-n", name, "link", "set", "eth0", "up")
            ip("-n", name, "route", "add", "default", "dev", "eth0")
        yield names


def address(number: int) -> str:
    """Of a host, counted from 0."""
    return f"10.77.0.{number + 1}"


def on(host: str) -> list[str]:
    """The prefix of a command that runs on a host."""
    return ["ip", "netns", "exec", host]


def cut_off(host: str) -> None:
    """Take a host off the network."""
    ip("-n", host, "link", "set", "eth0", "down")


def connect(host: str) -> None:
    """Put a host back on the network."""
    ip("-n", host, "link", "set", "eth0", "up")
    ip("-n", host, "route", "replace", "default", "dev", "eth0")


def sent_bytes(host: str) -> int:
    """Bytes that a host has sent, with the headers of Ethernet, IP and TCP."""
    return int(json.loads(ip("-n", host, "-s", "-j", "link", "show", "eth0"))[0]["stats64"]["tx"]["bytes"])
