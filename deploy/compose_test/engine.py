"""Finds a Docker engine that answers, or starts one, and the base image of the Dockerfile, or makes it."""

import contextlib
import os
import shutil
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path

from report import Failed, Report, expect, run, wait_until

BASE = "python:3.11-slim-bookworm"


class NoEngine(Exception):  # noqa: N818 - reads as the sentence it is
    """There is no Docker here, and none can be started: the reason."""


@contextlib.contextmanager
def docker(report: Report, folder: Path) -> Iterator[None]:
    """`docker` answers inside, and an engine that was started for it ends behind it.

    Raises:
        NoEngine: with the reason.
    """
    daemon = None
    if not _answers():
        why = _cannot_start()
        if why:
            raise NoEngine(why)
        with report.step("starting a Docker engine of its own"):
            daemon = _start(folder)
    try:
        if subprocess.run(["docker", "compose", "version"], capture_output=True, check=False).returncode:
            raise NoEngine("docker has no compose plugin (v2)")
        _base_image(report, folder)
        yield
    finally:
        if daemon:
            daemon.send_signal(signal.SIGTERM)
            daemon.wait(60)


def _answers() -> bool:
    try:
        return subprocess.run(["docker", "version"], capture_output=True, timeout=30, check=False).returncode == 0
    except (FileNotFoundError, subprocess.TimeoutExpired):
        return False


def _cannot_start() -> str | None:
    if not shutil.which("docker"):
        return "docker is not installed"
    if not shutil.which("dockerd"):
        return "no Docker answers, and dockerd is not installed"
    return None if os.geteuid() == 0 else "no Docker answers, and only root can start one"


def _start(folder: Path) -> "subprocess.Popen[bytes]":
    socket, log = folder / "docker.sock", folder / "dockerd.log"
    os.environ["DOCKER_HOST"] = f"unix://{socket}"
    # No rule in the machine's firewall, no forwarding, no docker0: nothing of the machine's is touched, and no packet
    # of a container's leaves it. Published ports go through Docker's proxy.
    command = ["dockerd", "--iptables=false", "--ip6tables=false", "--ip-forward=false", "--bridge=none"]
    command += ["--data-root", str(folder / "data"), "--exec-root", str(folder / "exec")]
    command += ["--pidfile", str(folder / "dockerd.pid"), "--host", os.environ["DOCKER_HOST"]]
    with log.open("wb") as sink:
        daemon = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=sink, stderr=sink, start_new_session=True)
    try:
        wait_until(lambda: _answers() or daemon.poll() is not None, "dockerd does not answer", timeout=60)
        if daemon.poll() is not None:
            raise NoEngine(f"dockerd ends at once here: {log.read_text().strip().splitlines()[-1]}")
    except Failed:
        daemon.terminate()
        raise
    return daemon


def _base_image(report: Report, folder: Path) -> None:
    """From Docker Hub, or from Debian's packages where the hub is out of reach."""
    have = ["docker", "image", "inspect", BASE]
    if subprocess.run(have, capture_output=True, check=False).returncode == 0:
        return
    with contextlib.suppress(Failed), report.step(f"pulling {BASE}"):
        run("docker", "pull", "--quiet", BASE, timeout=300)
        return
    if os.geteuid() != 0 or not shutil.which("mmdebstrap"):
        raise NoEngine(f"{BASE} cannot be pulled, and only root with mmdebstrap can make one")
    with report.step(f"making {BASE} from Debian's packages"):
        run("docker", "import", *_settings(), str(_bootstrap(folder / "base.tar")), BASE, timeout=300)


def _settings() -> list[str]:
    path = "/usr/local/bin:/usr/local/sbin:/usr/sbin:/usr/bin:/sbin:/bin"
    return [part for change in (f"ENV PATH={path}", "ENV LANG=C.UTF-8", 'CMD ["python3"]') for part in ("-c", change)]


def _bootstrap(tar: Path) -> Path:
    listed = run("apt-get", "indextargets", "--format", "$(REPO_URI)", "Codename: bookworm", timeout=60).split()
    hooks = [
        # what this machine trusts, and where its pip looks
        'mkdir -p "$1/usr/local/share/ca-certificates"',
        'cp /usr/local/share/ca-certificates/*.crt "$1/usr/local/share/ca-certificates/" || true',
        'chroot "$1" update-ca-certificates >/dev/null 2>&1',
        '[ ! -f /etc/pip.conf ] || cp /etc/pip.conf "$1/etc/"',
        'chroot "$1" python3 -m venv /usr/local',
    ]
    options = ["--variant=minbase", "--include=python3,python3-venv,ca-certificates"]
    options += [f'--aptopt=Acquire::Check-{what} "false"' for what in ("Valid-Until", "Date")]
    options += [f"--dpkgopt=path-exclude=/usr/share/{what}/*" for what in ("doc", "man", "locale")]
    options += [f"--customize-hook={hook}" for hook in hooks]
    # from where this machine has its own packages; mmdebstrap knows a place where it does not say
    run("mmdebstrap", "--quiet", *options, "bookworm", str(tar), *listed[:1], timeout=600)
    expect(tar.stat().st_size > 10**7, "mmdebstrap made no image")
    return tar
