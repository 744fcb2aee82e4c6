"""What Ray has no public API for. No other file uses Ray's private modules; ADR 10 says what was tried instead.

Tried on Ray 2.57 and 2.60. A test checks that every name here exists.
"""

import contextlib
from collections.abc import Iterator
from typing import Any

import ray._private.state
import ray._private.worker
from ray._private import ray_constants
from ray._raylet import AuthenticationTokenLoader, Config  # type: ignore[attr-defined]


def read_settings_again() -> None:
    """Have Ray read its environment variables and its token now; it read them when it was imported."""
    Config.initialize("")
    AuthenticationTokenLoader.instance().reset_cache()


@contextlib.contextmanager
def on_loopback() -> Iterator[None]:
    """Have Ray's processes that start inside listen on loopback alone.

    They listen on the address of their node. Ray replaces a loopback address by an outer one, unless clusters of
    several machines are switched off, as they are by default on other systems than Linux.
    """
    before, ray_constants.ENABLE_RAY_CLUSTER = ray_constants.ENABLE_RAY_CLUSTER, False
    try:
        yield
    finally:
        ray_constants.ENABLE_RAY_CLUSTER = before


def has_resources(actor: Any) -> bool:
    """Whether an actor has got what it needs of its node, so that its process exists or is about to.

    Ray calls an actor pending while it waits for resources, and also while it starts; only the address differs.
    """
    known = ray._private.state.actors(actor._actor_id.hex())  # noqa: SLF001
    return bool(known) and bool(known["Address"]["IPAddress"])


class HeadProcess:
    """The head process (GCS) of the cluster that this process has started."""

    def __init__(self) -> None:
        self._node = ray._private.worker._global_node  # noqa: SLF001

    def exit_status(self) -> int | None:
        """The status that it ended with; None while it runs."""
        head = next(iter(self._node.all_processes.get(ray_constants.PROCESS_TYPE_GCS_SERVER, ())), None)
        status: int | None = None if head is None else head.process.poll()
        return status

    def start_again(self) -> None:
        """Start it again after it has ended; it reads its state from disk."""
        self._node.kill_gcs_server(check_alive=False)
        self._node.start_gcs_server()
