"""`groupconv status`: what a server consists of."""

import typer

from groupconv.explain import human_bytes, table
from groupconv_server.cli.app import TimeoutOption
from groupconv_server.cli.connection import Endpoint

NAME = "status"
EXAMPLES = """Examples:

$ groupconv status

$ groupconv status --target gpu-box:50051
"""


def command(endpoint: Endpoint, timeout: TimeoutOption = 10.0) -> None:
    """Show a server's version, load and workers."""
    with endpoint.connect(timeout) as client:
        s = client.status()
    typer.echo(
        f"groupconv {s.version} at {endpoint.target}, executor {s.executor}: {s.requests} requests in "
        f"{s.uptime_seconds:.0f} s, messages up to {human_bytes(s.max_message_bytes)}"
    )
    rows = [("worker", "node", "engine", "device", "shards", "restarts")]
    rows += [(w.id, w.node, w.engine, w.device, str(w.shards), str(w.restarts)) for w in s.workers]
    typer.echo(table(rows, left=frozenset(range(4))))
