"""`groupconv worker`: bring this machine into a server's Ray cluster."""

import os
import sys
from pathlib import Path
from typing import Annotated

import typer

NAME = "worker"
EXAMPLES = """Examples:

$ groupconv worker --join coordinator:6379

$ groupconv worker --join 10.0.0.5:6379 --threads 8
"""


def command(
    join: Annotated[str, typer.Option(envvar="GROUPCONV_JOIN", help="host:port of the Ray head beside the server.")],
    threads: Annotated[
        int | None, typer.Option(envvar="GROUPCONV_THREADS", min=1, help="CPUs to offer. Default: all of this machine.")
    ] = None,
) -> None:
    """Join a cluster and run the shards its server sends, until stopped.

    The server puts one worker on each GPU of this machine, or one on the machine where it has none.
    The cluster's token is read from RAY_AUTH_TOKEN or RAY_AUTH_TOKEN_PATH.
    """
    # Ray would wait for the node to be idle, which one with an actor never is; its shards run again elsewhere.
    os.environ.setdefault("RAY_GRACEFUL_SHUTDOWN_DRAIN_TIMEOUT_S", "0")
    cpus = threads or len(os.sched_getaffinity(0))
    ray = Path(sys.executable).with_name("ray")
    arguments = ["start", f"--address={join}", f"--num-cpus={cpus}", "--disable-usage-stats", "--block"]
    os.execv(ray, [str(ray), *arguments])  # noqa: S606 - Ray's own command takes this process over
