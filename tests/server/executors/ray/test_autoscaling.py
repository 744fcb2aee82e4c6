"""A cluster that adds nodes by demand: Ray's own autoscaler with its provider for one machine."""

import pytest

import groupconv
from clusters import Cluster
from waiting import until

pytestmark = [pytest.mark.ray, pytest.mark.slow, pytest.mark.timeout(300)]

NODE = {"node_config": {}, "min_workers": 0, "max_workers": 4}
CONFIG = {
    "cluster_name": "test",
    "max_workers": 4,
    "idle_timeout_minutes": 10,
    "upscaling_speed": 1,
    "provider": {"type": "fake_multinode", "disable_node_updaters": True, "launch_multiple": True},
    **{key: {} for key in ("auth", "file_mounts")},
    **{key: [] for key in ("cluster_synced_files", "initialization_commands", "setup_commands")},
    **{f"{role}_{what}": [] for role in ("head", "worker") for what in ("setup_commands", "start_ray_commands")},
    "available_node_types": {
        "ray.head.default": {"resources": {"CPU": 0}, "node_config": {}, "max_workers": 0},
        "cpu": NODE | {"resources": {"CPU": 1}},
        "gpu": NODE | {"resources": {"CPU": 1, "GPU": 1}},
    },
    "head_node_type": "ray.head.default",
}
VARIABLES = {"RAY_FAKE_CLUSTER": "1", "AUTOSCALER_UPDATE_INTERVAL_S": "1"}


def test_nodes_come_for_workers_that_have_no_place():
    with (
        Cluster(VARIABLES, autoscaling=CONFIG) as cluster,
        cluster.serving("--workers", "2", "--threads", "1") as (_, address),
        groupconv.connect(address, timeout=60) as client,
    ):
        until(lambda: len(client.status().workers) == 2, seconds=120, every=0.5)
