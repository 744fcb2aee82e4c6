"""`groupconv plan`: how a convolution would be cut, on a server's workers or on ones that are only imagined."""

import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Annotated

import numpy as np
import typer

import groupconv
from groupconv.convolution.cuts import cut_name
from groupconv.convolution.dtypes import DTYPES
from groupconv.convolution.plan import Plan
from groupconv.errors import InvalidArgumentError
from groupconv.pictures import picture_path
from groupconv_server.cli.connection import Endpoint
from groupconv_server.cli.options import MathOption, TimeoutOption, integers, layer_names, with_precision
from groupconv_server.layers.catalogue import layer_named

EXAMPLES = """Examples:

$ groupconv plan --layer alexnet_conv2 --workers 2

$ groupconv plan --layer alexnet_conv4 --layer alexnet_conv5 --workers 4 --picture towers.svg

$ groupconv plan --layer alexnet_conv2 --workers 4 --cut rows

$ groupconv plan --input 8,64,56,56 --kernel 64,1,3,3 --groups 64 --padding same --target localhost:50051

$ groupconv plan --layer resnet50_3x3_56 --batch 8 --speeds 1,1,3 --link 1.25e9 --json
"""

Shapes = tuple[tuple[int, ...], list[tuple[int, ...]], list[groupconv.ConvSpec]]


def command(
    endpoint: Endpoint,
    layer: Annotated[
        list[str] | None,
        typer.Option(
            autocompletion=layer_names, help="A layer of the catalogue, in place of the shapes; more follow each other."
        ),
    ] = None,
    batch: Annotated[int | None, typer.Option(min=1, help="Samples, in place of the layer's.")] = None,
    input_shape: Annotated[str | None, typer.Option("--input", help="N,C,H,W (or 1-D, 3-D).")] = None,
    kernel_shape: Annotated[str | None, typer.Option("--kernel", help="M,C/g,K,K; transposed C,M/g,K,K.")] = None,
    stride: Annotated[str, typer.Option(help="One number, or one per axis.")] = "1",
    padding: Annotated[str, typer.Option(help="One number, one per axis, same, same_lower or valid.")] = "0",
    dilation: Annotated[str, typer.Option(help="One number, or one per axis.")] = "1",
    groups: Annotated[int, typer.Option(help="Channel groups.")] = 1,
    transposed: Annotated[bool, typer.Option("--transposed", help="A transposed convolution.")] = False,
    exact: Annotated[bool, typer.Option("--exact", help="Sum the products directly, without transforms.")] = False,
    precision: MathOption = None,
    dtype: Annotated[str, typer.Option(help="Of input and kernel.")] = "float32",
    allow_reordering: Annotated[bool, typer.Option(help="Sums over input channels may be cut.")] = False,
    cut: Annotated[
        str | None,
        typer.Option(help="What to cut along instead of the planner's choice: nothing, group, rows, 'group x rows'."),
    ] = None,
    workers: Annotated[
        int | None,
        typer.Option(min=1, max=4096, help="Plan here, for so many equal workers of default rates; no server."),
    ] = None,
    speeds: Annotated[str | None, typer.Option(help="Plan here, for workers of these relative speeds: 1,1,3.")] = None,
    link: Annotated[
        float | None, typer.Option(min=1, help="Bytes per second to a worker, with --workers or --speeds.")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print the plan as JSON.")] = False,
    picture: Annotated[Path | None, typer.Option(help="Draw the plan: .png, .svg or .pdf.", dir_okay=False)] = None,
    timeout: TimeoutOption = 10.0,
) -> None:
    """Show how a convolution would be cut: its shards, their predicted times, what else was considered, why."""
    if picture is not None:
        picture_path("--picture", picture)
    if layer:
        x, kernels, specs = _layers(layer, batch)
    elif input_shape is None or kernel_shape is None:
        raise InvalidArgumentError("--input", "--layer, or --input and --kernel", "neither")
    else:
        x, kernels = integers("--input", input_shape), [integers("--kernel", kernel_shape)]
        spec = groupconv.ConvSpec(
            stride=integers("--stride", stride),
            padding=padding if padding.isidentifier() else integers("--padding", padding),  # type: ignore[arg-type]
            dilation=integers("--dilation", dilation),
            groups=groups,
            transposed=transposed,
        )
        specs = [spec]
        x = x if batch is None else (batch, *x[1:])
    specs = [with_precision(spec, precision, exact=exact) for spec in specs]
    if workers is None and speeds is None:
        with endpoint.connect(timeout) as client:
            plan = client.plan_steps(x, kernels, specs, dtype=dtype, allow_reordering=allow_reordering, cut=cut)
    else:
        relative = _numbers("--speeds", speeds) if speeds is not None else [1.0] * (workers or 1)
        plan = _imagined(
            (x, kernels, specs), dtype, relative, link, allow_reordering=allow_reordering, cut=cut_name(cut)
        )
    typer.echo(json.dumps(plan.as_dict(), ensure_ascii=False) if as_json else plan.explain())
    if picture is not None:
        plan.picture(picture)
        typer.echo(f"drawn: {picture}", err=True)


def _layers(names: Sequence[str], batch: int | None) -> Shapes:
    """Layers of the catalogue, each on the output of the one before."""
    layers = [layer_named(name) for name in names]
    first = layers[0].geometry if batch is None else layers[0].geometry.with_batch(batch)
    return first.input_shape, [layer.geometry.weight_shape for layer in layers], [layer.spec for layer in layers]


def _imagined(
    shapes: Shapes, dtype: str, speeds: Sequence[float], link: float | None, *, allow_reordering: bool, cut: str
) -> Plan:
    """The plan for workers of default rates times `speeds`."""
    from groupconv_server.coordinator.problems import problems_of
    from groupconv_server.coordinator.steps import Shaped
    from groupconv_server.planner import Planner, Rates, Statistics, request_plan

    if dtype not in DTYPES:
        raise InvalidArgumentError("--dtype", f"one of {', '.join(DTYPES)}", dtype)
    x, kernels, specs = shapes
    steps = [groupconv.Step(Shaped(DTYPES[dtype], k), None, spec) for k, spec in zip(kernels, specs, strict=True)]
    problems = problems_of(x, DTYPES[dtype], steps)
    rates = Rates() if link is None else replace(Rates(), link=link)
    names = tuple(f"worker-{i}" for i in range(len(speeds)))
    statistics = Statistics()
    statistics.calibrated({name: rates.faster(speed) for name, speed in zip(names, speeds, strict=True)})
    return request_plan(Planner(statistics).plan(tuple(problems), names, reordering=allow_reordering, cut=cut))


def _numbers(option: str, text: str) -> list[float]:
    try:
        numbers = [float(part) for part in text.split(",")]
    except ValueError:
        numbers = []
    if not numbers or not all(0 < n < float("inf") for n in np.array(numbers)):
        raise InvalidArgumentError(option, "positive numbers separated by commas", text)
    return numbers
