"""`groupconv worker`: bring this machine into a server's Ray cluster."""

import os
import signal
import socket
import sys
import time
from pathlib import Path
from typing import Annotated

import typer

from groupconv.errors import InvalidArgumentError
from groupconv_server.access.variables import check_ray_token
from groupconv_server.telemetry import foreign_lines
from groupconv_server.telemetry.logs import FORMATS

DRAIN = 30
"""Seconds that shards have to end after SIGTERM."""
HEAD_MAY_BE_AWAY = 600
"""Seconds it goes on without the head, and then ends, for its supervisor to have it join anew."""
CONNECTS_WITHIN = 2.0
"""Seconds in which the head takes a connection."""
TRIES_EVERY = 0.5
"""Seconds between looks for a head that does not answer."""
EXAMPLES = """Examples:

$ groupconv worker --join coordinator:6379

$ groupconv worker --join 10.0.0.5:6379 --cpus 8 --labels zone=a
"""


def command(
    join: Annotated[str, typer.Option(envvar="GROUPCONV_JOIN", help="host:port of the Ray head beside the server.")],
    cpus: Annotated[
        int | None,
        typer.Option(envvar="GROUPCONV_CPUS", min=1, help="CPUs to offer. Default: all of this machine."),
    ] = None,
    gpus: Annotated[
        int | None,
        typer.Option(
            envvar="GROUPCONV_NUM_GPUS",
            min=0,
            help="GPUs to offer. Default: those of CUDA_VISIBLE_DEVICES, or all of this machine.",
        ),
    ] = None,
    labels: Annotated[
        str,
        typer.Option(
            envvar="GROUPCONV_LABELS",
            help="Labels of this machine, for servers with --worker-labels: zone=a,rack=b",
        ),
    ] = "",
    threads: Annotated[
        int | None, typer.Option(envvar="GROUPCONV_THREADS", min=1, hidden=True, help="The old name of --cpus.")
    ] = None,
    log_format: Annotated[
        str, typer.Option(envvar="GROUPCONV_LOG_FORMAT", help="console, or json: every line is a JSON object.")
    ] = "console",
) -> None:
    """Join a cluster and run the shards its server sends, until stopped. SIGTERM drains: it finishes what it runs.

    The server starts one worker on each GPU of this machine, or one worker if it has no GPU. Workers share the CPUs.
    The cluster's token is read from RAY_AUTH_TOKEN or RAY_AUTH_TOKEN_PATH.
    """
    check_ray_token()
    if not join.rpartition(":")[0] or not join.rpartition(":")[2].isdecimal():
        raise InvalidArgumentError("--join", "host:port of the Ray head", join)
    if log_format not in FORMATS:
        raise InvalidArgumentError("--log-format", f"one of {', '.join(FORMATS)}", log_format)
    # Told to stop, the node says so and waits until it is idle: the server sends its worker no more shards, and takes
    # it away when those it has are done.
    os.environ.setdefault("RAY_GRACEFUL_SHUTDOWN_DRAIN_TIMEOUT_S", str(DRAIN))
    os.environ.setdefault("RAY_gcs_rpc_server_reconnect_timeout_s", str(HEAD_MAY_BE_AWAY))
    os.environ.setdefault("RAY_worker_niceness", "0")  # at Ray's 15 whatever else runs there comes first
    if threads and not cpus:
        typer.echo("groupconv worker: --threads (GROUPCONV_THREADS) is now called --cpus (GROUPCONV_CPUS)", err=True)
    cpus = cpus or threads or len(os.sched_getaffinity(0))
    ray = Path(sys.executable).with_name("ray")
    arguments = ["start", f"--address={join}", f"--num-cpus={cpus}", "--disable-usage-stats", "--block"]
    arguments += [] if gpus is None else [f"--num-gpus={gpus}"]
    arguments += [f"--labels={labels}"] if labels else []
    if log_format == "json":
        foreign_lines.capture()
    _wait_for_head(join)
    os.execv(ray, [str(ray), *arguments])  # noqa: S606 - Ray's own command takes this process over


def _wait_for_head(address: str) -> None:
    """Return once something answers at host:port, or after `HEAD_MAY_BE_AWAY`: then it is Ray's to report.

    Ray looks for its head with signals held back for seconds, and gives up after a minute.

    Raises:
        SystemExit: told to stop; there is nothing to end in order.
    """
    ends = (signal.SIGTERM, signal.SIGINT)
    before = [signal.signal(number, lambda *_: sys.exit(0)) for number in ends]
    limit, told = time.monotonic() + HEAD_MAY_BE_AWAY, False
    while (why := _why_unreachable(address)) and time.monotonic() < limit:
        if not told:
            typer.echo(
                f"groupconv worker: no head of a cluster answers at {address} ({why}); it is waited for", err=True
            )
            told = True
        time.sleep(TRIES_EVERY)
    for number, handler in zip(ends, before, strict=True):
        signal.signal(number, handler)


def _why_unreachable(address: str) -> str:
    """Why nothing answers at host:port; empty if something does."""
    host, _, port = address.rpartition(":")
    try:
        socket.create_connection((host.strip("[]"), int(port)), CONNECTS_WITHIN).close()
    except OSError as error:
        return error.strerror or str(error)
    return ""
