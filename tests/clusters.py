"""Real Ray clusters of several nodes on one machine: a head without CPUs, a server beside it, nodes with workers."""

import json
import os
import re
import signal
import socket
import subprocess
import sys
import tempfile
import time
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path

import psutil
import ray

GROUPCONV = [sys.executable, "-m", "groupconv_server"]
HEALTH = {f"RAY_health_check_{k}": v for k, v in {"period_ms": "500", "timeout_ms": "500"}.items()}
HEALTH |= {"RAY_health_check_initial_delay_ms": "500", "RAY_health_check_failure_threshold": "3"}


HEAD = """
import ray._private.services, ray.scripts.scripts
ray._private.services.find_bootstrap_address = lambda _: set()
ray.scripts.scripts.main()
"""
"""`ray`, but for its refusal to start a head again while nodes of its past life run on the same machine."""


def kill_tree(process):
    """SIGKILL to a process and all its children, at once as a power cut is."""
    with suppress(psutil.NoSuchProcess):
        family = [*psutil.Process(process.pid).children(recursive=True), psutil.Process(process.pid)]
        for member in family:
            with suppress(psutil.NoSuchProcess):
                member.suspend()
        for member in family:
            with suppress(psutil.NoSuchProcess):
                member.kill()
    process.wait(30)


def said(process, log, pattern):
    """Wait until a process has written what matches."""
    limit = time.monotonic() + 60
    while not (found := re.search(pattern, log.read_text())):
        assert process.poll() is None, log.read_text()
        assert time.monotonic() < limit, log.read_text()
        time.sleep(0.05)
    return found


class Cluster:
    """A context manager; everything it started is gone after it.

    Args:
        variables: of every process.
        prefix: of every command, as `ip netns exec name`.
        autoscaling: a configuration for Ray's autoscaler, which then adds nodes by itself.
    """

    def __init__(self, variables=None, prefix=(), autoscaling=None):
        self._stack = ExitStack()
        self.folder = self._stack.enter_context(tempfile.TemporaryDirectory())  # short, for Ray's Unix sockets
        known = {k: v for k, v in os.environ.items() if not k.startswith("RAY_")}
        self.env = {**known, **HEALTH, "RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": "0" * 64, "PYTHONUNBUFFERED": "1"}
        self.env |= {"RAY_USAGE_STATS_ENABLED": "0", "GROUPCONV_TUNE": "off", **(variables or {})}
        self.prefix = list(prefix)
        self._autoscaling = autoscaling
        self.nodes = []
        self.head = self.address = None

    def __enter__(self):
        try:
            self.start_head()
        except BaseException:
            self._stack.close()
            raise
        return self

    def __exit__(self, *_):
        for node in [*self.nodes, self.head]:
            kill_tree(node)
        self._stack.close()

    def start_head(self, port=0):
        command = [
            sys.executable,
            "-c",
            HEAD,
            "start",
            "--head",
            "--block",
            "--num-cpus=0",
            "--include-dashboard=false",
        ]
        where = [f"--port={port}", f"--temp-dir={self.folder}", "--disable-usage-stats"]
        if self._autoscaling is not None:
            with socket.socket() as free:
                free.bind(("", 0))
                port = free.getsockname()[1]
            where[0] = f"--port={port}"
            self._autoscaling["provider"]["gcs_address"] = f"{ray.util.get_node_ip_address()}:{port}"
            config = Path(self.folder, "autoscaling.json")
            config.write_text(json.dumps(self._autoscaling))
            where.append(f"--autoscaling-config={config}")
        log = Path(self.folder, "head.log")
        with log.open("w") as out:
            self.head = subprocess.Popen([*self.prefix, *command, *where], env=self.env, stdout=out, stderr=out)
        self.address = said(self.head, log, r"--address='(.+?)'")[1]

    def add(self, cpus=1, prefix=None, gpus=None, labels=None, **variables):
        """A node with a worker; returns its process. One after another: on one machine Ray mixes up their ports."""
        command = [*GROUPCONV, "worker", "--join", self.address, "--cpus", str(cpus)]
        command += [] if gpus is None else ["--gpus", str(gpus)]
        command += [] if labels is None else ["--labels", labels]
        log = Path(self.folder, f"node-{len(self.nodes)}.log")
        with log.open("w") as out:
            node = subprocess.Popen(
                [*(self.prefix if prefix is None else prefix), *command],
                env=self.env | variables,
                stdout=out,
                stderr=out,
            )
        self.nodes.append(node)
        said(node, log, "Ray runtime started")
        return node

    @contextmanager
    def serving(self, *arguments, log="server.log"):
        """`groupconv serve` beside the head, with its log in `folder`; yields its process and its address."""
        command = [
            *GROUPCONV,
            "serve",
            "--port",
            "0",
            "--ray-address",
            self.address,
            "--engine",
            "reference",
            *arguments,
        ]
        log = Path(self.folder, log)
        with log.open("w") as out:
            process = subprocess.Popen(
                [*self.prefix, *command], env=self.env, stdout=subprocess.PIPE, stderr=out, text=True
            )
        try:
            line = process.stdout.readline()
            assert line, log.read_text()
            yield process, json.loads(line)["address"] if line.startswith("{") else line.split()[-1]
        finally:
            process.send_signal(signal.SIGTERM)
            try:
                process.wait(60)
            finally:
                kill_tree(process)
                process.stdout.close()
