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
from groupconv_server.fronts.status import Status, merge
from groupconv_server.fronts.supervisor import Supervisor

WORKERS = {
    "own": {"executor": "local", "workers": None},
    "local": {"executor": "local", "workers": 2, "threads": 1},
    "ray": {"executor": "ray", "workers": 2, "threads": 1, "spare_workers": 0},
}[os.environ.get("TWO_PROCESSES", "own")]


class Server(Supervisor):
    """What tests start for a server of one process."""

    def __init__(self, config):
        super().__init__(replace(config, processes=2, evict_layers=False, **WORKERS))
        self.background = SimpleNamespace(wait=lambda: self.gather("wait_for_background"))
        self.background.wait()  # what tests send is all that is counted

    @property
    def coordinator(self):
        """What both run."""
        found = merge([Status.FromString(status) for status in self.gather("cluster")])
        return SimpleNamespace(running=found.running)

    @property
    def layers(self):
        """The memory of what is loaded, and is being loaded."""
        held = self._sum.registry().get_sample_value("groupconv_layers_bytes")
        return SimpleNamespace(bytes=held)


LOOK_INSIDE = {
    # objects of the server, or what its process logs
    "test_the_workers_prepare_a_kernel_once",
    "test_large_arrays_go_by_stream_without_being_asked",
    "test_layers_over_the_quota_are_refused_and_leave_nothing",
    "test_every_refusal_is_in_the_audit_with_the_name_of_the_token_and_never_the_token",
    "test_bytes_are_paid_for_and_a_stream_under_way_is_slowed",
    "test_triton_clients_cannot_name_or_list_it",
    "test_who_waits_is_counted_and_weighed",
    "test_a_taken_port_is_said",
    "test_a_requests_own_timeout_ends_it",
    "test_a_region_unregistered_during_a_request_serves_it_to_the_end",
    "test_the_regions_of_a_client_that_left_are_anyones",
    "test_a_layer_is_prepared_on_every_worker_when_it_is_loaded_not_when_it_is_first_used",
    "test_a_new_version_is_prepared_for_what_the_one_before_was_given",
    "test_an_input_to_expect_that_does_not_fit_refuses_the_load",
    "test_results_outlive_the_client_and_the_server",
    "test_a_server_that_was_started_anew",
    "test_a_stream_that_falls_silent_is_ended",
    "test_of_a_caller_who_goes_while_its_shard_waits_nothing_is_computed",
    # workers of another executor, or more than one
    "test_with_ray",
    "test_a_plan_shows_its_shards_and_what_else_was_considered",
    # what several processes refuse: to drop layers that are not in use, and memory of GPUs
    "test_a_header_without_weights_costs_the_others_nothing",
    "test_where_the_operator_allows_it_the_least_recently_used_layer_leaves",
    "test_a_message_that_is_none_is_refused[/groupconv.v1.MemoryService/RegisterDeviceMemory]",
}
"""Tests that cannot be run so, or cases of them."""


def pytest_configure(config):
    """Not when this is imported, as the collection of doctests imports every file."""
    groupconv_server.server.Server = Server
    groupconv.connect = functools.partial(groupconv.connect, connections=4)


def pytest_collection_modifyitems(items):
    """Leave them out."""
    items[:] = [item for item in items if LOOK_INSIDE.isdisjoint((item.name, getattr(item, "originalname", None)))]
