"""One worker as the executor knows it."""

from dataclasses import dataclass, field
from typing import Any

from groupconv_server.executors.base import WorkerInfo


@dataclass(eq=False)
class Slot:
    """A worker: its actor, and whether it answers.

    Attributes:
        id: as plans and reports name it.
        actor: Ray's handle; it stays the same when Ray restarts the process behind it.
        node_id: of the node it was placed on; None where Ray chose.
        ping: the answer to `describe` that is waited for while it is not ready.
        ready: whether it takes shards.
        facts: what it said of itself.
        shards, restarts: what it did, and how often it was lost.
    """

    id: str
    actor: Any
    node_id: str | None
    ping: Any
    ready: bool = False
    facts: dict[str, Any] = field(default_factory=dict)
    shards: int = 0
    restarts: int = 0

    def info(self) -> WorkerInfo:
        """What it said of itself, and what it did."""
        node, engine, device, threads = (self.facts[key] for key in ("node", "engine", "device", "threads"))
        return WorkerInfo(self.id, node, engine, device, threads, self.shards, self.restarts)
