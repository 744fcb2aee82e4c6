"""Executors by name. Ray is imported only when it is asked for."""

from groupconv.errors import InvalidArgumentError
from groupconv_server.executors.base import Executor, WorkerInfo
from groupconv_server.executors.placement import Placement
from groupconv_server.executors.task import Task
from groupconv_worker.resident import CAPACITY

EXECUTORS = ("local", "ray")

__all__ = ["EXECUTORS", "Executor", "Placement", "Task", "WorkerInfo", "create_executor"]


def create_executor(
    name: str,
    *,
    workers: int | None = None,
    threads: int | None = None,
    engine: str = "auto",
    ray_address: str | None = None,
    capacity: int = CAPACITY,
    placement: Placement | None = None,
    hedge: float | None = None,
    spares: int = 0,
) -> Executor:
    """The executor called `name`.

    Args:
        name: "local" (threads of this process) or "ray" (actors placed by Ray).
        workers: how many; None is one per GPU, and without GPUs one, or with Ray one per node of the cluster.
        threads: CPU threads of each worker; None shares this machine's cores among them.
        engine: of each worker.
        ray_address: of a running Ray cluster; None starts one on this machine.
        capacity: bytes of resident layers' weights each worker keeps prepared.
        placement: where Ray's workers go; None spreads them.
        hedge: seconds after which a shard that has not come back from one of Ray's workers is sent to another one too.
        spares: of Ray's workers, that have started and wait to replace a lost one, on each node without GPUs.

    Raises:
        InvalidArgumentError: an unknown name, or an address for the local executor.
        FailedPreconditionError: an engine that cannot run here.
    """
    match name:
        case "local":
            if ray_address:
                raise InvalidArgumentError("ray_address", "executor ray", "executor local")
            from groupconv_server.executors.local import LocalExecutor

            return LocalExecutor(workers=workers, threads=threads, engine=engine, capacity=capacity)
        case "ray":
            from groupconv_server.executors.ray import RayExecutor

            return RayExecutor(
                workers=workers,
                threads=threads,
                engine=engine,
                address=ray_address,
                capacity=capacity,
                placement=placement,
                hedge=hedge,
                spares=spares,
            )
    raise InvalidArgumentError("executor", f"one of {', '.join(EXECUTORS)}", name)
