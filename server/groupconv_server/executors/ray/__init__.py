"""The Ray executor: workers are actors that Ray places, restarts and watches.

One actor per GPU of the cluster; without GPUs one per node, or as many as asked for. A shard whose worker is lost runs
again on another one.

    start.py       a cluster of this machine, whose head is kept alive, or one to join
    placement.py   where workers go
    membership.py  who the workers are: placed, prepared, watched, drained, started again     slots.py  one of them
    calls.py       a shard to a worker and its result back, as a Ray call
    executor.py    tasks to workers, and again where one was lost
"""

import os

os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")  # before Ray is imported; nothing leaves the machine
os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")
os.environ.setdefault("RAY_timeout_ms_task_wait_for_death_info", "200")  # a lost shard runs again so much sooner

from groupconv_server.executors.ray.executor import RayExecutor

__all__ = ["RayExecutor"]
