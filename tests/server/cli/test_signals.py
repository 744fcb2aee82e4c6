"""Commands that a signal ends, in processes of their own."""

import signal
import subprocess
import sys

import pytest

from groupconv_server.cli.signals import ended_by_signals

BETWEEN = """
import os, sys, threading
from groupconv_server.cli.signals import ended_by_signals

lock, stopped = threading.Lock(), threading.Event()

class Condition:
    def __enter__(self):
        lock.acquire()
        os.kill(os.getpid(), int(sys.argv[1]))  # as it may come, between taking the lock and having it

    def __exit__(self, *_):
        lock.release()

def work(check):
    try:
        with Condition():
            stopped.wait()
        raise RuntimeError("stopped")
    finally:
        with lock:  # cleaning up needs the lock that the work used
            print("cleaned")

ended_by_signals(work, stop=stopped.set)
"""
LATE = """
import os, sys, threading
from groupconv_server.cli.signals import ended_by_signals

stopped = threading.Event()

def work(check):
    os.kill(os.getpid(), int(sys.argv[1]))
    stopped.wait()
    check()
    print("replaced")

ended_by_signals(work, stop=stopped.set)
"""
DEAF = """
from groupconv_server.cli.signals import ended_by_signals
import threading

def work(check):
    print("begun", flush=True)
    threading.Event().wait()

ended_by_signals(work, stop=lambda: print("asked", flush=True))
"""


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_a_signal_leaves_no_lock_taken(number):
    command = ["env", "--default-signal=INT", sys.executable, "-c", BETWEEN, str(int(number))]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert (done.returncode, done.stdout, done.stderr) == (128 + number, "cleaned\n", "")


def test_a_second_signal_ends_work_that_does_not_stop():
    with subprocess.Popen([sys.executable, "-c", DEAF], stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout.readline() == "begun\n"
        process.send_signal(signal.SIGTERM)
        assert process.stdout.readline() == "asked\n"
        process.send_signal(signal.SIGHUP)
        assert process.wait(60) == 128 + signal.SIGTERM


def test_work_that_does_not_fail_replaces_nothing_after_a_signal():
    command = [sys.executable, "-c", LATE, str(int(signal.SIGTERM))]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert (done.returncode, done.stdout, done.stderr) == (128 + signal.SIGTERM, "", "")


def test_an_error_of_the_work_is_raised():
    before = [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)]
    with pytest.raises(ZeroDivisionError):
        ended_by_signals(lambda check: 1 // 0, stop=lambda: None)
    assert before == [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)]
