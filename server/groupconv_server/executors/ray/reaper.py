"""Ends the processes of a Ray cluster whose server was killed, as some of them would stay.

It runs as a program of its own, beside the server, and imports nothing but the standard library. It waits on a pipe,
which closes when the server ends, in whatever way. A byte on it first says that the server has ended Ray in order.
"""

import contextlib
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

VARIABLE = "GROUPCONV_RAY_FOLDER"
"""Set for every process of the cluster, to recognize them."""
TICK = 0.2
"""Seconds between two looks for processes: one that was killed may just have started another."""
LOOKS = 5
"""Looks in a row that must find none."""


class Reaper:
    """Starts and dismisses the program, in the server.

    Args:
        folder: of the cluster: removed with its processes.
    """

    def __init__(self, folder: Path) -> None:
        command = [sys.executable, "-I", __file__, str(folder)]
        # a session of its own: what ends the server by its terminal or its process group does not end this
        self._process = subprocess.Popen(command, stdin=subprocess.PIPE, start_new_session=True)  # noqa: S603

    def dismiss(self) -> None:
        """Tell it that Ray has ended in order."""
        with contextlib.suppress(BrokenPipeError):  # it was killed
            self._process.communicate(b".")
        self._process.wait()


def processes(folder: str) -> list[int]:
    """The ids of the cluster's processes.

    Args:
        folder: the value of `VARIABLE` in their environment.
    """
    wanted = f"{VARIABLE}={folder}".encode()
    pids = []
    for path in Path("/proc").glob("[0-9]*/environ"):
        with contextlib.suppress(OSError):  # another user's, or gone
            if wanted in path.read_bytes().split(b"\0"):
                pids.append(int(path.parent.name))
    return pids


def kill(folder: str) -> None:
    """End every process of the cluster."""
    for pid in processes(folder):
        with contextlib.suppress(ProcessLookupError):
            handle = os.pidfd_open(pid)  # and look again: the id may belong to another process by now
            try:
                if pid in processes(folder):
                    signal.pidfd_send_signal(handle, signal.SIGKILL)
            finally:
                os.close(handle)


def main(folder: str) -> None:
    """Wait until the server ends; clean up unless it has done so itself."""
    if os.read(sys.stdin.fileno(), 1):
        return
    clean = 0
    while clean < LOOKS:
        clean = 0 if processes(folder) else clean + 1
        kill(folder)
        time.sleep(TICK)
    shutil.rmtree(folder, ignore_errors=True)


if __name__ == "__main__":
    main(sys.argv[1])
