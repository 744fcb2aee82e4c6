"""Brings the stack up with two workers, uses it, kills a worker and uses it again, and tears it down.

It uses the Docker that answers. Where none does it starts one with the script that CONTAINER_ENGINE names
(default ../shared/container-engine): `<script> start` prints the DOCKER_HOST to export.

Exit code 0: every check passed, or there is no Docker and the reason is printed. 1: a check failed.
"""

import contextlib
import os
import secrets
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
GROUPCONV = str(Path(sys.executable).with_name("groupconv"))
IMAGE = "groupconv:compose-test"
RAY_PORTS = (6379, 8265, 10001)
"""Of the cluster's head, its dashboard and its clients."""


class Failed(Exception):  # noqa: N818 - reads as the sentence it is
    """A step or a check did not do what it should."""


class Report:
    """Prints a line for each step and each check, and counts the checks."""

    def __init__(self) -> None:
        self.passed = self.failed = 0

    @contextlib.contextmanager
    def step(self, name: str) -> Iterator[None]:
        """A part that must succeed but checks nothing of its own."""
        start = time.monotonic()
        print(f"…      {name}", flush=True)
        yield
        print(f"done   {name} ({time.monotonic() - start:.1f} s)", flush=True)

    @contextlib.contextmanager
    def check(self, name: str) -> Iterator[None]:
        """A promise of the stack."""
        start = time.monotonic()
        print(f"…      {name}", flush=True)
        try:
            yield
        except Failed:
            self.failed += 1
            print(f"FAILED {name} ({time.monotonic() - start:.1f} s)", flush=True)
            raise
        self.passed += 1
        print(f"passed {name} ({time.monotonic() - start:.1f} s)", flush=True)


def run(*command: str, timeout: float, code: int = 0) -> str:
    """What a command prints, both streams together.

    Raises:
        Failed: it ended with another exit code, or not in time.
    """
    try:
        done = subprocess.run(
            command, cwd=ROOT, timeout=timeout, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, check=False
        )
    except subprocess.TimeoutExpired as late:
        said = (late.stdout or b"").decode(errors="replace")  # bytes, though text was asked for
        raise Failed(f"{' '.join(command)}: not done after {timeout:.0f} s\n{said[-3000:]}") from None
    if done.returncode != code:
        raise Failed(f"{' '.join(command)}: exit code {done.returncode}\n{done.stdout[-3000:]}")
    return done.stdout


def expect(true: object, otherwise: str) -> None:
    """The core of a check."""
    if not true:
        raise Failed(otherwise)


def wait_until(condition: Callable[[], bool], otherwise: str, *, timeout: float) -> None:
    """Ask until it holds."""
    end = time.monotonic() + timeout
    while not condition():
        expect(time.monotonic() < end, f"{otherwise} after {timeout:.0f} s")
        time.sleep(0.2)


def docker_answers() -> bool:
    """True if there is a Docker with its engine running."""
    try:
        return subprocess.run(["docker", "version"], capture_output=True, timeout=30, check=False).returncode == 0
    except (FileNotFoundError, subprocess.TimeoutExpired):
        return False


def find_docker(report: Report) -> str | None:
    """Make `docker` answer; or why it cannot."""
    if docker_answers():
        return None
    script = Path(os.environ.get("CONTAINER_ENGINE") or ROOT.parent / "shared" / "container-engine")
    if not script.is_file():
        return f"no Docker answers, and CONTAINER_ENGINE names no script that starts one ({script})"
    if os.geteuid() != 0:
        return f"no Docker answers, and only root can start one with {script}"
    with report.step(f"starting a container engine with {script.name}"):
        said = run(str(script), "start", timeout=300)
        host = next((line for line in said.splitlines() if line.startswith("export DOCKER_HOST=")), None)
        expect(host, f"{script} start printed no DOCKER_HOST:\n{said}")
        os.environ["DOCKER_HOST"] = str(host).partition("=")[2]
    return None


class Stack:
    """The services of docker-compose.yml as a project of their own.

    Args:
        folder: a private folder for the token.
    """

    def __init__(self, folder: Path) -> None:
        self.name = f"groupconv-test-{os.getpid()}"
        port = free_port()
        self.target = f"127.0.0.1:{port}"
        token = folder / "ray-token"
        token.write_text(secrets.token_hex(32))
        # Compose mounts the file as it is, and the container's user is another: the folder is what keeps it private.
        token.chmod(0o644)
        os.environ.update(GROUPCONV_IMAGE=IMAGE, GROUPCONV_PORT=str(port), GROUPCONV_TOKEN_FILE=str(token))

    def compose(self, *arguments: str, timeout: float) -> str:
        """`docker compose` on this project."""
        return run("docker", "compose", "--project-name", self.name, *arguments, timeout=timeout)

    def up(self) -> None:
        """Start what is not there, and wait until all is healthy."""
        self.compose("up", "--detach", "--wait", "--no-build", "--scale", "worker=2", timeout=180)

    def containers(self, service: str) -> list[str]:
        """Ids, stopped ones included."""
        return self.compose("ps", "--all", "--quiet", service, timeout=30).split()

    def groupconv(self, *arguments: str, timeout: float = 60) -> str:
        """A command of the client's, run on this machine."""
        return run(GROUPCONV, *arguments, "--target", self.target, timeout=timeout)

    def workers(self) -> set[str]:
        """Ids of those the server has; one that has gone and returned has another."""
        return {line.split()[0] for line in self.groupconv("status").splitlines() if line.startswith("ray-")}

    def requests(self) -> int:
        """How many the server has taken."""
        return int(self.groupconv("status").split(" requests in ")[0].split()[-1])

    def logs(self) -> str:
        """The last of each container."""
        return self.compose("ps", "--all", timeout=30) + self.compose("logs", "--tail", "30", timeout=30)


def free_port() -> int:
    """A port of this machine's loopback that nobody listens on."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def open_ports(ports: tuple[int, ...]) -> set[int]:
    """Those that something on this machine's loopback listens on."""

    def is_open(port: int) -> bool:
        with socket.socket() as probe:
            probe.settimeout(2)
            return probe.connect_ex(("127.0.0.1", port)) == 0

    return {port for port in ports if is_open(port)}


def check_all_right(summary: str) -> None:
    """The load's summary counts answers and no error."""
    expect("0 wrong, 0 failed" in summary, summary)
    print(f"       {next(line for line in summary.splitlines() if '0 wrong, 0 failed' in line)}", flush=True)


def check_ports(stack: Stack, open_before: set[int]) -> None:
    """The gRPC port is published on loopback, and nothing else is."""
    published = {}
    for service in ("coordinator", "worker"):
        for container in stack.containers(service):
            lines = run("docker", "port", container, timeout=30).splitlines()
            published.update(dict.fromkeys(lines, service))
    expect(published == {f"50051/tcp -> {stack.target}": "coordinator"}, f"published: {published}")
    reachable = open_ports(RAY_PORTS) - open_before
    expect(not reachable, f"Ray answers on the host's loopback: {reachable}")


def check_token(stack: Stack) -> None:
    """A neighbour in the network is refused by Ray without the token, and only for want of it."""
    ask = ("--entrypoint", "ray", "worker", "status", "--address=coordinator:6379")
    said = stack.compose("run", "--rm", "--no-deps", *ask, timeout=60)
    expect("Node status" in said, f"Ray does not answer who has the token:\n{said}")
    try:
        stack.compose("run", "--rm", "--no-deps", "--env", "RAY_AUTH_MODE=disabled", *ask, timeout=60)
    except Failed as refused:
        expect("AuthenticationError" in str(refused), f"refused for another reason: {refused}")
    else:
        raise Failed("Ray answers without the token")


def check_kill(stack: Stack) -> None:
    """A worker is killed while a load runs: every answer is right all the same."""
    load = [GROUPCONV, "load", "--clients", "4", "--seconds", "15", "--target", stack.target]
    before = stack.requests()
    with subprocess.Popen(load, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True) as running:
        try:
            wait_until(lambda: stack.requests() > before + 8, "the load has not begun", timeout=30)
            run("docker", "kill", stack.containers("worker")[0], timeout=30)
            summary = running.communicate(timeout=90)[0]
        except subprocess.TimeoutExpired:
            raise Failed("the load hangs after the kill") from None
        finally:
            running.kill()
    check_all_right(summary)
    wait_until(lambda: len(stack.workers()) == 1, "the dead worker is still counted", timeout=60)
    check_all_right(stack.groupconv("load", "--clients", "2", "--seconds", "2"))


def check_restart(stack: Stack) -> None:
    """A worker whose Ray dies ends its container, is restarted and joins again."""
    before = stack.workers()
    script = "for p in /proc/[0-9]*; do read name < $p/comm && [ $name = raylet ] && kill -9 ${p#/proc/}; done; true"
    run("docker", "exec", stack.containers("worker")[0], "sh", "-c", script, timeout=30)
    wait_until(
        lambda: len(now := stack.workers()) == 2 and now != before, "status does not show a new worker", timeout=90
    )
    check_all_right(stack.groupconv("load", "--clients", "2", "--seconds", "2"))


def check_sigterm(stack: Stack) -> None:
    """The coordinator ends in order."""
    (coordinator,) = stack.containers("coordinator")
    stack.compose("stop", "coordinator", timeout=60)
    code = run("docker", "inspect", "--format", "{{.State.ExitCode}}", coordinator, timeout=30).strip()
    expect(code == "0", f"exit code {code}")


def run_checks(report: Report, stack: Stack, folder: Path) -> None:
    """Everything the stack promises, one after another."""
    open_before = open_ports(RAY_PORTS)
    with report.check("two workers join, every service is healthy"):
        stack.up()
        stack.groupconv("health")
        wait_until(lambda: len(stack.workers()) == 2, "status does not show two workers", timeout=30)
    with report.check("the gRPC port alone is published, on loopback"):
        check_ports(stack, open_before)
    with report.check("Ray refuses who has no token"):
        check_token(stack)
    with report.check("the demo's checks pass through it"):
        said = stack.groupconv("demo", "--output", str(folder / "demo.png"), timeout=180)
        print(f"       {next(line for line in said.splitlines() if ' passed' in line)}", flush=True)
    with report.check("the load generator's answers are right"):
        check_all_right(stack.compose("run", "--rm", "load", timeout=120))
    with report.check("a worker is killed under load: every answer is right"):
        check_kill(stack)
    with report.check("the killed worker returns with `up`"):
        stack.up()
        wait_until(lambda: len(stack.workers()) == 2, "status does not show two workers", timeout=60)
        check_all_right(stack.groupconv("load", "--clients", "2", "--seconds", "2"))
    with report.check("a worker whose Ray dies returns by itself"):
        check_restart(stack)
    with report.check("SIGTERM ends the coordinator with exit code 0"):
        check_sigterm(stack)


def main() -> int:
    """Find Docker, build, check, tear down."""
    start = time.monotonic()
    report = Report()
    try:
        if missing := find_docker(report):
            print(f"skipped: {missing}")
            return 0
        with report.step(f"building {IMAGE}"):
            run("docker", "build", "--network", "host", "--tag", IMAGE, ".", timeout=900)
        with tempfile.TemporaryDirectory() as folder:
            stack = Stack(Path(folder))
            try:
                run_checks(report, stack, Path(folder))
            except Failed:
                print(stack.logs(), flush=True)
                raise
            finally:
                with report.step("tearing down"):
                    stack.compose("down", "--volumes", "--remove-orphans", "--timeout", "10", timeout=120)
    except Failed as failed:
        print(f"\n{failed}", flush=True)
        report.failed = max(1, report.failed)
    print(f"{report.passed} passed, {report.failed} failed in {time.monotonic() - start:.0f} s")
    return 1 if report.failed else 0


if __name__ == "__main__":
    sys.exit(main())
