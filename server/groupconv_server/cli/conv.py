"""`groupconv conv`: convolve images and volumes of any size on a server."""

import sys
import time
from pathlib import Path
from typing import Annotated

import numpy as np
import typer

from groupconv.convolution.kernels import NAMES
from groupconv.convolution.spec import PADDING_MODES
from groupconv.errors import InvalidArgumentError
from groupconv.text import human_bytes
from groupconv.wire.requests import ready_steps
from groupconv_server import files
from groupconv_server.cli.connection import Endpoint
from groupconv_server.cli.signals import ended_by_signals
from groupconv_server.coordinator.problems import problems_of
from groupconv_server.files import filters
from groupconv_server.files.values import conversion, fitted, travels

NAME = "conv"
EXAMPLES = """Examples:

$ groupconv conv photo.png --kernel sobel-x -o edges.png

$ groupconv conv huge.tif --kernel gaussian:8 -o out.zarr

$ groupconv conv photo.jpg --kernel gaussian:1,gaussian:4,gaussian:8 -o halo.jpg

$ groupconv conv photo.png --kernel gaussian:2 --depthwise-separable luma -o grey.png

$ groupconv conv brain.h5:/raw --axes zyx --kernel gaussian:2 -o soft.ome.tif --dtype same

$ groupconv conv photo.png --kernel mine.npy --padding-mode reflect -o out.npy
"""
PICTURES = (".png", ".jpg", ".jpeg", ".tif", ".tiff", ".webp", ".bmp")


def command(
    endpoint: Endpoint,
    source: Annotated[
        Path,
        typer.Argument(
            metavar="INPUT",
            help="PNG, JPEG; extra images: TIFF (another image than the first: file.tif:IMAGE/LEVEL), Zarr, "
            "HDF5, netCDF 4, MATLAB 7.3 (file.h5:/array), .npy.",
        ),
    ],
    kernel: Annotated[
        str,
        typer.Option(
            "--kernel",
            "-k",
            help=f"{', '.join(NAMES)}; one for each channel with commas between; or a .npy file: (K, K), (C, K, K) or "
            "(M, C/g, K, K).",
        ),
    ],
    output: Annotated[Path, typer.Option("--output", "-o", help="The format is that of its name.")],
    depthwise_separable: Annotated[
        str | None,
        typer.Option(help="Mix the channels afterwards: a .npy file (M, C), or luma for the brightness of RGB."),
    ] = None,
    stride: Annotated[int, typer.Option(min=1, help="Step of the window.")] = 1,
    dilation: Annotated[int, typer.Option(min=1, help="Distance between kernel taps.")] = 1,
    padding_mode: Annotated[str, typer.Option(help=f"{', '.join(PADDING_MODES)}.")] = "replicate",
    absolute: Annotated[
        bool | None,
        typer.Option(
            "--absolute/--signed", help="Magnitude or value. Default: magnitude for kernels that sum to 0 (edges)."
        ),
    ] = None,
    dtype: Annotated[
        str | None,
        typer.Option(
            help="Of the output: uint8, float32, … or same, that of the input; integers are saturated. Default: same "
            "for pictures and TIFF, as computed for .npy, Zarr and HDF5."
        ),
    ] = None,
    axes: Annotated[
        str | None,
        typer.Option(
            help="Of the array in the file: letters (zyx), or words (time,lat,lon). Default: what the file says."
        ),
    ] = None,
    progress: Annotated[
        bool | None, typer.Option("--progress/--no-progress", help="A bar. Default: where stderr is a terminal.")
    ] = None,
    timeout: Annotated[float | None, typer.Option(help="Seconds to wait. Default: for ever.", min=0.001)] = None,
) -> None:
    """Convolve each channel of an image or a volume with a kernel, keeping its size, in bounded memory.

    Exit codes: 0 done; 1 nothing written, or something left out, which a line names; 2 wrong usage.
    """
    begin = time.monotonic()
    with files.open_input(source, axes) as opened:
        for note in opened.notes:
            typer.echo(f"groupconv: {note}", err=True)
        fold = filters.untouched(kernel, depthwise_separable)
        if opened.alpha or files.is_picture(output):  # a picture has its channels together
            fold = fold.replace("C", "")
        arranged = opened.array.arranged(fold)
        x = travels(arranged)
        steps = filters.steps_of(
            kernel,
            depthwise_separable,
            x.shape[1],
            len(x.shape) - 2,
            alpha=opened.alpha,
            stride=stride,
            dilation=dilation,
            padding_mode=padding_mode,
        )
        ready = ready_steps(steps, x.dtype)
        last = problems_of(x.shape, x.dtype, [s.spec for s in ready], [s.kernel for s in ready], [None] * len(ready))[
            -1
        ]
        shape, computed = last.geometry.output_shape, last.types.output
        held = _held(dtype, output, opened.array.dtype, computed)
        layout = arranged.layout.after(shape)
        metadata = opened.metadata.filtered(x.shape[1], shape[1], stride)
        magnitude = filters.finds_edges(steps) if absolute is None else absolute
        with (
            ended_by_signals(),
            files.create_output(output, layout, held, metadata) as created,
            endpoint.connect(timeout) as client,
        ):
            client.stream_convolve(
                x,
                ready,
                out=fitted(created.array, computed, absolute=magnitude),
                progress=sys.stderr.isatty() if progress is None else progress,
                timeout=timeout,
            )
    for line in (*conversion(opened.array.dtype), *created.notes, *created.left_out):
        typer.echo(f"groupconv: {line}", err=True)
    seconds = time.monotonic() - begin
    through = human_bytes(int(np.prod(x.shape, dtype=np.int64) * x.dtype.itemsize / seconds))
    size = human_bytes(files.size_of(output))
    typer.echo(f"wrote {output}: {layout.described()} of {held}, {size}; {seconds:.1f} s, {through}/s")
    if created.left_out:
        raise typer.Exit(1)


def _held(asked: str | None, output: Path, source: np.dtype, computed: np.dtype) -> np.dtype:
    """The dtype of the output file."""
    if asked is None:
        asked = "same" if output.suffix.lower() in PICTURES else "computed"
    if asked in ("same", "computed"):
        same = np.dtype(np.uint8) if source == np.bool_ else source.newbyteorder("=")
        return same if asked == "same" else computed
    try:
        found = np.dtype(asked)
    except TypeError:
        found = np.dtype(object)
    if found.kind not in "uif":
        raise InvalidArgumentError("dtype", "same, or a dtype of numbers (uint8, uint16, float32, …)", asked)
    return found
