"""Workers on nodes with GPUs, real clusters of Ray: it counts GPUs that it is told of, and engines compute on CPUs."""

import subprocess
import sys

import pytest

import groupconv
from clusters import Cluster, kill_tree
from waiting import until

pytestmark = [pytest.mark.ray, pytest.mark.timeout(300)]

OTHER_JOB = """
import ray, sys
ray.init(address=sys.argv[1], logging_level="ERROR")
@ray.remote(num_gpus=1, num_cpus=0)
class Holder:
    def here(self):
        return True
holder = Holder.remote()
ray.get(holder.here.remote())
print("held", flush=True)
sys.stdin.read()
"""


def workers(client, count):
    until(lambda: len(client.status().workers) == count, seconds=180, every=0.2)
    return sorted(client.status().workers, key=lambda worker: worker.device)


@pytest.mark.parametrize(
    ("cpus", "gpus", "arguments", "count", "threads"),
    [
        (1, 2, ["--threads", "8"], 2, 1),
        pytest.param(2, 4, [], 4, 1, marks=pytest.mark.slow),
        pytest.param(8, 4, ["--threads", "8"], 4, 2, marks=pytest.mark.slow),
        pytest.param(4, 2, ["--worker-gpus", "0.5"], 4, 1, marks=pytest.mark.slow),
    ],
)
def test_each_gpu_has_its_worker(cpus, gpus, arguments, count, threads):
    with Cluster({"GROUPCONV_ENGINE": "auto"}) as cluster:
        cluster.add(cpus=cpus, gpus=gpus)
        with (
            cluster.serving(*arguments, "--engine", "auto") as (_, address),
            groupconv.connect(address, timeout=60) as client,
        ):
            found = workers(client, count)
            assert [worker.threads for worker in found] == [threads] * count
            devices = [worker.device.rsplit(", GPU ")[1] for worker in found]
            assert devices == sorted(f"{i * gpus // count} (not used)" for i in range(count))
            assert client.status().trouble == ""


@pytest.mark.slow
def test_a_worker_waits_for_a_gpu_that_another_job_holds_and_status_says_so():
    """Also where the cluster has two GPUs free, but on two nodes."""
    with Cluster() as cluster:
        cluster.add(cpus=1, gpus=2)
        job = subprocess.Popen(
            [sys.executable, "-c", OTHER_JOB, cluster.address],
            env=cluster.env,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        try:
            assert job.stdout.readline().strip() == "held"
            cluster.add(cpus=1, gpus=3)
            with (
                cluster.serving("--engine", "auto", "--worker-gpus", "2") as (_, address),
                groupconv.connect(address, timeout=60) as client,
            ):
                workers(client, 1)
                until(lambda: "waits" in client.status().trouble, every=0.2)
                said = client.status().trouble
                assert "waits for 2 GPUs and 1 CPU on " in said
                assert said.endswith(", which has 1 GPU free")
                job.stdin.close()
                workers(client, 2)
                until(lambda: client.status().trouble == "", every=0.2)
        finally:
            kill_tree(job)
