"""`python -m fuzzing`: broken messages for the decoders and a live server, and valid ones of extreme parameters."""

import logging
import sys
import tempfile
import time
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.table import Table

from fuzzing import decoders, extremes, live
from groupconv_server.config import Config
from groupconv_server.coordinator.limits import Limits
from groupconv_server.server import Server


def main(
    cases: Annotated[int, typer.Option(min=1, help="For the decoders.")] = 500_000,
    calls: Annotated[int, typer.Option(min=0, help="To a live server.")] = 5_000,
    extreme: Annotated[int, typer.Option(min=0, help="Valid requests of extreme parameters, to a server.")] = 5_000,
    seed: Annotated[int, typer.Option(help="Another seed, other cases; the same one, the same.")] = 0,
) -> None:
    """Break messages, and fail on whatever is not a clean refusal; exit code 1 names the case."""
    logging.disable(logging.WARNING)  # the audit has a line for each refusal
    start = time.monotonic()
    try:
        found = {f"decoder: {name}": ended for name, ended in decoders.run(cases, seed).items()}
        decoded = time.monotonic() - start
        if calls:
            limits = Limits(message_bytes=2**20, tensor_bytes=2**22, stream_bytes=2**20, stream_idle_seconds=2)
            with tempfile.TemporaryDirectory() as folder:
                config = Config(
                    port=0, executor="local", workers=2, threads=1, limits=limits, layer_bytes=2**20,
                    layer_dir=Path(folder), shared_memory=True,
                )  # fmt: skip
                with Server(config) as server:
                    found |= {f"live: {name}": ended for name, ended in live.run(server.address, calls, seed).items()}
                    assert server.streams.budget.wait_until_free(10), "a stream's memory was not given back"
                    assert server.layers.bytes == 0, "a layer's memory was not given back"
        broken = time.monotonic() - start
        cost = extremes.run(extreme, seed) if extreme else None
    except AssertionError as failed:
        sys.exit(f"fuzzing: {failed}")
    table = Table("what", "cases", "how they ended")
    for name, ended in found.items():
        most_first = sorted(ended.items(), key=lambda item: -item[1])
        table.add_row(name, f"{sum(ended.values()):,}", ", ".join(f"{n:,} {how}" for how, n in most_first))
    Console(width=140).print(table)
    total = sum(sum(ended.values()) for name, ended in found.items() if name.startswith("decoder"))
    if cost is not None:
        ended = ", ".join(f"{n:,} {how}" for how, n in sorted(cost.ended.items(), key=lambda item: -item[1]))
        seconds = time.monotonic() - start - broken
        typer.echo(
            f"{extreme:,} requests of extreme parameters in {seconds:.0f} s: {ended}; at most "
            f"{cost.cpu[0]:.2f} s of CPU for one, {cost.grown:.0f} MiB more; a second caller's median "
            f"{1e3 * cost.beside:.1f} ms ({1e3 * cost.alone:.1f} alone)"
        )
    seconds = broken
    typer.echo(
        f"{total:,} cases for the decoders in {decoded:.0f} s, {calls:,} calls to a live server in "
        f"{seconds - decoded:.0f} s, seed {seed}: every one a value or a clean refusal"
    )


if __name__ == "__main__":
    typer.run(main)
