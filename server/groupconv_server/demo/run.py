"""The demo from start to end: serve, request, check, print, draw."""

import contextlib
import itertools
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import numpy as np
from rich.console import Console
from rich.progress import Progress, SpinnerColumn, TextColumn, TimeElapsedColumn
from rich.table import Table

import groupconv
from groupconv.convolution.steps import Array
from groupconv.errors import FailedPreconditionError
from groupconv.pictures import save
from groupconv_server import files
from groupconv_server.config import Config
from groupconv_server.demo.cases import alexnet_cases, photo_cases
from groupconv_server.demo.check import Verdict, judge
from groupconv_server.demo.sheet import draw

WIDE = ("variant", "input → output", "weights", "multiply-adds", "shards: workers", "time", "error", "")
NARROW = ("variant", "output", "shards", "time", "error", "")
"""Columns of the table on a wide and on a narrow screen."""
LEFT = {"variant", "shards: workers", ""}


def run_demo(
    *, output: Path, connect: Callable[[], groupconv.Client] | None, executor: str, photo: Path | None
) -> bool:
    """Run all cases; True if all passed.

    Args:
        output: path of the contact sheet.
        connect: returns a client of a running server; None starts a server with two workers.
        executor: of the started server.
        photo: path of an image; None means scikit-image's astronaut.
    """
    progress = Progress(
        SpinnerColumn(), TextColumn("{task.description}"), TimeElapsedColumn(), console=Console(stderr=True)
    )
    with progress:
        task = progress.add_task("starting a server with two workers" if connect is None else "sending requests")

        def show(text: str) -> None:
            progress.update(task, description=text)

        picture = _photograph(photo)
        verdicts: list[Verdict] = []
        with _client(connect, executor) as client:
            for case in itertools.chain(photo_cases(picture), alexnet_cases(picture)):
                show(f"{len(verdicts) + 1}: {case.name}")
                start = time.perf_counter()
                result = client.run(case.x, case.steps)
                verdicts.append(judge(case, result, time.perf_counter() - start))
            plan = client.plan((1, 96, 27, 27), (256, 48, 5, 5), groupconv.ConvSpec(padding=2, groups=2))
        show("drawing the contact sheet")
        save(draw(picture, verdicts), output)
        show("done")
    _print(verdicts, plan.explain(), output)
    return all(v.passed for v in verdicts)


def _photograph(path: Path | None) -> Array:
    """The photograph, (1, 3, H, W) of uint8."""
    if path is None:
        try:
            from skimage import data
        except ModuleNotFoundError:
            raise FailedPreconditionError("the demo's photograph: pip install 'groupconv[demo]'") from None
        return np.ascontiguousarray(data.astronaut().transpose(2, 0, 1))[None]
    with files.open_input(path) as opened:
        pixels: Array = opened.array[0, :, 0 : opened.array.shape[2]][None]
        pixels = pixels[:, : opened.array.shape[1] - opened.alpha]
    if pixels.shape[1] == 1:
        pixels = pixels.repeat(3, axis=1)
    return pixels if pixels.dtype.itemsize == 1 else (pixels >> 8).astype("uint8")


@contextlib.contextmanager
def _client(connect: Callable[[], groupconv.Client] | None, executor: str) -> Iterator[groupconv.Client]:
    if connect is not None:
        with connect() as client:
            yield client
        return
    from groupconv_server.server import Server

    with (
        Server(Config(port=0, executor=executor, workers=2, threads=1)) as server,
        groupconv.connect(server.address, token="") as client,
    ):
        yield client


def _print(verdicts: Sequence[Verdict], plan: str, output: Path) -> None:
    console = Console(width=max(160, Console().width) if not Console().is_terminal else None)
    console.print(verdict_table(verdicts, console.width))
    console.print("How AlexNet's conv2 is cut, and the alternatives:\n" + plan, highlight=False, soft_wrap=True)
    failed = [v.case.name for v in verdicts if not v.passed]
    console.print(
        f"\n{len(verdicts) - len(failed)} of {len(verdicts)} passed; contact sheet: {output}", highlight=False
    )
    if failed:
        console.print(f"failed: {', '.join(failed)}")


def verdict_table(verdicts: Sequence[Verdict], width: int) -> Table:
    """The verdicts; on a screen of fewer than 140 columns without what the contact sheet and a report have, too."""
    columns = WIDE if width >= 140 else NARROW
    table = Table(title="All variants, served and checked against the float64 reference", box=None, pad_edge=False)
    for name in columns:
        table.add_column(name, justify="left" if name in LEFT else "right", no_wrap=True)
    for v in verdicts:
        shards = "+".join(str(len(step)) for step in v.result.report.steps)
        workers = ", ".join(sorted({s.worker for step in v.result.report.steps for s in step}))
        cells = {
            "variant": v.case.name,
            "input → output": f"{_times(v.case.x.shape)} → {_times(v.result.output.shape)}",
            "output": _times(v.result.output.shape),
            "weights": f"{v.weights:,}",
            "multiply-adds": f"{v.multiply_adds / 1e6:,.1f} M",
            "shards: workers": f"{shards}: {workers}",
            "shards": shards,
            "time": f"{v.seconds * 1e3:.0f} ms",
            "error": f"{v.error:.0e}" if v.error else "0",
            "": "[green]ok[/]" if v.passed else "[red]FAILED[/]",
        }
        table.add_row(*(cells[name] for name in columns))
    return table


def _times(shape: Sequence[int]) -> str:
    return "×".join(map(str, shape))
