"""Starts a Ray cluster on this machine alone and keeps its head alive, or joins a running one."""

import contextlib
import logging
import os
import secrets
import shutil
import signal
import tempfile
import threading
from collections.abc import Iterator, Mapping
from pathlib import Path

import ray

from groupconv_server.executors.ray.ray_internals import HeadProcess, on_loopback, read_settings_again
from groupconv_server.executors.ray.reaper import VARIABLE, Reaper
from groupconv_server.poller import forget_poller
from groupconv_worker import machine

log = logging.getLogger(__name__)

TICK = 0.25
"""Seconds between two looks at the head's process."""
SHARED = 0.3
"""Share of the memory that /dev/shm should have: as much as Ray's object store takes by default."""
SHARED_FILE_SYSTEM = Path("/dev/shm")  # noqa: S108 - Ray's choice


class Head:
    """A cluster on this machine alone, on loopback, behind a token. It ends with this process, however that ends.

    Ray's head process keeps its state on disk, and is started again when it dies: shards go on without it, and lost
    workers are replaced once it is back.

    Args:
        cpus: that it offers, if the machine does not have more.
    """

    def __init__(self, cpus: int) -> None:
        check_memory()
        forget_poller()
        self._folder = Path(tempfile.mkdtemp(prefix="groupconv-ray-"))
        (self._folder / "gcs").mkdir()
        self._variables = _authentication(self._folder) | HEAD_MAY_BE_AWAY | {VARIABLE: str(self._folder)}
        self._closing = threading.Event()
        self._reaper = Reaper(self._folder)
        try:
            with _own_sigterm(), on_loopback(), _variables(self._variables):
                read_settings_again()
                ray.init(
                    address="local",
                    num_cpus=max(cpus, len(os.sched_getaffinity(0))),
                    namespace="groupconv",
                    include_dashboard=False,
                    log_to_driver=False,
                    logging_level=logging.ERROR,
                    _system_config={"gcs_storage": "rocksdb", "gcs_storage_path": str(self._folder / "gcs")}
                    | HEALTH
                    | PRIORITY,
                )
        except BaseException:
            self._end()
            raise
        self._watcher = threading.Thread(target=self._watch, name="ray-head", daemon=True)
        self._watcher.start()

    def close(self) -> None:
        """End Ray and remove its state and its token."""
        self._closing.set()
        self._watcher.join()
        self._end()

    def _end(self) -> None:
        ray.shutdown()
        read_settings_again()
        self._reaper.dismiss()
        shutil.rmtree(self._folder, ignore_errors=True)

    def _watch(self) -> None:
        head = HeadProcess()
        while not self._closing.wait(TICK):
            if (status := head.exit_status()) is not None:
                log.error("the head of the Ray cluster ended with status %d; it is started again", status)
                with _variables(self._variables):
                    head.start_again()


def join(address: str) -> None:
    """Join the cluster whose head is at `address`."""
    check_memory()
    forget_poller()
    with _own_sigterm(), _variables(HEAD_MAY_BE_AWAY):
        read_settings_again()
        ray.init(address=address, namespace="groupconv", log_to_driver=False, logging_level=logging.WARNING)


HEAD_MAY_BE_AWAY = {"RAY_gcs_rpc_server_reconnect_timeout_s": str(24 * 3600)}
"""Seconds that a process of Ray goes on without the head. Ray's own 60 s would end the server."""
HEALTH = {
    "health_check_initial_delay_ms": 1000,
    "health_check_period_ms": 1000,
    "health_check_timeout_ms": 1000,
    "health_check_failure_threshold": 3,
}
"""How soon the head gives up a node that does not answer."""


PRIORITY = {"worker_niceness": 0}
"""Workers run at normal priority. At Ray's niceness of 15 everything else on the machine would come first."""


def _authentication(folder: Path) -> dict[str, str]:
    """Ray's token authentication, with a token of this cluster's own that only this user can read.

    Ray itself would write one into the home folder, for all clusters, that everyone can read.
    """
    variables = {"RAY_AUTH_MODE": "token"}
    if not {"RAY_AUTH_TOKEN", "RAY_AUTH_TOKEN_PATH"} & os.environ.keys():
        token = folder / "token"
        token.touch(0o600)
        token.write_text(secrets.token_hex(32))
        variables["RAY_AUTH_TOKEN_PATH"] = str(token)
    return variables


@contextlib.contextmanager
def _variables(wanted: Mapping[str, str]) -> Iterator[None]:
    """Set variables that the operator has not set, while processes are started that read them."""
    added = {name: value for name, value in wanted.items() if name not in os.environ}
    os.environ.update(added)
    try:
        yield
    finally:
        for name in added:
            os.environ.pop(name, None)


def check_memory() -> None:
    """Warn where Ray's object store has too little shared memory to keep arrays in."""
    memory = machine.memory()
    shared = shutil.disk_usage(SHARED_FILE_SYSTEM).total if SHARED_FILE_SYSTEM.is_dir() else 0
    if shared < SHARED * memory:
        log.warning(
            "%s has %.1f GiB, less than %.0f %% of the %.1f GiB of memory: Ray will keep arrays on disk, several times "
            "slower; give the container more (--shm-size %.0fg, shm_size, a memory-backed emptyDir)",
            SHARED_FILE_SYSTEM,
            shared / 2**30,
            SHARED * 100,
            memory / 2**30,
            max(1, SHARED * memory / 2**30),
        )


@contextlib.contextmanager
def _own_sigterm() -> Iterator[None]:
    """Put back the caller's handler of SIGTERM: `ray.init` sets one that ends the process with exit code 15."""
    handler = signal.getsignal(signal.SIGTERM)
    try:
        yield
    finally:
        if threading.current_thread() is threading.main_thread():
            signal.signal(signal.SIGTERM, handler)
