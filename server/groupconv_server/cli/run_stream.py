"""`groupconv run` from file to file: maps of any size, in windows."""

import math
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import typer

import groupconv
from groupconv.errors import InvalidArgumentError
from groupconv.networks.windows import StreamPlan
from groupconv.streaming.progress import Bar, Progress
from groupconv.text import human_bytes
from groupconv_server import files
from groupconv_server.cli.signals import ended_by_signals
from groupconv_server.files import hdf5, photo, tiff, zarr
from groupconv_server.files.arrays import Opened
from groupconv_server.files.axes import described
from groupconv_server.files.metadata import moved
from groupconv_server.files.values import saturation_notes
from groupconv_server.networks.file_maps import FileMap, FileSink, output_shape, stored_dtype

PARTS = (tiff, zarr, hdf5)
"""Formats that are streamed unless `--whole` is given."""


@dataclass(frozen=True)
class FileStream:
    """What is streamed where.

    Attributes:
        source: path of the input.
        output: path of the output; None only plans.
        select: the output of the network; None is the first.
        mean, std: of pictures.
        dtype: of the output file, or None.
        axes: of the input file, or None.
        window_bytes: that a window may take; 0 leaves it to the server.
        progress: whether a bar is shown; None shows it on a terminal.
        timeout: seconds, or None.
    """

    source: Path
    output: Path | None
    select: str | None
    mean: Sequence[float]
    std: Sequence[float]
    dtype: str | None
    axes: str | None
    window_bytes: int
    progress: bool | None
    timeout: float | None

    def run(self, client: groupconv.Client, net: groupconv.Network) -> None:
        """Say the plan, and run the network unless there is no output."""
        begin = time.monotonic()
        info = net.inputs[0]
        with files.open_input(self.source, self.axes) as source:
            for note in source.notes:
                typer.echo(f"groupconv: {note}", err=True)
            array = source.array.arranged("Z" if len(info.shape) == 4 else "")
            opened = replace(source, array=array)
            samples = array.shape[0]
            select = self.select or net.outputs[0].name
            first = self._map(opened, info, 0)
            plan = client.plan_stream(net, first, outputs=[select], window_bytes=self.window_bytes)
            typer.echo(str(plan) if samples == 1 else f"{plan}\nfor each of {samples} samples", err=True)
            if self.output is not None:
                ended_by_signals(lambda check: self._write(client, net, opened, plan, check), stop=client.close)
                size = human_bytes(files.size_of(self.output))
                typer.echo(f"wrote {self.output}: {size} in {time.monotonic() - begin:.1f} s")

    def _map(self, opened: Opened, info: groupconv.TensorInfo, sample: int) -> FileMap:
        picture = files.family(self.source) in (photo, tiff)
        return FileMap(opened.array, info, sample, mean=self.mean, std=self.std, picture=picture)

    def _write(
        self,
        client: groupconv.Client,
        net: groupconv.Network,
        opened: Opened,
        plan: StreamPlan,
        check: Callable[[], None],
    ) -> None:
        assert self.output is not None
        (info,) = plan.outputs
        one = output_shape(info.shape, len(opened.array.shape))
        samples = opened.array.shape[0]
        shape = (samples, *one[1:])
        stored = stored_dtype(self.dtype, info.dtype, picture=files.is_picture(self.output))
        layout = opened.array.layout.of_output(shape)
        stride = opened.array.shape[2] / shape[2]
        metadata = opened.metadata.filtered(opened.array.shape[1], shape[1], stride, layout.spatial)
        metadata = replace(metadata, alpha="", extrasamples=()) if opened.alpha else metadata
        shows = sys.stderr.isatty() if self.progress is None else self.progress
        bar = Bar(math.prod(shape) * info.dtype.itemsize) if shows else None
        with files.create_output(self.output, layout, stored, metadata) as created:
            saturated = 0
            for n in range(samples):  # each map keeps the rows that it read last
                sink = FileSink(created.array, n, info.shape, info.dtype)  # type: ignore[arg-type] # no free axes
                report = None if bar is None else _Scaled(bar, n, samples)
                client.stream_network(
                    net,
                    self._map(opened, net.inputs[0], n),
                    outputs=[info.name],
                    out=sink,
                    progress=report,
                    window_bytes=self.window_bytes,
                    timeout=self.timeout,
                )
                check()
                saturated += sink.saturated
            if bar is not None:
                bar.close()
        about = (*moved(opened.metadata, metadata), *created.notes, *created.left_out)
        for line in (*saturation_notes(saturated, math.prod(shape), stored), *about):
            typer.echo(f"groupconv: {line}", err=True)
        typer.echo(f"{info.name}: {described(created.axes)} of {stored}")


class _Scaled:
    """The progress of one of several samples, shown as that of all."""

    def __init__(self, bar: Bar, sample: int, samples: int) -> None:
        self._bar, self._sample, self._samples = bar, sample, samples

    def __call__(self, progress: Progress) -> None:
        done = self._sample * progress.of + progress.rows
        self._bar(replace(progress, rows=done, of=progress.of * self._samples))

    def show(self, text: str) -> None:
        self._bar.show(text)


def wants_stream(inputs: Sequence[str], output: Path | None, requested: bool | None) -> bool:
    """Whether a file goes in windows: if requested, or if it is, or becomes, one that is read and written in parts.

    Example:
        >>> wants_stream(["slide.ome.tif"], None, None), wants_stream(["cat.jpg"], Path("cat.npy"), None)
        (True, False)
    """
    if requested is not None:
        return requested
    paths = [Path(inputs[0]), *([] if output is None else [output])] if len(inputs) == 1 else []
    return any(files.family(path) in PARTS for path in paths)


def one_source(inputs: Sequence[str], net: groupconv.Network) -> Path:
    """The path of the only input.

    Raises:
        InvalidArgumentError: there are several.
    """
    if len(inputs) != 1 or len(net.inputs) != 1:
        raise InvalidArgumentError("inputs", "one file and a network with one input, to stream", list(inputs))
    before, equals, after = inputs[0].partition("=")
    return Path(after if equals and before == net.inputs[0].name else inputs[0])
