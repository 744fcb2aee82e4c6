"""Ray itself: a cluster of this machine alone, or one to join."""

import contextlib
import logging
import os
import signal
import threading
from collections.abc import Iterator

import ray


def start(cpus: int) -> None:
    """A cluster of this machine alone, on loopback, that offers at least `cpus`."""
    with _own_sigterm():
        ray.init(
            address="local",
            num_cpus=max(cpus, len(os.sched_getaffinity(0))),
            namespace="groupconv",
            include_dashboard=False,
            log_to_driver=False,
            logging_level=logging.WARNING,
            _node_ip_address="127.0.0.1",
        )


def join(address: str) -> None:
    """Join the cluster whose head is at `address`."""
    with _own_sigterm():
        ray.init(address=address, namespace="groupconv", log_to_driver=False, logging_level=logging.WARNING)


@contextlib.contextmanager
def _own_sigterm() -> Iterator[None]:
    """Put back the caller's handler of SIGTERM: `ray.init` sets one that ends the process with exit code 15."""
    handler = signal.getsignal(signal.SIGTERM)
    try:
        yield
    finally:
        if threading.current_thread() is threading.main_thread():
            signal.signal(signal.SIGTERM, handler)
