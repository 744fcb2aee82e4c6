"""A plugin of pytest: servers that tests start in their own process have two processes, and clients reach both.

python -m pytest -p two_processes tests/integration/test_service.py

TWO_PROCESSES says who computes: own (each front, the default), local (worker processes that both share), ray.
"""

import functools
import os
from dataclasses import replace
from types import SimpleNamespace

import groupconv
import groupconv_server.server
from groupconv_server.fronts.supervisor import Supervisor

WORKERS = {
    "own": {"executor": "local", "workers": None},
    "local": {"executor": "local", "workers": 2, "threads": 1},
    "ray": {"executor": "ray", "workers": 2, "threads": 1, "spare_workers": 0},
}[os.environ.get("TWO_PROCESSES", "own")]


class Server(Supervisor):
    """What tests start for a server of one process."""

    def __init__(self, config):
        super().__init__(replace(config, processes=2, **WORKERS))
        self.background = SimpleNamespace(wait=lambda: self.gather("wait_for_background"))
        self.background.wait()  # what tests send is all that is counted


LOOK_INSIDE = {
    # objects of the server, or what its process logs
    "test_the_workers_prepare_a_kernel_once",
    "test_layers_over_the_quota_are_refused_and_leave_nothing",
    "test_every_refusal_is_in_the_audit_with_the_name_of_the_token_and_never_the_token",
    "test_bytes_are_paid_for_and_a_stream_under_way_is_slowed",
    "test_triton_clients_cannot_name_or_list_it",
    "test_who_waits_is_counted_and_weighed",
    "test_a_taken_port_is_said",
    "test_a_requests_own_timeout_ends_it",
    "test_a_region_unregistered_during_a_request_serves_it_to_the_end",
    "test_the_regions_of_a_client_that_left_are_anyones",
    # what several processes refuse
    "test_where_the_operator_allows_it_the_least_recently_used_layer_leaves",
}
"""Tests that cannot be run so."""


def pytest_configure(config):
    """Not when this is imported, as the collection of doctests imports every file."""
    groupconv_server.server.Server = Server
    groupconv.connect = functools.partial(groupconv.connect, connections=4)


def pytest_collection_modifyitems(items):
    """Leave them out."""
    items[:] = [item for item in items if getattr(item, "originalname", None) not in LOOK_INSIDE]
