"""The services of docker-compose.yml as a project of their own, and this machine's view of them."""

import contextlib
import os
import secrets
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

from images import IMAGES
from report import ROOT, Failed, expect, run, wait_until

import groupconv
from groupconv.v1.cluster_pb2 import GetClusterResponse

GROUPCONV = str(Path(sys.executable).with_name("groupconv"))
SERVICES = ("coordinator", "worker", "prometheus")
"""Grafana is left out: its image comes from Docker Hub alone. Its panels' queries are asked of Prometheus."""


class Stack:
    """One project of compose.

    Args:
        folder: a private folder for the token.
    """

    def __init__(self, folder: Path) -> None:
        self.name = f"groupconv-test-{os.getpid()}"
        self.grpc, self.prometheus, self.page = free_ports(3)
        self.target = f"127.0.0.1:{self.grpc}"
        token = folder / "ray-token"
        token.write_text(secrets.token_hex(32))
        # Compose mounts the file as it is, and the container's user is another: the folder is what keeps it private.
        token.chmod(0o644)
        base, load, prometheus = IMAGES
        os.environ.update(
            GROUPCONV_IMAGE=base,
            GROUPCONV_LOAD_IMAGE=load,
            GROUPCONV_PROMETHEUS_IMAGE=prometheus,
            GROUPCONV_PORT=str(self.grpc),
            GROUPCONV_PROMETHEUS_PORT=str(self.prometheus),
            GROUPCONV_LOAD_PORT=str(self.page),
            GROUPCONV_TOKEN_FILE=str(token),
        )

    def compose(self, *arguments: str, timeout: float, files: tuple[str, ...] = ()) -> str:
        """`docker compose` on this project, of docker-compose.yml unless other files are said."""
        return run("docker", "compose", *files, "--project-name", self.name, *arguments, timeout=timeout)

    def up(self, workers: int = 2) -> None:
        """Start what is not there, stop what is too many, and wait until all is healthy and the server has them."""
        up = ("up", "--detach", "--wait", "--no-build", "--scale", f"worker={workers}")
        self.compose("--profile", "observe", *up, *SERVICES, timeout=180)
        wait_until(lambda: len(self.workers()) == workers, f"status does not show {workers} workers", timeout=60)

    def containers(self, service: str) -> list[str]:
        """Ids, stopped ones included."""
        return self.compose("ps", "--all", "--quiet", service, timeout=30).split()

    def crash(self, container: str) -> None:
        """Every process of a container's but its first is killed at once, so it ends, and is restarted."""
        run("docker", "exec", container, "sh", "-c", "kill -9 -1", timeout=30, code=None)

    def groupconv(self, *arguments: str, timeout: float = 60) -> str:
        """A command of the client's, run on this machine."""
        return run(GROUPCONV, *arguments, "--target", self.target, timeout=timeout)

    def status(self) -> GetClusterResponse:
        """What the server says of itself.

        Raises:
            Failed: it says nothing.
        """
        try:
            with groupconv.connect(self.target, timeout=10) as client:
                return client.status()
        except groupconv.errors.GroupconvError as error:
            raise Failed(f"status: {error}") from None

    def workers(self) -> set[str]:
        """Ids of those the server has; one that has gone and returned has another."""
        return {worker.id for worker in self.status().workers}

    def requests(self) -> int:
        """How many the server has taken."""
        return int(self.status().requests)

    @contextlib.contextmanager
    def under_load(self, *arguments: str, seconds: int) -> Iterator[list[str]]:
        """A load runs inside; behind it, the list holds what it printed."""
        before = self.requests()
        command = [GROUPCONV, "load", *arguments, "--seconds", str(seconds), "--target", self.target]
        said: list[str] = []
        with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True) as load:
            try:
                wait_until(lambda: self.requests() > before + 8, "the load has not begun", timeout=60)
                yield said
                said.append(load.communicate(timeout=seconds + 90)[0])
            except subprocess.TimeoutExpired:
                raise Failed("the load hangs") from None
            finally:
                load.kill()

    def logs(self) -> str:
        """The last of each container."""
        return self.compose("ps", "--all", timeout=30) + self.compose("logs", "--tail", "30", timeout=30)

    def down(self) -> None:
        """Remove everything."""
        profiles = ("--profile", "load", "--profile", "observe")
        self.compose(*profiles, "down", "--volumes", "--remove-orphans", "--timeout", "10", timeout=120)


def free_ports(count: int) -> list[int]:
    """Ports of this machine's loopback that nobody listens on."""
    with contextlib.ExitStack() as stack:
        probes = [stack.enter_context(socket.socket()) for _ in range(count)]
        for probe in probes:
            probe.bind(("127.0.0.1", 0))
        return [int(probe.getsockname()[1]) for probe in probes]


def open_ports(ports: tuple[int, ...]) -> set[int]:
    """Those that something on this machine's loopback listens on."""

    def is_open(port: int) -> bool:
        with socket.socket() as probe:
            probe.settimeout(2)
            return probe.connect_ex(("127.0.0.1", port)) == 0

    return {port for port in ports if is_open(port)}


def expect_all_right(summary: str) -> None:
    """The load's summary counts answers and no error."""
    expect("0 wrong, 0 failed" in summary, summary)
    print(f"       {next(line for line in summary.splitlines() if '0 wrong, 0 failed' in line)}", flush=True)
