"""States of networks as people read them."""

import io
import re

import pytest

from groupconv.errors import DeadlineExceededError, InvalidArgumentError
from groupconv.networks.info import NetworkInfo
from groupconv.networks.state import NetworkState, Phase, Settling, StateLine, foremost, state_callback
from groupconv.wire.networks import state_from_wire, state_to_wire


def info(requests: int, *states: NetworkState) -> NetworkInfo:
    return NetworkInfo("n", 1, (), (), 1, 1, 1, requests, 0, 0.0, states)


def test_states_are_sentences():
    assert str(NetworkState(Phase.COMPILING)) == "answered by onnxruntime; compiling"
    assert str(NetworkState(Phase.MEASURING)) == "answered by onnxruntime; measuring a program beside it"
    program = str(NetworkState(Phase.PROGRAM, reason="measured at 0.47 ×", since=1e9))
    assert re.fullmatch(r"its own program since 2001-09-\d\d \d\d:\d\d:40: measured at 0.47 ×", program)
    assert str(info(0).state) == "answered by onnxruntime; not called yet"
    assert str(info(3).state) == "answered by onnxruntime; no worker says more"


def test_what_is_under_way_comes_first():
    done, going = NetworkState(Phase.PROGRAM), NetworkState(Phase.COMPILING)
    assert foremost([NetworkState(Phase.WAITING), done, going]) is going
    assert info(2, done, going).state is going
    assert not info(2, done, going).settled
    assert info(2, done).settled


def test_states_travel():
    state = NetworkState(Phase.COMPILING, "local-0", {"x": (1, 3), "t": ()}, 2, 5, "a reason", 1234.5)
    assert state_from_wire(state_to_wire(state)) == state


def test_a_terminal_shows_one_line_and_other_streams_what_changed():
    terminal, other = io.StringIO(), io.StringIO()
    terminal.isatty = lambda: True
    for stream in (terminal, other):
        line = StateLine(stream)
        for compiled in (1, 1, 2):
            line(NetworkState(Phase.COMPILING, compiled=compiled, kernels=9))
        line.close()
    assert terminal.getvalue().startswith("\r\x1b[Kanswered by onnxruntime; compiling 1 of 9 kernels\r")
    assert "\n" not in terminal.getvalue()
    assert terminal.getvalue().endswith("\r\x1b[K")
    assert [text[-20:] for text in other.getvalue().splitlines()] == [
        "piling 1 of 9 kernels"[-20:],
        "piling 2 of 9 kernels"[-20:],
    ]


def test_who_waits_ends_with_a_reason():
    state, shown = NetworkState(Phase.COMPILING, compiled=1, kernels=2), []
    settling = Settling(shown.append, 0.0)
    assert settling.look("n", state, settled=True)
    with pytest.raises(DeadlineExceededError, match=r"network n is not settled after 0 s: .* 1 of 2 kernels"):
        settling.look("n", state, settled=False)
    settling.close()
    assert shown == [state, state]
    with pytest.raises(InvalidArgumentError, match="progress"):
        state_callback("yes")
