"""The Ray executor: workers are actors that Ray places, restarts and watches.

One actor per GPU of the cluster; without GPUs one per node, or as many as asked for. A shard whose worker is lost runs
again on another one.

    start.py               starts a cluster of this machine and keeps its head alive, or joins one
    cluster_membership.py  the workers: placed (../placement.py), prepared, watched, drained, started again
    spares.py              workers that wait to replace a lost one
    executor.py            what the coordinator sees; ../lanes/ sends shards
    calls.py               a shard as a Ray call, where no lane takes it
    lane_manager.py        opens lanes (../lanes/); lane_benchmark.py measures them
"""

import os

os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")  # before Ray is imported; it sends nothing home
os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")
os.environ.setdefault("RAY_timeout_ms_task_wait_for_death_info", "200")  # a lost shard runs again sooner

from groupconv_server.executors.ray.executor import RayExecutor

__all__ = ["RayExecutor"]
