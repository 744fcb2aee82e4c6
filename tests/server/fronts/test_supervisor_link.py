"""What a process of several asks its supervisor, if that is slow, stopped or silent."""

import os
import socket
import threading
from contextlib import contextmanager
from pathlib import Path

import pytest

from groupconv.errors import CancelledError, UnavailableError
from groupconv_server.admission.gate import Gate, present
from groupconv_server.fronts.child import SILENT, SupervisorLink
from groupconv_server.fronts.link import Link


@contextmanager
def linked(**handlers):
    """A process's link, and the supervisor's end."""
    ends = socket.socketpair()
    with SupervisorLink(ends[0], {}) as here, Link(ends[1], handlers) as there:
        yield here, there


def silent(link, there):
    """Let a link hear its supervisor once, and then no more."""
    there.beat()
    while link.look() or not link._heard:
        pass
    while link.look() < SILENT:
        pass


def test_a_call_ends_with_the_request_that_it_is_made_for():
    begun, never, ticket = threading.Event(), threading.Event(), Gate(1, 0, 100).enter()
    entered = present.set(ticket)
    try:
        with linked(wait=lambda: begun.set() or never.wait()) as (link, _):
            gone = threading.Thread(target=lambda: begun.wait() and ticket.leave())
            gone.start()
            with pytest.raises(CancelledError, match="while the supervisor was asked for wait"):
                link.call("wait")
            gone.join()
            never.set()
    finally:
        present.reset(entered)


def test_calls_of_a_silent_supervisor_fail_until_it_is_heard_again():
    begun, never = threading.Event(), threading.Event()
    with linked(wait=lambda: begun.set() or never.wait(), add=lambda a, b: a + b) as (link, there):
        answer = link.start("wait")
        begun.wait()
        silent(link, there)
        for failing in (answer.result, lambda: link.call("add", 1, 2), link.start("add", 1, 2).result):
            with pytest.raises(UnavailableError, match="the supervisor of this server does not answer"):
                failing()
        never.set()
        there.beat()
        while link.look():
            pass
        assert link.call("add", 1, 2) == 3


def test_nobody_waits_to_send_to_a_process_that_reads_nothing():
    ends, handle = socket.socketpair(), os.memfd_create("unsent")
    link = SupervisorLink(ends[0], {})
    calls = [link.start("add", bytes(2**20), handle=handle) for _ in range(8)]
    link.close()  # what was not sent is dropped, with its descriptors
    for call in calls:
        with pytest.raises(UnavailableError):
            call.result()
    assert sum("memfd:unsent" in str(opened.resolve()) for opened in Path("/proc/self/fd").iterdir()) == 1
    ends[1].close()
    os.close(handle)
