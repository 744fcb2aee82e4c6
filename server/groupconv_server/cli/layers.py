"""`groupconv layers`: the resident layers of a server."""

import json
from dataclasses import replace
from fnmatch import fnmatch
from pathlib import Path
from typing import Annotated

import typer

import groupconv
from groupconv.convolution.steps import Step
from groupconv.errors import FailedPreconditionError, InvalidArgumentError, NotFoundError, ResourceExhaustedError
from groupconv.layer import LayerInfo
from groupconv.text import human_bytes, table
from groupconv_server.cli.connection import Endpoint
from groupconv_server.cli.options import MathOption, TimeoutOption, integers, with_precision
from groupconv_server.files import npy
from groupconv_server.layers.names import check_name, legal_name
from groupconv_server.layers.onnx_import import read_onnx

HELP = "Load, show and unload the resident layers of a server."
LIST = """Examples:

$ groupconv layers list

$ groupconv layers list --json --target gpu-box:50051
"""
LOAD = """Examples:

$ groupconv layers load resnet50.onnx

$ groupconv layers load resnet50.onnx --prefix net --only '*conv2*' --dry-run

$ groupconv layers load resnet50.onnx --fold-batch-norm

$ groupconv layers load kernel.npy --name edge --padding same --groups 3
"""
UNLOAD = """Examples:

$ groupconv layers unload edge

$ groupconv layers unload 'resnet50/*'
"""
SHOW = """Examples:

$ groupconv layers show alexnet/conv2
"""
STATISTICS = """Examples:

$ groupconv layers statistics

$ groupconv layers statistics alexnet/conv2 --json
"""

REFUSALS = (InvalidArgumentError, FailedPreconditionError, ResourceExhaustedError)
"""Errors by which a server refuses one layer of a file; the others are loaded."""

JsonOption = Annotated[bool, typer.Option("--json", help="Print JSON.")]


def list_(endpoint: Endpoint, as_json: JsonOption = False, timeout: TimeoutOption = 10.0) -> None:
    """List the layers: versions, shapes and bytes."""
    with endpoint.connect(timeout) as client:
        layers = client.list_layers()
    if as_json:
        typer.echo(json.dumps([_described(i) for i in layers]))
        return
    rows = [("layer", "version", "steps", "kernels", "dtype", "bytes")]
    rows += [
        (i.name, str(i.version), str(len(i.specs)), _shapes(i), str(i.dtype), human_bytes(i.bytes)) for i in layers
    ]
    typer.echo(table(rows, left=frozenset({0, 3, 4})) if layers else "no layers are loaded")


def load(
    endpoint: Endpoint,
    file: Annotated[
        Path,
        typer.Argument(
            help="A .onnx file (extra onnx): every Conv and ConvTranspose becomes a layer. Or a .npy file: a kernel.",
            exists=True,
            dir_okay=False,
        ),
    ],
    prefix: Annotated[
        str | None, typer.Option(help="Before each name of an ONNX file. Default: the file's name.")
    ] = None,
    only: Annotated[str, typer.Option(help="Only nodes of an ONNX file whose name fits this pattern.")] = "*",
    fold_batch_norm: Annotated[
        bool,
        typer.Option("--fold-batch-norm", help="A BatchNormalization after a convolution becomes part of its weights."),
    ] = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Say what would be loaded; ask no server.")] = False,
    name: Annotated[str | None, typer.Option(help="Of the layer of a .npy file.")] = None,
    bias: Annotated[Path | None, typer.Option(help="A .npy file: (M,).", exists=True, dir_okay=False)] = None,
    stride: Annotated[int, typer.Option(min=1, help="Of the layer of a .npy file, as the next ones.")] = 1,
    padding: Annotated[str, typer.Option(help="A number, same, same_lower or valid.")] = "0",
    dilation: Annotated[int, typer.Option(min=1, help="Distance between kernel taps.")] = 1,
    groups: Annotated[int, typer.Option(min=1, help="Channel groups.")] = 1,
    transposed: Annotated[bool, typer.Option("--transposed", help="A transposed convolution.")] = False,
    exact: Annotated[
        bool, typer.Option("--exact", help="Sum the products of every layer directly, without transforms.")
    ] = False,
    precision: MathOption = None,
    inputs: Annotated[
        list[str] | None,
        typer.Option("--input", help="N,C,H,W of inputs for which the layers are prepared and tuned now."),
    ] = None,
    timeout: TimeoutOption = 300.0,
) -> None:
    """Load layers from a file. A name that is loaded already gets a new version.

    Exit code 1 if a convolution of the file could not be loaded; the others are.
    """
    layers: list[tuple[str, Step]] = []
    skipped: list[tuple[str, str]] = []
    expected = [integers("--input", shape) for shape in inputs or ()]
    if inputs and file.suffix != ".npy":
        raise InvalidArgumentError(
            "--input", "a .npy file: the layers of an ONNX file take inputs of many shapes", file
        )
    if file.suffix == ".npy":
        if name is None:
            raise InvalidArgumentError("--name", "a name for the layer", None)
        spec = groupconv.ConvSpec(
            stride=stride,
            padding=int(padding) if padding.isdecimal() else padding,  # type: ignore[arg-type]  # refused if unknown
            dilation=dilation,
            groups=groups,
            transposed=transposed,
        )
        layers.append((name, Step(npy.whole(file, "file"), None if bias is None else npy.whole(bias, "file"), spec)))
    else:
        before = legal_name(file.stem) if prefix is None else prefix and check_name(prefix)
        for one in read_onnx(file, before, fold_batch_norm=fold_batch_norm):
            if fnmatch(one.name.removeprefix(f"{before}/"), only):
                if one.step is None:
                    skipped.append((one.name, one.reason))
                else:
                    layers.append((one.name, one.step))
    layers = [(full, replace(step, spec=with_precision(step.spec, precision, exact=exact))) for full, step in layers]
    if dry_run:
        loaded = [(full, "-", step) for full, step in layers]
    else:
        with endpoint.connect(timeout) as client:
            loaded, refused = _loaded(client, layers, expected)
            skipped += refused
    rows = [("layer", "version", "kernel", "spec")]
    rows += [(full, version, _shape(step.kernel.shape), _spec(step.spec)) for full, version, step in loaded]
    if loaded or not skipped:
        typer.echo(table(rows, left=frozenset({0, 2, 3})) if loaded else f"{file} has no convolution to load")
    for full, reason in skipped:
        typer.echo(f"groupconv: {full} was not loaded: {reason}", err=True)
    if skipped or not loaded:
        raise typer.Exit(1)


def _loaded(
    client: groupconv.Client, layers: list[tuple[str, Step]], inputs: list[tuple[int, ...]]
) -> tuple[list[tuple[str, str, Step]], list[tuple[str, str]]]:
    """Load layers: their names, versions and steps; and the names of those that the server refused, with the reason."""
    loaded, refused = [], []
    for name, step in layers:
        try:
            loaded.append((name, str(client.load_layer_steps(name, [step], inputs=inputs).info.version), step))
        except REFUSALS as error:
            refused.append((name, str(error)))
    return loaded, refused


def unload(
    endpoint: Endpoint,
    name: Annotated[str, typer.Argument(help="A layer, or a pattern with * and ?.")],
    timeout: TimeoutOption = 10.0,
) -> None:
    """Unload a layer, or all that fit a pattern, from disk too where the server keeps layers there."""
    with endpoint.connect(timeout) as client:
        names = [i.name for i in client.list_layers() if fnmatch(i.name, name)] if set(name) & set("*?[") else [name]
        for one in names:
            client.unload_layer(one)
            typer.echo(f"{one} is unloaded")
    if not names:
        raise NotFoundError(f"no layer is loaded whose name fits {name!r}")


def show(
    endpoint: Endpoint,
    name: Annotated[str, typer.Argument(help="A layer.")],
    as_json: JsonOption = False,
    timeout: TimeoutOption = 10.0,
) -> None:
    """Show a layer's steps."""
    with endpoint.connect(timeout) as client:
        info = client.get_layer(name).info
    if as_json:
        typer.echo(json.dumps(_described(info)))
        return
    typer.echo(f"{info.name}, version {info.version}, {info.dtype}, {human_bytes(info.bytes)}")
    rows = [("step", "kernel", "spec")]
    rows += [
        (str(i), _shape(shape), _spec(spec))
        for i, (shape, spec) in enumerate(zip(info.kernel_shapes, info.specs, strict=True))
    ]
    typer.echo(table(rows, left=frozenset({1, 2})))


def statistics(
    endpoint: Endpoint,
    name: Annotated[str | None, typer.Argument(help="A layer. Default: all.")] = None,
    as_json: JsonOption = False,
    timeout: TimeoutOption = 10.0,
) -> None:
    """Show what layers did since they were loaded."""
    with endpoint.connect(timeout) as client:
        layers = client.list_layers() if name is None else [client.get_layer(name).info]
    if as_json:
        typer.echo(json.dumps([_described(i) for i in layers]))
        return
    rows = [("layer", "version", "requests", "failed", "samples", "ms/request")]
    rows += [
        (i.name, str(i.version), str(i.requests), str(i.failures), str(i.samples),
         f"{i.seconds / i.requests * 1e3:.2f}" if i.requests else "-")
        for i in layers
    ]  # fmt: skip
    typer.echo(table(rows, left=frozenset({0})))


COMMANDS = (
    ("list", list_, LIST),
    ("load", load, LOAD),
    ("unload", unload, UNLOAD),
    ("show", show, SHOW),
    ("statistics", statistics, STATISTICS),
)


def _described(info: LayerInfo) -> dict[str, object]:
    return {
        "name": info.name,
        "version": info.version,
        "dtype": str(info.dtype),
        "bytes": info.bytes,
        "steps": [
            {"kernel": list(shape), "spec": _spec(spec)}
            for shape, spec in zip(info.kernel_shapes, info.specs, strict=True)
        ],
        "requests": info.requests,
        "failures": info.failures,
        "samples": info.samples,
        "seconds": info.seconds,
        "batches": dict(info.batches),
    }


def _shapes(info: LayerInfo) -> str:
    return " → ".join(map(_shape, info.kernel_shapes))


def _shape(shape: tuple[int, ...]) -> str:
    return "×".join(map(str, shape))


def _spec(spec: groupconv.ConvSpec) -> str:
    """The parameters that differ from the defaults, in a few words."""
    default = groupconv.ConvSpec()
    words = [
        f"{field}={getattr(spec, field)}"
        for field in ("stride", "padding", "dilation", "groups", "output_padding", "padding_mode")
        if _plain(getattr(spec, field)) != _plain(getattr(default, field))
    ]
    words += [field for field in ("transposed", "flip_kernel", "exact") if getattr(spec, field)]
    if spec.math is not None:
        words.append(f"math={spec.math}")
    if spec.activation is not None:
        words.append(getattr(spec.activation, "kind", str(spec.activation)))
    return " ".join(words) or "default"


def _plain(value: object) -> object:
    """One number for as many equal ones: (1, 1) is 1, ((0, 0), (0, 0)) is 0."""
    if isinstance(value, tuple):
        inner = {_plain(v) for v in value}
        return inner.pop() if len(inner) == 1 else value
    return value
