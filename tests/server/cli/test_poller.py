"""What `groupconv serve` sets for gRPC before it is imported."""

import os
import subprocess
import sys

import pytest

from groupconv_server.poller import POLLER, choose_poller, forget_poller

VARIABLE, VALUE = POLLER
COMMAND = f"""
import os, runpy, sys
def at_the_import(event, args):
    if event == "import" and args[0] == "grpc":
        print(os.environ.get({VARIABLE!r}))
sys.addaudithook(at_the_import)
runpy.run_module("groupconv_server", run_name="__main__")
"""


def run(*words, **variables):
    """Run the command; give the variable's value as gRPC is imported, and what gRPC logs."""
    env = {key: value for key, value in os.environ.items() if not key.startswith("GRPC_")} | variables
    done = subprocess.run([sys.executable, "-c", COMMAND, *words], env=env, capture_output=True, text=True, check=True)
    return done.stdout.splitlines()[0], done.stderr


def test_serve_sets_a_value_that_grpc_knows_before_it_is_imported():
    value, log = run("serve", "--help")
    assert value == VALUE
    assert "Unknown experiment" not in log


def test_what_the_caller_has_set_stays_and_grpc_names_what_it_does_not_know():
    value, log = run("serve", "--help", **{VARIABLE: "-nothing_known"})
    assert value == "-nothing_known"
    assert "Unknown experiment: nothing_known" in log


def test_other_commands_leave_it():
    assert run("status", "--help")[0] == "None"


@pytest.mark.parametrize(("value", "left"), [(VALUE, None), ("-nothing_known", "-nothing_known")])
def test_ray_does_not_see_it(monkeypatch, value, left):
    monkeypatch.setenv(VARIABLE, value)
    choose_poller()
    forget_poller()
    assert os.environ.get(VARIABLE) == left
