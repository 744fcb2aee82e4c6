"""Makes a JSON line of each line that others write to standard output and standard error.

Libraries in C++ (gRPC core, Ray), child processes, the interpreter's warnings and a crash's traceback write to the file
descriptors 1 and 2 as they like. `capture` has both lead to a process of its own, this file, which survives a crash of
the captured one and writes what it reads as JSON. Lines that are JSON objects already go through unchanged.

`python foreign_lines.py COMMAND …` runs another command so.
"""

import fcntl
import json
import os
import re
import selectors
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager

LONGEST = 2**16
"""Bytes of a line without an end that are written as one."""
STREAMS = {"stdout": "info", "stderr": "warning"}
"""Names of the streams, and the level of a line that names none."""
_LEVELS = {"I": "info", "W": "warning", "E": "error", "F": "critical", "C": "critical", "D": "debug"}
_NAMED = re.compile(r"^(?:\[?[\d\- :.,]*\s*|.{0,40}?\s)?\b(DEBUG|INFO|WARNING|ERROR|CRITICAL|FATAL|Fatal)\b")
_LETTER = re.compile(r"^([IWEF])\d{4} |^\[[\d\-: ,.]+ ([IWEFCD]) ")
_ANSI = re.compile(r"\x1b\[[0-9;]*[A-Za-z]")


class Output:
    """Where standard error led before: it takes lines while the other process writes no line of its own.

    Args:
        fd: to write to.
        lock: a file that both processes have open.
    """

    def __init__(self, fd: int, lock: int) -> None:
        self._fd, self._lock = fd, lock

    def write(self, text: str) -> int:
        """Write whole lines."""
        with _alone(self._lock):
            _write(self._fd, text.encode("utf-8", "backslashreplace"))
        return len(text)

    def flush(self) -> None:
        """Nothing: `write` keeps nothing back."""

    def isatty(self) -> bool:
        """False: JSON has no colors."""
        return False


def capture() -> Output:
    """Have everything that this process and its children write to standard output and error appear as JSON lines.

    It lasts until the process ends. The lines come out where standard output and standard error led before.

    Returns:
        The standard error from before, for lines that are JSON.
    """
    lock = os.memfd_create("lines")
    before = Output(os.dup(2), lock)
    ends = [os.pipe(), os.pipe()]
    inputs = [read for read, _ in ends]
    sys.stdout.flush()
    sys.stderr.flush()
    # its own session: a signal to the group of the terminal ends the captured process, whose last lines it still reads
    subprocess.Popen(  # noqa: S603 - this file
        [sys.executable, "-I", "-S", __file__, *map(str, [lock, *inputs])],
        stdin=subprocess.DEVNULL,
        pass_fds=[lock, *inputs],
        start_new_session=True,
    ).returncode = 0  # nobody waits for it: it ends when the last writer has
    for number, (read, write) in enumerate(ends, 1):
        os.dup2(write, number)
        os.close(read)
        os.close(write)
    return before


def as_json(line: str, stream: str, **fields: object) -> str:
    """A line as a JSON object with more fields, without its end. One that is an object already stays as it is.

    Example:
        >>> as_json("E0000 00:00:1.2 ssl.cc:17] Handshake failed", "stderr").partition(', "timestamp"')[0]
        '{"event": "E0000 00:00:1.2 ssl.cc:17] Handshake failed", "level": "error", "logger": "stderr"'
        >>> as_json('{"event": "x"}', "stderr")
        '{"event": "x"}'
    """
    if line.startswith("{"):
        try:
            json.loads(line)
        except (ValueError, RecursionError):
            pass
        else:
            return line
    text = _ANSI.sub("", line)
    now = time.time()
    stamp = f"{time.strftime('%Y-%m-%dT%H:%M:%S', time.gmtime(now))}.{int(now % 1 * 1e6):06}Z"
    return json.dumps({"event": text, "level": _level(text, stream), "logger": stream, **fields, "timestamp": stamp})


def _level(text: str, stream: str) -> str:
    if letter := _LETTER.match(text):
        return _LEVELS[letter[1] or letter[2]]
    if text.startswith("groupconv: "):  # how a command reports why it ends
        return "error"
    if named := _NAMED.match(text):
        return _LEVELS[named[1][0]]
    return STREAMS[stream]


def _copy(lock: int, inputs: list[int]) -> None:
    """Copy lines from the two pipes to the two streams, until every writer has closed them."""
    left = dict.fromkeys(inputs, b"")
    with selectors.DefaultSelector() as selector:
        for fd in inputs:
            selector.register(fd, selectors.EVENT_READ)
        while left:
            for key, _ in selector.select():
                data = os.read(key.fd, LONGEST)
                *lines, rest = (left[key.fd] + data).split(b"\n")
                if not data or len(rest) >= LONGEST:
                    lines, rest = [*lines, rest], b""
                left[key.fd] = rest
                number = inputs.index(key.fd) + 1
                with _alone(lock):
                    _write(number, _objects(lines, list(STREAMS)[number - 1]))
                if not data:
                    selector.unregister(key.fd)
                    del left[key.fd]


def _objects(lines: list[bytes], stream: str) -> bytes:
    texts = (line.decode("utf-8", "replace").rstrip("\r") for line in lines)
    return "".join(f"{as_json(text, stream)}\n" for text in texts if text.strip()).encode()


@contextmanager
def _alone(lock: int) -> Iterator[None]:
    """Hold the file lock, so that no other process writes. The kernel releases the lock of a process that dies."""
    fcntl.lockf(lock, fcntl.LOCK_EX)
    try:
        yield
    finally:
        fcntl.lockf(lock, fcntl.LOCK_UN)


def _write(fd: int, data: bytes) -> None:
    try:
        while data:
            data = data[os.write(fd, data) :]
    except OSError:
        return  # nobody reads any more: the writers must not notice


def _main(arguments: list[str]) -> None:
    if not all(argument.isdigit() for argument in arguments):
        capture()
        os.execvp(arguments[0], arguments)  # noqa: S606 - the command that was given
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)
    lock, *inputs = map(int, arguments)
    _copy(lock, inputs)


if __name__ == "__main__":
    _main(sys.argv[1:])
