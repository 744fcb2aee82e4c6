"""Steps and checks, and the commands they run."""

import contextlib
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent.parent


class Failed(Exception):  # noqa: N818 - reads as the sentence it is
    """A step or a check did not do what it should."""


class Report:
    """Prints a line for each step and each check, and counts the checks."""

    def __init__(self) -> None:
        self.passed = self.failed = 0

    @contextlib.contextmanager
    def step(self, name: str) -> Iterator[None]:
        """A part that must succeed but checks nothing of its own."""
        start = time.monotonic()
        print(f"…      {name}", flush=True)
        yield
        print(f"done   {name} ({time.monotonic() - start:.1f} s)", flush=True)

    @contextlib.contextmanager
    def check(self, name: str) -> Iterator[None]:
        """A promise of the stack."""
        start = time.monotonic()
        print(f"…      {name}", flush=True)
        try:
            yield
        except Failed:
            self.failed += 1
            print(f"FAILED {name} ({time.monotonic() - start:.1f} s)", flush=True)
            raise
        self.passed += 1
        print(f"passed {name} ({time.monotonic() - start:.1f} s)", flush=True)


def run(*command: str, timeout: float, code: int | None = 0) -> str:
    """What a command prints, both streams together.

    Raises:
        Failed: it ended with another exit code (None: any will do), or not in time.
    """
    try:
        done = subprocess.run(
            command, cwd=ROOT, timeout=timeout, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, check=False
        )
    except subprocess.TimeoutExpired as late:
        said = (late.stdout or b"").decode(errors="replace")  # bytes, though text was asked for
        raise Failed(f"{' '.join(command)}: not done after {timeout:.0f} s\n{said[-3000:]}") from None
    if code is not None and done.returncode != code:
        raise Failed(f"{' '.join(command)}: exit code {done.returncode}\n{done.stdout[-3000:]}")
    return done.stdout


def expect(true: object, otherwise: str) -> None:
    """The core of a check."""
    if not true:
        raise Failed(otherwise)


def wait_until(condition: Callable[[], object], otherwise: str, *, timeout: float) -> None:
    """Ask until it holds. A command that fails meanwhile is asked again."""
    end, last = time.monotonic() + timeout, ""
    while True:
        try:
            if condition():
                return
        except Failed as failed:
            last = f"\n{failed}"
        expect(time.monotonic() < end, f"{otherwise} after {timeout:.0f} s{last}")
        time.sleep(0.3)
