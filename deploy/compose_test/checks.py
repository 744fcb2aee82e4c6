"""What the stack promises: who reaches it, and what happens when parts of it die."""

import re
import time

import numpy as np
from report import Failed, expect, run, wait_until
from stack import Stack, expect_all_right, open_ports

import groupconv
from groupconv.convolution.geometry import resolve
from groupconv.streaming.stream import Progress
from groupconv_worker import reference

RAY_PORTS = (6379, 8265, 10001)
"""Of the cluster's head, its dashboard and its clients."""


def ports(stack: Stack, open_before: set[int]) -> None:
    """The gRPC port is published on loopback, and by profile the dashboards; nothing else is."""
    published = {}
    for service in ("coordinator", "worker", "prometheus"):
        for container in stack.containers(service):
            lines = run("docker", "port", container, timeout=30).splitlines()
            published.update(dict.fromkeys(lines, service))
    wanted = {
        f"50051/tcp -> {stack.target}": "coordinator",
        f"9090/tcp -> 127.0.0.1:{stack.prometheus}": "prometheus",
    }
    expect(published == wanted, f"published: {published}")
    reachable = open_ports(RAY_PORTS) - open_before
    expect(not reachable, f"Ray answers on the host's loopback: {reachable}")


def token(stack: Stack) -> None:
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


def not_root(stack: Stack) -> None:
    """No process of ours runs as root, but the one that reaps."""
    for service in ("coordinator", "worker"):
        said = run("docker", "exec", stack.containers(service)[0], "id", "--user", timeout=30).strip()
        expect(said == "10001", f"{service} runs as {said}")


def read_only(stack: Stack) -> None:
    """No root file system can be written. The image has kernels, and new ones are kept in memory of the user's own."""
    for service in ("coordinator", "worker", "prometheus"):
        container = stack.containers(service)[0]
        said = run("docker", "inspect", "--format", "{{.HostConfig.ReadonlyRootfs}}", container, timeout=30).strip()
        expect(said == "true", f"{service}'s root can be written: {said}")
        said = run("docker", "exec", container, "sh", "-c", "touch /x 2>&1 || echo refused", timeout=30)
        expect("refused" in said, f"{service} writes to its root: {said}")
    worker = stack.containers("worker")[0]
    shipped = run("docker", "exec", worker, "ls", "/opt/groupconv/share/groupconv-kernels", timeout=30).split()
    expect(len(shipped) > 20, f"the image has {len(shipped)} compiled kernels")
    cache = "/home/groupconv/.cache/groupconv"
    said = run("docker", "exec", worker, "sh", "-c", f"mkdir -p {cache} && touch {cache}/new && echo kept", timeout=30)
    expect("kept" in said, f"a new kernel cannot be kept: {said}")
    logs = stack.compose("logs", "worker", timeout=30)
    expect("kept in memory alone" not in logs, "a worker cannot write its cache")


def worker_crash(stack: Stack) -> None:
    """A worker dies under load: every answer is right, none fails, and the worker returns by itself."""
    before = stack.workers()
    with stack.under_load("--clients", "4", seconds=25) as said:
        stack.crash(stack.containers("worker")[0])
        # its successor is another worker
        wait_until(
            lambda: len(now := stack.workers()) == 2 and now != before, "the dead worker has not returned", timeout=60
        )
    expect_all_right(said[0])


def network_cut(stack: Stack) -> None:
    """A worker loses its network under load and gets it back: every answer is right, none fails, and it returns."""
    (network,) = run(
        "docker", "network", "ls", "--quiet", "--filter", f"label=com.docker.compose.project={stack.name}", timeout=30
    ).split()
    worker = stack.containers("worker")[1]
    before = stack.workers()
    with stack.under_load("--clients", "4", seconds=35) as said:
        run("docker", "network", "disconnect", network, worker, timeout=30)
        wait_until(lambda: len(stack.workers()) == 1, "the worker without a network is still counted", timeout=30)
        run("docker", "network", "connect", "--alias", "worker", network, worker, timeout=30)
    expect_all_right(said[0])
    wait_until(lambda: len(now := stack.workers()) == 2 and now != before, "the worker has not returned", timeout=60)


def coordinator_crash(stack: Stack) -> None:
    """The coordinator dies in the middle of a stream: all return, the SDK goes on, and the answer is right."""
    rng = np.random.default_rng(0)
    spec = groupconv.ConvSpec(padding=1, groups=16)
    x = rng.standard_normal((1, 16, 8000, 256), dtype=np.float32)  # more than windows and sockets hold
    w = rng.standard_normal((16, 1, 3, 3), dtype=np.float32)
    crashed = []

    def progress(at: Progress) -> None:
        if not crashed and at.rows < at.of:
            crashed.append(time.monotonic())
            stack.crash(stack.containers("coordinator")[0])

    with groupconv.connect(stack.target) as client:
        client.load_layer("kept", w, None, spec)
        y = client.stream_convolve(x, [groupconv.Step(w, None, spec)], progress=progress, band_rows=50)
        expect(crashed, "the stream ended before the crash")
        kept = client.get_layer("kept")(x[:, :, :100])
    want = reference.convolve(x, w, None, resolve(spec, x.shape, w.shape))
    expect(np.allclose(y, want, atol=1e-4), "the resumed stream's answer is wrong")
    expect(np.allclose(kept[:, :, :99], want[:, :, :99], atol=1e-4), "the layer that was kept answers wrongly")
    print(f"       the stream went on, {time.monotonic() - crashed[0]:.0f} s after the crash it was done", flush=True)
    wait_until(lambda: len(stack.workers()) == 2, "the workers have not joined the new coordinator", timeout=90)
    expect_all_right(stack.groupconv("load", "--clients", "2", "--seconds", "2"))


def sigterm(stack: Stack) -> None:
    """The coordinator drains: requests under way end, and its exit code is 0."""
    (coordinator,) = stack.containers("coordinator")
    with stack.under_load("--clients", "4", "--layer", "mobilenet_dw_14", seconds=15) as said:
        stack.compose("stop", "coordinator", timeout=60)
    code = run("docker", "inspect", "--format", "{{.State.ExitCode}}", coordinator, timeout=30).strip()
    expect(code == "0", f"exit code {code}")
    errors = re.findall(r"\d+ × (.*)", said[0])
    expect(errors, f"nobody was refused by the server that left:\n{said[0]}")
    # CANCELLED: its message was still on its way in when the connection was closed
    expect(all("Unavailable" in e or "Cancelled" in e for e in errors), f"other errors:\n{said[0]}")
    expect(" 0 wrong" in said[0], said[0])
