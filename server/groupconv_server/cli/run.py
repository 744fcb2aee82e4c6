"""`groupconv run`: a network on a picture or on arrays, without code."""

from pathlib import Path
from typing import Annotated

import numpy as np
import typer

import groupconv
from groupconv.convolution.steps import Array
from groupconv.errors import InvalidArgumentError
from groupconv.text import table
from groupconv_server.cli.connection import Endpoint
from groupconv_server.cli.options import TimeoutOption, integers
from groupconv_server.layers.names import legal_name
from groupconv_server.networks.pictures import output_picture, picture_input, top_classes

EXAMPLES = """Examples:

$ groupconv run ocr/det page.png -o text.png --mean 0.485,0.456,0.406 --std 0.229,0.224,0.225 --resize 640,640

$ groupconv run squeezenet.onnx cat.jpg --labels imagenet.txt

$ groupconv run pitch audio=voice.npy fmin=50 fmax=900 -o pitch.npy
"""


def command(
    endpoint: Endpoint,
    network: Annotated[str, typer.Argument(help="A network that is loaded, or an ONNX file.")],
    inputs: Annotated[
        list[str],
        typer.Argument(help="A picture, a .npy file or a number; NAME=… for an input by its name, else in order."),
    ],
    output: Annotated[
        Path | None,
        typer.Option("--output", "-o", help="A .npy file, or a picture of an output with 1 or 3 channels."),
    ] = None,
    mean: Annotated[str, typer.Option(help="Subtracted from pictures, whose values are from 0 to 1.")] = "0",
    std: Annotated[str, typer.Option(help="Pictures are divided by it.")] = "1",
    resize: Annotated[
        str | None, typer.Option(help="H,W of pictures. Default: the network's, or their own where it takes any.")
    ] = None,
    labels: Annotated[
        Path | None, typer.Option(help="A text file with the name of a class in each line.", exists=True)
    ] = None,
    select: Annotated[str | None, typer.Option("--select", help="The output to write. Default: the first.")] = None,
    timeout: TimeoutOption = 300.0,
) -> None:
    """Run a network once, write an output, show the classes it finds."""
    size = None if resize is None else integers("--resize", resize)
    if size is not None and len(size) != 2:
        raise InvalidArgumentError("--resize", "H,W", resize)
    with endpoint.connect(timeout) as client:
        of_file = network.endswith(".onnx")
        net = client.load_network(legal_name(Path(network).stem), network) if of_file else client.get_network(network)
        try:
            arrays = _arrays(net, inputs, _floats("--mean", mean), _floats("--std", std), size)
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
        typer.echo(f"output {name}: {y.dtype} {list(y.shape)}")
    if output is not None:
        if output.suffix == ".npy":
            np.save(output, y)
        else:
            output_picture(y).save(output)
        typer.echo(f"{name} is in {output}")


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
            raise InvalidArgumentError("inputs", f"one for each of {', '.join(infos)}", text)
        waiting.remove(name)
        info, path = infos[name], Path(value)
        if not info.shape and not path.exists():
            arrays[name] = np.array(_floats(name, value)[0], info.dtype)
        elif path.suffix == ".npy":
            arrays[name] = np.load(path, allow_pickle=False)
        else:
            arrays[name] = picture_input(path, info, mean, std, None if size is None else (size[0], size[1]))
    return arrays


def _floats(option: str, text: str) -> list[float]:
    try:
        return [float(part) for part in text.split(",")]
    except ValueError:
        raise InvalidArgumentError(option, "numbers with commas between", text) from None
