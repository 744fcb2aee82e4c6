"""`groupconv run`: a network on a picture or on arrays, without code."""

from pathlib import Path
from typing import Annotated

import numpy as np
import typer
from PIL import Image

import groupconv
from groupconv.convolution.steps import Array
from groupconv.errors import InvalidArgumentError
from groupconv.text import table
from groupconv_server.cli.connection import Endpoint
from groupconv_server.cli.options import integers
from groupconv_server.cli.run_stream import FileStream, one_source, wants_stream
from groupconv_server.files import npy
from groupconv_server.layers.names import legal_name
from groupconv_server.networks.pictures import output_picture, picture_input, top_classes

EXAMPLES = """Examples:

$ groupconv run ocr/det page.png -o text.png --mean 0.485,0.456,0.406 --std 0.229,0.224,0.225 --resize 640,640

$ groupconv run squeezenet.onnx cat.jpg --labels imagenet.txt

$ groupconv run pitch audio=voice.npy fmin=50 fmax=900 -o pitch.npy

$ groupconv run nuclei.onnx slide.ome.tif -o mask.zarr --plan
"""


def command(
    endpoint: Endpoint,
    network: Annotated[str, typer.Argument(help="A network that is loaded, or an ONNX file.")],
    inputs: Annotated[
        list[str],
        typer.Argument(
            help="A picture, a .npy file or a number; NAME=VALUE for an input by its name, else in order. Or one image "
            "of any size in a format of groupconv conv."
        ),
    ],
    output: Annotated[
        Path | None,
        typer.Option(
            "--output", "-o", help="A .npy file, a picture of an output with 1 or 3 channels, or TIFF, Zarr, HDF5."
        ),
    ] = None,
    mean: Annotated[
        str, typer.Option(help="Mean that is subtracted from pictures, whose values are from 0 to 1.")
    ] = "0",
    std: Annotated[str, typer.Option(help="Standard deviation by which pictures are divided.")] = "1",
    resize: Annotated[
        str | None, typer.Option(help="H,W of pictures. Default: the network's, or their own where it takes any.")
    ] = None,
    labels: Annotated[
        Path | None, typer.Option(help="A text file with the name of a class in each line.", exists=True)
    ] = None,
    select: Annotated[str | None, typer.Option("--select", help="The output to write. Default: the first.")] = None,
    stream: Annotated[
        bool | None,
        typer.Option("--stream/--whole", help="In windows or in one call. Default: windows for TIFF, Zarr, HDF5."),
    ] = None,
    plan: Annotated[
        bool, typer.Option("--plan", help="Print the windows and the memory of a stream, and run nothing.")
    ] = False,
    window_mib: Annotated[
        int, typer.Option(min=0, help="Most memory of a window, in MiB. Default: the server's choice.")
    ] = 0,
    dtype: Annotated[
        str | None,
        typer.Option(help="Dtype of the file that a stream writes. Default: as computed; uint8 for pictures."),
    ] = None,
    axes: Annotated[str | None, typer.Option(help="Axes of the array in the file, as in groupconv conv.")] = None,
    progress: Annotated[
        bool | None,
        typer.Option("--progress/--no-progress", help="Show a progress bar. Default: if stderr is a terminal."),
    ] = None,
    timeout: Annotated[
        float | None, typer.Option(min=0.001, help="Seconds to wait. Default: 300; no limit in windows.")
    ] = None,
) -> None:
    """Run a network on its inputs, or in windows on an image of any size. Prints classes or writes an output."""
    size = None if resize is None else integers("--resize", resize)
    if size is not None and len(size) != 2:
        raise InvalidArgumentError("--resize", "H,W", resize)
    streams = plan or wants_stream(inputs, output, stream)
    if output is not None and not streams:
        _check_output(output)
    if streams and size is not None:
        raise InvalidArgumentError("--resize", "none, for an image in windows", resize)
    with endpoint.connect(timeout or 300.0) as client:
        of_file = network.endswith(".onnx")
        net = client.load_network(legal_name(Path(network).stem), network) if of_file else client.get_network(network)
        try:
            scaling = _floats("--mean", mean), _floats("--std", std)
            if streams:
                source, most = one_source(inputs, net), window_mib * 2**20
                target = None if plan else output
                FileStream(source, target, select, *scaling, dtype, axes, most, progress, timeout).run(client, net)
                return
            arrays = _arrays(net, inputs, *scaling, size)
            result = net.run(inputs=arrays, outputs=[] if select is None else [select])
        finally:
            if of_file:
                net.unload()
    typer.echo(str(result.report))
    name, y = next(iter(result.outputs.items()))
    names = labels.read_text().splitlines() if labels else []
    if classes := top_classes(y, names):
        typer.echo(table([("class", "value"), *((label, f"{value:.4g}") for label, value in classes)], frozenset({0})))
    else:
        if names:
            typer.echo(f"groupconv: --labels: {name} has no classes: expected the shape (1, classes)", err=True)
        typer.echo(f"output {name}: {y.dtype} {list(y.shape)}")
    if output is not None:
        if output.suffix == ".npy":
            np.save(output, y)
        else:
            output_picture(y).save(output)
        typer.echo(f"{name} is in {output}")


def _check_output(path: Path) -> None:
    """Validate the path of an output that is written whole."""
    Image.init()
    if path.suffix != ".npy" and Image.EXTENSION.get(path.suffix.lower()) not in Image.SAVE:
        raise InvalidArgumentError(
            "--output", "a file name that ends in .npy, .png, .jpg or as another picture", str(path)
        )
    if not path.parent.is_dir():
        raise InvalidArgumentError("--output", "a path in a folder that exists", str(path))


def _arrays(
    net: groupconv.Network, inputs: list[str], mean: list[float], std: list[float], size: tuple[int, ...] | None
) -> dict[str, Array]:
    """The arrays of a call by input name."""
    infos = {info.name: info for info in net.inputs}
    waiting, arrays = list(infos), {}
    for text in inputs:
        before, equals, after = text.partition("=")
        name, value = (before, after) if equals and before in infos else (waiting[0] if waiting else "", text)
        if name not in waiting:
            raise InvalidArgumentError("inputs", f"each of {', '.join(infos)} once", f"{text} as one more")
        waiting.remove(name)
        info, path = infos[name], Path(value)
        if not info.shape and not path.exists():
            arrays[name] = np.array(_floats(name, value)[0], info.dtype)
        elif path.suffix == ".npy":
            arrays[name] = npy.whole(path, name)
        else:
            arrays[name] = picture_input(path, info, mean, std, None if size is None else (size[0], size[1]))
    return arrays


def _floats(option: str, text: str) -> list[float]:
    try:
        return [float(part) for part in text.split(",")]
    except ValueError:
        raise InvalidArgumentError(option, "numbers with commas between", text) from None
