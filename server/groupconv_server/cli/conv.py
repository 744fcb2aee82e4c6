"""`groupconv conv`: convolve images and volumes of any size on a server."""

import math
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import typer

from groupconv.arguments import ready_steps
from groupconv.convolution.kernels import TRUNCATE
from groupconv.convolution.spec import PADDING_MODES
from groupconv.errors import ResourceExhaustedError
from groupconv.streaming.progress import Bar
from groupconv.text import human_bytes
from groupconv_server import files
from groupconv_server.cli.connection import Endpoint
from groupconv_server.cli.options import MathOption
from groupconv_server.cli.signals import ended_by_signals
from groupconv_server.coordinator.problems import problems_of
from groupconv_server.files import filters
from groupconv_server.files.arrays import Created, Opened
from groupconv_server.files.axes import described
from groupconv_server.files.blocks import band_axis
from groupconv_server.files.metadata import moved
from groupconv_server.files.named_filters import NAMES
from groupconv_server.files.values import Fitted, as_request_dtype, conversion_notes, dtype_of_file

EXAMPLES = """Examples:

$ groupconv conv photo.png --kernel sobel-x -o edges.png

$ groupconv conv huge.tif --kernel gaussian:8 -o out.zarr

$ groupconv conv photo.jpg --kernel gaussian:1,gaussian:4,gaussian:8 -o halo.jpg

$ groupconv conv photo.png --kernel gaussian:2 --depthwise-separable luma -o grey.png

$ groupconv conv cells.ome.zarr --kernel gaussian:0.5,2,2 -o soft.ome.zarr

$ groupconv conv cells.ome.zarr --kernel dog:1,3 -o spots.ome.zarr

$ groupconv conv brain.h5:/raw --axes zyx --kernel gaussian:2 -o soft.ome.tif --dtype same

$ groupconv conv scene.tif --kernel gaussian:2 -o soft.tif

$ groupconv conv photo.png --kernel mine.npy --padding-mode reflect -o out.npy
"""


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
            help=f"{', '.join(NAMES)}; several sigmas are those of y,x or z,y,x. One for each channel with commas "
            "between. Or your own, a .npy file: (K, K) for all channels, (C, K, K) for one each, (M, C/g, K, K) to mix "
            "them. In a volume (K, K, K), and so on; (K, K) is then applied plane by plane.",
        ),
    ],
    output: Annotated[Path, typer.Option("--output", "-o", help="The format is that of its name.")],
    depthwise_separable: Annotated[
        str | None,
        typer.Option(help="Mix the channels afterwards: a .npy file (M, C), or luma for the brightness of RGB."),
    ] = None,
    stride: Annotated[int, typer.Option(min=1, help="Step of the window: 2 halves the size.")] = 1,
    dilation: Annotated[int, typer.Option(min=1, help="Distance between kernel taps.")] = 1,
    padding_mode: Annotated[str, typer.Option(help=f"{', '.join(PADDING_MODES)}.")] = "replicate",
    truncate: Annotated[
        float, typer.Option(min=0.1, max=100, help="Standard deviations at which Gaussians are cut.")
    ] = TRUNCATE,
    exact: Annotated[bool, typer.Option("--exact", help="Sum the products directly, without transforms.")] = False,
    precision: MathOption = None,
    absolute: Annotated[
        bool | None,
        typer.Option(
            "--absolute/--signed",
            help="Magnitude or value. Default: magnitude for kernels that sum to 0 (edges); dog and log keep their "
            "sign where the output has one.",
        ),
    ] = None,
    dtype: Annotated[
        str | None,
        typer.Option(
            help="Of the output: uint8, float32 or another; or same, that of the input; integers are saturated. "
            "Default: same for pictures and TIFF, as computed for .npy, Zarr and HDF5."
        ),
    ] = None,
    axes: Annotated[
        str | None,
        typer.Option(
            help="Axes of the array in the file: letters (zyx) or words (time,lat,lon). Default: what the file says."
        ),
    ] = None,
    pyramid: Annotated[
        bool, typer.Option("--pyramid", help="Write smaller copies too; the output's name must end in .ome.zarr.")
    ] = False,
    progress: Annotated[
        bool | None,
        typer.Option("--progress/--no-progress", help="Show a progress bar. Default: if stderr is a terminal."),
    ] = None,
    timeout: Annotated[float | None, typer.Option(help="Seconds to wait. Default: no limit.", min=0.001)] = None,
) -> None:
    """Convolve each channel of an image or a volume with a kernel, keeping its size, in bounded memory.

    Exit codes: 0 done; 1 nothing written, or something left out, which a line names; 2 wrong usage.
    """
    begin = time.monotonic()
    with files.open_input(source, axes) as opened:
        for note in opened.notes:
            typer.echo(f"groupconv: {note}", err=True)
        options: dict[str, Any] = {"truncate": truncate, "stride": stride, "dilation": dilation}
        options |= {"padding_mode": padding_mode, "exact": exact, "math": precision}
        arranged, filtering = _arranged(opened, output, kernel, depthwise_separable, options)
        x = as_request_dtype(arranged)
        ready = ready_steps(filtering.steps, x.dtype)
        *_, last = problems_of(x.shape, x.dtype, ready)
        (n, outputs, *extents), computed = last.geometry.output_shape, last.types.output
        shape = (n, outputs // filtering.parts, *extents)
        stored = _stored_dtype(dtype, output, opened.array.dtype, computed)
        layout = arranged.layout.of_output(shape)
        metadata = opened.metadata.filtered(x.shape[1], shape[1], stride, layout.spatial)
        magnitude = _magnitude(filtering, stored) if absolute is None else absolute
        size = math.prod(layout.array_shape) * stored.itemsize
        shows = sys.stderr.isatty() if progress is None else progress
        with endpoint.connect(timeout) as client:

            def write(check: Callable[[], None]) -> tuple[Fitted, Created]:
                with files.create_output(output, layout, stored, metadata, pyramid=pyramid) as created:
                    out = Fitted(created.array, computed, absolute=magnitude, parts=filtering.parts)
                    client.stream_convolve(x, ready, out=out, progress=Bar(size) if shows else None, timeout=timeout)
                    check()
                return out, created

            try:
                out, created = ended_by_signals(write, stop=client.close)
            except ResourceExhaustedError as error:
                if "band of" not in str(error) or len(layout.spatial) == 2 or files.any_order(output):
                    raise
                how = f"or write .ome.zarr, .h5 or .npy: {output.suffix} is filled plane by plane, they along any axis"
                raise ResourceExhaustedError(f"{error}; {how}") from None
    about = (*moved(opened.metadata, metadata), *created.notes, *created.left_out)
    for line in (*conversion_notes(opened.array.dtype), *out.notes(), *about):
        typer.echo(f"groupconv: {line}", err=True)
    seconds = time.monotonic() - begin
    through = human_bytes(int(math.prod(x.shape) * opened.array.dtype.itemsize / seconds))
    written = human_bytes(files.size_of(output))
    typer.echo(f"wrote {output}: {described(created.axes)} of {stored}, {written}; {seconds:.1f} s, {through}/s")
    if created.left_out:
        raise typer.Exit(1)


def _arranged(
    opened: Opened, output: Path, kernel: str, mix: str | None, options: dict[str, Any]
) -> tuple[Any, filters.Filtering]:
    """The input, with axes that the kernel does not touch as samples and with small bands; and its filter."""
    fold = filters.foldable(kernel, mix)
    if opened.alpha or files.is_picture(output):  # a picture has its channels together
        fold = fold.replace("C", "")
    array = opened.array.arranged(fold)

    def filtering() -> filters.Filtering:
        channels, spatial = array.shape[1], array.layout.spatial
        return filters.filtering(kernel, mix, channels, spatial, alpha=opened.alpha, **options)

    filters_of_array = filtering()
    if files.any_order(output):
        first = band_axis(
            array, dict(zip(array.layout.spatial, filters.input_extents(filters_of_array.steps), strict=True))
        )
        if first != array.layout.spatial[0]:
            array = opened.array.arranged(fold, first)
            filters_of_array = filtering()
    return array, filters_of_array


def _magnitude(filtering: filters.Filtering, stored: np.dtype) -> bool:
    """True if magnitudes are the default: for edges, and for a band-pass whose output dtype has no sign."""
    return filtering.edges and not (filtering.signed and stored.kind in "if")


def _stored_dtype(wanted: str | None, output: Path, source: np.dtype, computed: np.dtype) -> np.dtype:
    """The dtype of the output file."""
    if wanted is None:
        wanted = "computed" if files.any_order(output) else "same"  # pictures and TIFF are filled from the top
    if wanted in ("same", "computed"):
        same = np.dtype(np.uint8) if source == np.bool_ else source.newbyteorder("=")
        return same if wanted == "same" else computed
    return dtype_of_file(wanted, "same, or a dtype of numbers")
