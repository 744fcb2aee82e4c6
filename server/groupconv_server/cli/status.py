"""`groupconv status`: what a server consists of, and what it does."""

import json
import time
from typing import Annotated

import typer
from google.protobuf import json_format
from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.table import Table
from rich.text import Text

from groupconv.text import counted, human_bytes
from groupconv.v1 import cluster_pb2
from groupconv_server.cli.connection import Endpoint
from groupconv_server.cli.options import TimeoutOption

EXAMPLES = """Examples:

$ groupconv status

$ groupconv status --watch

$ groupconv status --target gpu-box:50051 --json
"""
Status = cluster_pb2.GetClusterResponse
WIDTH = 160
"""Columns without a terminal."""
WIDE = 130
"""Columns from which on the table of workers has their nodes and devices."""


def command(
    endpoint: Endpoint,
    watch: Annotated[bool, typer.Option("--watch", "-w", help="Refresh until Ctrl-C.")] = False,
    every: Annotated[float, typer.Option(help="Seconds between two refreshes.", min=0.1)] = 1.0,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON; with --watch, one object a line.")] = False,
    timeout: TimeoutOption = 10.0,
) -> None:
    """Show a server's versions, workers, layers and load.

    Rates are averages since the start of the server; with --watch, since the last refresh.
    """
    console = Console()
    if not console.is_terminal:
        console = Console(width=WIDTH)
    wide = console.width >= WIDE
    with endpoint.connect(timeout) as client:
        s = client.status()
        if as_json:
            typer.echo(_json(s, indent=None if watch else 2))
        elif not watch:
            console.print(picture(s, Status(), endpoint.target, wide=wide))
        if not watch:
            return
        try:
            if as_json:
                while True:
                    time.sleep(every)
                    typer.echo(_json(client.status(), indent=None))
            with Live(picture(s, Status(), endpoint.target, wide=wide), console=console, auto_refresh=False) as live:
                while True:
                    time.sleep(every)
                    before, s = s, client.status()
                    live.update(picture(s, before, endpoint.target, wide=wide), refresh=True)
        except KeyboardInterrupt:
            return


def picture(now: Status, before: Status, target: str, *, wide: bool = True) -> RenderableType:
    """The state as tables.

    Args:
        now: the state.
        before: an earlier one, which the rates are since; an empty one is the start.
        target: address of the server.
        wide: whether nodes and devices have room in the table of workers; else they follow it, in lines.
    """
    passed = max(1e-9, now.uptime_seconds - before.uptime_seconds)
    busy = (now.cpu_seconds - before.cpu_seconds) / passed
    libraries = ", ".join(f"{name} {version}" for name, version in sorted(now.libraries.items()))
    state = now.state + (f": {now.trouble}" if now.trouble else "")
    head = Text(
        f"groupconv {now.version} at {target}, executor {now.executor}, up {now.uptime_seconds:.0f} s\n"
        f"{state}\n"
        f"{now.requests} requests, {(now.requests - before.requests) / passed:.1f}/s, {now.running} running; "
        f"{counted(now.streams, 'stream')}; "
        f"messages up to {human_bytes(now.max_message_bytes)}\n"
        f"coordinator: {human_bytes(now.resident_bytes)} of memory, {busy:.0%} of a CPU; {libraries}"
    )
    parts: list[RenderableType] = [head, _workers(now, before, passed, wide=wide)]
    if not wide:
        parts += [Text(f"{w.id}: {w.device} on {w.node}" + f", lane {_lane(w)}" * _has_lanes(now)) for w in now.workers]
    if now.processes:
        parts.append(_processes(now, before, passed))
    if now.layers:
        parts.append(_layers(now, before, passed))
    return Group(*parts)


def _processes(now: Status, before: Status, passed: float) -> Table:
    table = _table("process", "pid", numbers=("connections", "requests", "requests/s", "CPU", "memory", "restarts"))
    earlier = {p.pid: p for p in before.processes}
    for p in now.processes:
        old = earlier.get(p.pid, cluster_pb2.Process())
        numbers = (
            str(p.connections),
            str(p.requests),
            f"{(p.requests - old.requests) / passed:.1f}",
            f"{(p.cpu_seconds - old.cpu_seconds) / passed:.0%}",
            human_bytes(p.resident_bytes),
            str(p.restarts),
        )
        table.add_row(str(p.index), str(p.pid), *numbers)
    return table


def _workers(now: Status, before: Status, passed: float, *, wide: bool) -> Table:
    numbers = ("threads", "shards", "shards/s", "calibration", "load", "restarts")
    places = ("node", "engine", "device", *(["lane"] if _has_lanes(now) else [])) if wide else ()
    table = _table("worker", *places, numbers=numbers)
    earlier = {w.id: w for w in before.workers}
    for w in now.workers:
        old = earlier.get(w.id, cluster_pb2.Worker())
        rate, load = (w.shards - old.shards) / passed, (w.busy_seconds - old.busy_seconds) / passed
        numbers = (
            str(w.threads),
            str(w.shards),
            f"{rate:.1f}",
            str(w.calibration_shards),
            f"{max(0.0, load):.0%}",
            str(w.restarts),
        )
        cells = (w.node, w.engine, w.device, _lane(w))[: len(places)]
        table.add_row(w.id, *cells, *numbers)
    return table


def _has_lanes(now: Status) -> bool:
    return now.executor == "ray"


def _lane(w: cluster_pb2.Worker) -> str:
    if not w.lane:
        return "none"
    return f"{w.lane}, to {human_bytes(w.lane_limit)}" if w.lane_limit else w.lane


def _layers(now: Status, before: Status, passed: float) -> Table:
    table = _table("layer", numbers=("version", "weights", "requests", "requests/s", "mean", "failed"))
    earlier = {(layer.name, layer.version): layer for layer in before.layers}
    for layer in now.layers:
        old = earlier.get((layer.name, layer.version), cluster_pb2.LayerLoad())
        done, spent = layer.requests - old.requests, layer.seconds - old.seconds
        mean = f"{spent / done * 1e3:.2f} ms" if done else "–"
        numbers = (str(layer.requests), f"{done / passed:.1f}", mean, str(layer.failures))
        table.add_row(layer.name, str(layer.version), human_bytes(layer.bytes), *numbers)
    table.caption = f"{human_bytes(now.layer_bytes)} of {human_bytes(now.layer_capacity)} for layers"
    return table


def _table(*names: str, numbers: tuple[str, ...]) -> Table:
    table = Table(box=None, pad_edge=False)
    for i, name in enumerate(names):
        table.add_column(name, no_wrap=i == 0)
    for name in numbers:
        table.add_column(name, justify="right", no_wrap=True)
    return table


def _json(s: Status, indent: int | None) -> str:
    """Numbers as numbers, where protobuf's own JSON has 64-bit ones as strings."""
    fields = json_format.MessageToDict(s, preserving_proto_field_name=True, always_print_fields_with_no_presence=True)
    return json.dumps(_numbers(fields), indent=indent, ensure_ascii=False)


def _numbers(value: object) -> object:
    if isinstance(value, dict):
        return {k: v if k in TEXTS else _numbers(v) for k, v in value.items()}
    if isinstance(value, list):
        return [_numbers(v) for v in value]
    return int(value) if isinstance(value, str) and value.isdigit() else value


TEXTS = frozenset({"libraries", "id", "node", "engine", "device", "name", "executor", "state", "trouble", "lane"})
"""Fields that stay text whatever they look like."""
