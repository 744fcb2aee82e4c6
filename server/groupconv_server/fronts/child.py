"""A process that this one has started, and the link to it."""

import os
import signal
import socket
import time
from collections.abc import Callable
from multiprocessing.context import BaseContext
from multiprocessing.process import BaseProcess
from typing import Any

from groupconv_server.fronts.link import Link

FIRST_PAUSE, LONGEST_PAUSE = 0.25, 15.0
"""Seconds before a process that was lost before it served is started again: more each time."""


class Child:
    """A process, before and after it is started.

    Attributes:
        link: to it. Its handlers are complete before the process starts.
        process: None until it starts.
    """

    def __init__(self) -> None:
        ours, self._theirs = socket.socketpair()
        self.link = Link(ours, {})
        self.process: BaseProcess | None = None

    @property
    def pid(self) -> int | None:
        """The id of the process."""
        return None if self.process is None else self.process.pid

    def start(self, context: BaseContext, name: str, target: Callable[..., None], *arguments: Any) -> None:
        """Start the process: it calls `target` with its end of the link, and with the arguments."""
        with self._theirs:
            self.process = context.Process(  # type: ignore[attr-defined] # each context has its own
                target=target, args=(self._theirs, *arguments), name=name
            )
            self.process.start()

    def end(self, until: float) -> bool:
        """Wait for the end of the process, then end it by force.

        Args:
            until: on the clock of time.monotonic().

        Returns:
            Whether it ended in order.
        """
        process = self.process
        assert process is not None
        process.join(max(0.0, until - time.monotonic()))
        self.kill()
        process.join()
        self.link.close()
        return process.exitcode == 0

    def kill(self) -> None:
        """End the process now, if it has not ended."""
        if self.process is not None and self.process.exitcode is None and self.process.pid is not None:
            os.kill(self.process.pid, signal.SIGKILL)
