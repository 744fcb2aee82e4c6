"""How far the programs of a network are, and a line that shows it."""

import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from enum import Enum
from typing import TextIO

from groupconv.errors import DeadlineExceededError, InvalidArgumentError


class Phase(Enum):
    """How far a program of a network is."""

    WAITING = "waiting"
    """onnxruntime answers, and no program is made yet."""
    COMPILING = "compiling"
    """onnxruntime answers, while another process compiles the program's kernels."""
    MEASURING = "measuring"
    """onnxruntime answers, while the program runs in turns with it."""
    PROGRAM = "program"
    """The program answers."""
    SESSION = "session"
    """onnxruntime goes on to answer."""


PENDING = (Phase.COMPILING, Phase.MEASURING)
"""Phases that end by themselves."""
_ORDER = (Phase.MEASURING, Phase.COMPILING, Phase.PROGRAM, Phase.SESSION, Phase.WAITING)
"""Phases in the order in which `foremost` prefers them."""


@dataclass(frozen=True, slots=True)
class NetworkState:
    """Who answers the calls of a network with inputs of certain shapes on a worker; `str(state)` says it in words.

    Attributes:
        phase: how far it is.
        worker: id of the worker; empty before the first call.
        shapes: of the inputs, by name.
        compiled: how many of the `kernels` are compiled.
        kernels: how many have to be compiled; 0 while that is not known.
        reason: why, for people.
        since: when the phase began, in seconds since 1970; 0 before the first call.

    Example:
        >>> print(NetworkState(Phase.COMPILING, compiled=12, kernels=53))
        answered by onnxruntime; compiling 12 of 53 kernels
        >>> print(NetworkState(Phase.SESSION, reason="a program takes 1.03 × its time"))
        stays with onnxruntime: a program takes 1.03 × its time
    """

    phase: Phase
    worker: str = ""
    shapes: Mapping[str, tuple[int, ...]] = field(default_factory=dict)
    compiled: int = 0
    kernels: int = 0
    reason: str = ""
    since: float = 0.0

    @property
    def settled(self) -> bool:
        """Whether it stays so until another call comes."""
        return self.phase not in PENDING

    def __str__(self) -> str:
        match self.phase:
            case Phase.COMPILING:
                kernels = f" {self.compiled} of {self.kernels} kernels" if self.kernels else ""
                return f"answered by onnxruntime; compiling{kernels}"
            case Phase.MEASURING:
                return "answered by onnxruntime; measuring a program beside it"
            case Phase.PROGRAM:
                since = time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(self.since))
                return f"its own program since {since}: {self.reason}"
            case Phase.SESSION:
                return f"stays with onnxruntime: {self.reason}"
            case _:
                return f"answered by onnxruntime; {self.reason}"


NOT_CALLED = NetworkState(Phase.WAITING, reason="not called yet")
"""The state of a network without calls."""


def foremost(states: Sequence[NetworkState]) -> NetworkState:
    """The state that a network is said to have: one that is under way, else one that is settled.

    Example:
        >>> foremost([NetworkState(Phase.SESSION), NetworkState(Phase.COMPILING)]).phase
        <Phase.COMPILING: 'compiling'>
        >>> print(foremost([]))
        answered by onnxruntime; not called yet
    """
    return min(states, key=lambda state: _ORDER.index(state.phase), default=NOT_CALLED)


StateCallback = Callable[[NetworkState], None]
"""A function that is called with each new state."""


class StateLine:
    """A line on a terminal that says the state; elsewhere a line for each state that differs.

    Args:
        stream: to write to; None is stderr.
    """

    def __init__(self, stream: TextIO | None = None) -> None:
        self._stream = sys.stderr if stream is None else stream
        self._terminal, self._text = self._stream.isatty(), ""

    def __call__(self, state: NetworkState) -> None:
        """Show a state."""
        text = str(state)
        if text == self._text:
            return
        self._stream.write(f"\r\x1b[K{text}" if self._terminal else f"{text}\n")
        self._stream.flush()
        self._text = text

    def close(self) -> None:
        """Clear the line."""
        if self._terminal and self._text:
            self._stream.write("\r\x1b[K")
            self._stream.flush()


def state_callback(progress: StateCallback | bool | None) -> StateCallback | None:
    """The callback for `progress=`: True is a `StateLine`, False and None are no callback."""
    if progress is True:
        return StateLine()
    if progress and not callable(progress):
        raise InvalidArgumentError("progress", "a function, True, False or None", progress)
    return progress or None


class Settling:
    """Looks at a network until its programs are settled.

    Args:
        progress: as of `state_callback`.
        timeout: seconds; None waits as long as it takes.
    """

    PAUSE = 0.2
    """Seconds between two looks."""

    def __init__(self, progress: StateCallback | bool | None, timeout: float | None) -> None:
        self._progress, self._timeout = state_callback(progress), timeout
        self._start = time.monotonic()

    def look(self, name: str, state: NetworkState, *, settled: bool) -> bool:
        """Show a state; whether it is settled.

        Raises:
            DeadlineExceededError: it is not, and the time is over.
        """
        if self._progress is not None:
            self._progress(state)
        if not settled and self._timeout is not None and time.monotonic() - self._start > self._timeout:
            raise DeadlineExceededError(f"network {name} is not settled after {self._timeout:g} s: {state}")
        return settled

    def close(self) -> None:
        """End a line on a terminal."""
        end = getattr(self._progress, "close", None)
        if end is not None:
            end()
