"""`groupconv networks`: whole models in ONNX on a server."""

import json
import sys
from dataclasses import asdict
from fnmatch import fnmatch
from pathlib import Path
from typing import Annotated

import typer

from groupconv.errors import InvalidArgumentError, NotFoundError
from groupconv.network import Network
from groupconv.networks.info import NetworkInfo
from groupconv.networks.plan import NetworkPlan
from groupconv.pictures import picture_path
from groupconv.text import human_bytes, table
from groupconv_server.cli.connection import Endpoint
from groupconv_server.cli.options import TimeoutOption, random_inputs, shapes_of
from groupconv_server.layers.names import legal_name

HELP = "Load, show, plan and unload the networks of a server."
LOAD = """Examples:

$ groupconv networks load det.onnx

$ groupconv networks load det.onnx --name ocr/det --input x=1,3,640,640

$ groupconv networks load alexnet.onnx --wait
"""
LIST = """Examples:

$ groupconv networks list

$ groupconv networks list --json --target gpu-box:50051
"""
SHOW = """Examples:

$ groupconv networks show alexnet

$ groupconv networks show alexnet --picture alexnet.svg

$ groupconv networks show alexnet --times

$ groupconv networks show ocr/det --input x=1,3,640,640
"""
PLAN = """Examples:

$ groupconv networks plan ocr/det --input x=1,3,640,640

$ groupconv networks plan alexnet --json

$ groupconv networks plan alexnet --workers 8 --nodes 2

$ groupconv networks plan det.onnx --workers 4 --shape 1,3,1280,1280 --picture cuts.svg --export cut.onnx
"""
UNLOAD = """Examples:

$ groupconv networks unload ocr/det

$ groupconv networks unload 'ocr/*'
"""

JsonOption = Annotated[bool, typer.Option("--json", help="Print JSON.")]
NetworkArgument = Annotated[str, typer.Argument(help="A network that is loaded.")]
InputsOption = Annotated[
    list[str] | None,
    typer.Option("--input", help="NAME=N,C,H,W, once for each input. Default: the network's own, if it is fixed."),
]


def load(
    endpoint: Endpoint,
    file: Annotated[Path, typer.Argument(help="An ONNX file.", exists=True, dir_okay=False)],
    name: Annotated[str | None, typer.Option(help="Of the network. Default: the file's name.")] = None,
    inputs: Annotated[
        list[str] | None, typer.Option("--input", help="NAME=N,C,H,W to prepare for, once for each input.")
    ] = None,
    progress: Annotated[
        bool | None,
        typer.Option("--progress/--no-progress", help="Show a progress bar. Default: if stderr is a terminal."),
    ] = None,
    wait: Annotated[
        bool,
        typer.Option("--wait", help="Call it with random inputs, and wait until it is known what answers fastest."),
    ] = False,
    timeout: TimeoutOption = 300.0,
) -> None:
    """Load a network from an ONNX file. A name that is loaded already gets a new version."""
    shapes = shapes_of(inputs or [])
    shown = sys.stderr.isatty() if progress is None else progress
    with endpoint.connect(timeout) as client:
        network = client.load_network(
            name or legal_name(file.stem),
            file,
            inputs=[shapes] if shapes else [],
            progress=shown,
        )
        typer.echo(str(network.info))
        if wait:
            example = random_inputs(network.inputs, shapes)
            typer.echo(str(network.wait(inputs=example, progress=shown, timeout=timeout)))


def list_(endpoint: Endpoint, as_json: JsonOption = False, timeout: TimeoutOption = 10.0) -> None:
    """List the networks: versions, sizes and what they did."""
    with endpoint.connect(timeout) as client:
        networks = client.list_networks()
    if as_json:
        typer.echo(json.dumps([described(info) for info in networks]))
        return
    rows = [("network", "version", "nodes", "weights", "bytes", "requests", "failed", "ms/request", "state")]
    rows += [
        (i.name, str(i.version), str(i.nodes), f"{i.weights:,}", human_bytes(i.bytes), str(i.requests),
         str(i.failures), f"{i.seconds / i.requests * 1e3:.2f}" if i.requests else "-",
         str(i.state).partition(": ")[0] if i.settled else str(i.state))
        for i in networks
    ]  # fmt: skip
    typer.echo(table(rows, left=frozenset({0, 8})) if networks else "no networks are loaded")


def show(
    endpoint: Endpoint,
    name: NetworkArgument,
    inputs: InputsOption = None,
    picture: Annotated[
        Path | None, typer.Option(help="Draw the network into this file: .png, .svg or .pdf.", dir_okay=False)
    ] = None,
    times: Annotated[
        bool, typer.Option("--times", help="Call it with random inputs, for the time of each node in onnxruntime.")
    ] = False,
    as_json: JsonOption = False,
    timeout: TimeoutOption = 60.0,
) -> None:
    """Show a network: its inputs and outputs, and its nodes with work, receptive field and the last call.

    The nodes are shown for the shapes of --input; without it, if no axis is free.
    """
    if picture is not None:
        picture_path("--picture", picture)
    with endpoint.connect(timeout) as client:
        network = client.get_network(name)
        if as_json:
            typer.echo(json.dumps(described(network.info)))
            return
        typer.echo("\n".join([str(network.info), *_states(network.info)]))
        free = [info.name for info in network.inputs if not all(isinstance(extent, int) for extent in info.shape)]
        if free and not inputs:
            if picture is not None:
                raise InvalidArgumentError("--input", f"{free[0]}=N,C,H,W, as its shape is free", "no --input")
            typer.echo(f"for its nodes: groupconv networks show {name} --input {free[0]}=N,C,H,W")
            return
        if times:
            network.run(inputs=random_inputs(network.inputs, shapes_of(inputs or [])), times=True)
        network_plan = _plan(network, inputs)
    typer.echo(str(network_plan))
    if picture is not None:
        network_plan.picture(picture, name)
        typer.echo(f"drawn: {picture}", err=True)


def plan(
    endpoint: Endpoint,
    name: Annotated[str, typer.Argument(help="A network that is loaded, or an ONNX file.")],
    inputs: InputsOption = None,
    shape: Annotated[str | None, typer.Option(help="N,C,H,W of the first input, as --input says for any.")] = None,
    workers: Annotated[int, typer.Option(min=0, help="Cut it over so many workers, which need not exist.")] = 0,
    in_flight: Annotated[int, typer.Option(min=1, help="Calls at a time that share the workers.")] = 1,
    nodes: Annotated[int, typer.Option(min=1, help="Nodes that have these workers, nearly the same number each.")] = 1,
    picture: Annotated[
        Path | None, typer.Option(help="Draw who makes what into this file: .png, .svg or .pdf.", dir_okay=False)
    ] = None,
    export: Annotated[
        Path | None, typer.Option(help="Write the ONNX file with the cuts, which `networks load` follows.")
    ] = None,
    as_json: JsonOption = False,
    timeout: TimeoutOption = 300.0,
) -> None:
    """Show what a call computes, node by node, and how it is cut over workers: who makes what, and what crosses."""
    of_file = name.endswith(".onnx")
    for option, used in (("--picture", picture), ("--export", export), ("--nodes", nodes > 1)):
        if used and not workers:
            raise InvalidArgumentError("--workers", f"a number, for {option}", "none")
    if export is not None and not of_file:
        raise InvalidArgumentError("--export", "an ONNX file in place of a network's name: FILE.onnx", name)
    if picture is not None:
        picture_path("--picture", picture)
    with endpoint.connect(timeout) as client:
        network = client.load_network(legal_name(Path(name).stem), name) if of_file else client.get_network(name)
        try:
            named_shapes = [*(inputs or []), *([f"{network.inputs[0].name}={shape}"] if shape else [])]
            network_plan = _plan(network, named_shapes, workers, in_flight, nodes)
        finally:
            if of_file:
                network.unload()
    shown = network_plan if network_plan.cuts is None else network_plan.cuts
    typer.echo(json.dumps(shown.as_dict(), ensure_ascii=False) if as_json else str(shown))
    if network_plan.cuts is None:
        return
    if picture is not None:
        network_plan.cuts.picture(picture, Path(name).stem)
        typer.echo(f"drawn: {picture}", err=True)
    if export is not None:
        from groupconv_worker.graph.partition.sharding import write_cuts

        boxes = {t.tensor: [*t.boxes, *(None,) * (workers - len(t.boxes))] for t in network_plan.cuts.tensors}
        export.write_bytes(write_cuts(Path(name).read_bytes(), boxes, workers))
        typer.echo(f"written: {export}", err=True)


def _plan(
    network: Network, inputs: list[str] | None, workers: int = 0, in_flight: int = 1, nodes: int = 1
) -> NetworkPlan:
    shapes = {info.name: info.shape for info in network.inputs} | shapes_of(inputs or [])
    for info in network.inputs:
        if not all(isinstance(extent, int) for extent in shapes[info.name]):
            raise InvalidArgumentError("--input", f"{info.name}=N,C,H,W, as its shape is free: {info}", inputs)
    return network.plan(workers=workers, in_flight=in_flight, nodes=nodes, **shapes)  # type: ignore[arg-type] # integers now


def unload(
    endpoint: Endpoint,
    name: Annotated[str, typer.Argument(help="A network, or a pattern with * and ?.")],
    timeout: TimeoutOption = 10.0,
) -> None:
    """Unload a network, or all that fit a pattern, from disk too where the server keeps networks there."""
    with endpoint.connect(timeout) as client:
        pattern = set(name) & set("*?[")
        names = [info.name for info in client.list_networks() if fnmatch(info.name, name)] if pattern else [name]
        for network in names:
            client.unload_network(network)
            typer.echo(f"{network} is unloaded")
    if not names:
        raise NotFoundError(f"no network is loaded whose name fits {name!r}")


COMMANDS = (
    ("load", load, LOAD),
    ("list", list_, LIST),
    ("show", show, SHOW),
    ("plan", plan, PLAN),
    ("unload", unload, UNLOAD),
)


def _states(info: NetworkInfo) -> list[str]:
    """Who answers calls, for people: a line for each worker and set of input shapes."""
    shapes = [" ".join(f"{name}={','.join(map(str, shape))}" for name, shape in s.shapes.items()) for s in info.states]
    lines = [f"{s.worker}, {of}: {s}" for s, of in zip(info.states, shapes, strict=True)]
    return lines or [str(info.state)]


def described(info: NetworkInfo) -> dict[str, object]:
    """A network for JSON."""
    return {
        "name": info.name,
        "version": info.version,
        "inputs": [{"name": t.name, "dtype": str(t.dtype), "shape": t.shape} for t in info.inputs],
        "outputs": [{"name": t.name, "dtype": str(t.dtype), "shape": t.shape} for t in info.outputs],
        "nodes": info.nodes,
        "weights": info.weights,
        "bytes": info.bytes,
        "requests": info.requests,
        "failures": info.failures,
        "seconds": info.seconds,
        "states": [{**asdict(state), "phase": state.phase.value} for state in info.states],
    }
