"""Signals that end a command: it cleans up first, as after an error."""

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, NoReturn

ENDING = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


@contextmanager
def ended_by_signals() -> Iterator[None]:
    """Make signals raise SystemExit with the exit code of shells, 128 and the signal's number.

    A signal that is ignored, as SIGHUP is under nohup, stays ignored. Threads other than the main one get no signals.
    """

    def end(number: int, _: Any) -> NoReturn:
        raise SystemExit(128 + number)

    main = threading.current_thread() is threading.main_thread()
    found = {s: signal.getsignal(s) for s in ENDING if main and signal.getsignal(s) is not signal.SIG_IGN}
    for number in found:
        signal.signal(number, end)
    try:
        yield
    finally:
        for number, handler in found.items():
            signal.signal(number, handler)
