"""`groupconv conv`: convolve a photograph on a server."""

from pathlib import Path
from typing import Annotated

import numpy as np
import typer

import groupconv
from groupconv.errors import InvalidArgumentError
from groupconv.kernels import NAMES, kernel_named
from groupconv.requests import Array
from groupconv.spec import PADDING_MODES
from groupconv_server import images
from groupconv_server.cli.app import TimeoutOption
from groupconv_server.cli.connection import Endpoint

NAME = "conv"
EXAMPLES = """Examples:

$ groupconv conv photo.png --kernel sobel-x -o edges.png

$ groupconv conv photo.jpg --kernel gaussian:4 -o soft.jpg

$ groupconv conv photo.png --kernel mine.npy --padding-mode reflect -o out.npy
"""


def command(
    endpoint: Endpoint,
    photo: Annotated[Path, typer.Argument(help="An image, or a .npy array (N, C, H, W).", exists=True, dir_okay=False)],
    kernel: Annotated[
        str, typer.Option("--kernel", "-k", help=f"{', '.join(NAMES)}, or a .npy file: (K, K) or (M, C/g, K, K).")
    ],
    output: Annotated[Path, typer.Option("--output", "-o", help="An image (saturated) or .npy (as computed).")],
    stride: Annotated[int, typer.Option(min=1, help="Step of the window.")] = 1,
    dilation: Annotated[int, typer.Option(min=1, help="Distance between kernel taps.")] = 1,
    padding_mode: Annotated[str, typer.Option(help=f"{', '.join(PADDING_MODES)}.")] = "replicate",
    absolute: Annotated[
        bool | None,
        typer.Option(
            "--absolute/--signed", help="Magnitude or value. Default: magnitude for kernels that sum to 0 (edges)."
        ),
    ] = None,
    timeout: TimeoutOption = 300.0,
) -> None:
    """Convolve each colour of a photograph with a kernel, keeping its size, and save the result."""
    photograph = _read(photo)
    x = photograph.pixels
    if x.dtype not in (np.uint8, np.float16, np.float32, np.float64):
        x = x.astype(np.float32)
    weight, groups = _weight(kernel, x.shape[1])
    spec = groupconv.ConvSpec(
        stride=stride,
        dilation=dilation,
        padding="same",
        padding_mode=padding_mode,  # type: ignore[arg-type]  # ConvSpec refuses what it does not know
        groups=groups,
    )
    with endpoint.connect(timeout) as client:
        result = client.run(x, [groupconv.Step(weight, spec=spec)])
    y = result.output
    is_edges = abs(weight.sum(axis=(1, 2, 3))).max() < 1e-6
    images.write(output, np.abs(y) if (is_edges if absolute is None else absolute) else y, photograph)
    shards = result.report.steps[0]
    on = ", ".join(dict.fromkeys(s.worker for s in shards))
    count = f"{len(shards)} shard{'s' * (len(shards) > 1)}"
    typer.echo(f"{output}: {x.shape[2]}×{x.shape[3]} -> {y.shape[2]}×{y.shape[3]}, {count} on {on}")


def _read(path: Path) -> images.Photograph:
    if path.suffix != ".npy":
        return images.read(path)
    array = np.load(path, allow_pickle=False)
    if array.ndim == 4:
        return images.Photograph(array, None)
    return images.from_pixels(array)


def _weight(kernel: str, channels: int) -> tuple[Array, int]:
    """The kernel as a weight and its groups: a (K, K) kernel runs on each channel, depthwise."""
    from_file = kernel.endswith(".npy")
    array = np.load(kernel, allow_pickle=False).astype(np.float32) if from_file else kernel_named(kernel)
    if array.ndim == 2:
        return np.broadcast_to(array, (channels, 1, *array.shape)), channels
    if array.ndim != 4 or channels % array.shape[1]:
        raise InvalidArgumentError("kernel", f"shape (K, K), or (M, C/g, K, K) for {channels} channels", array.shape)
    return array, channels // array.shape[1]
