"""`groupconv plan`: how a server would cut a convolution."""

from typing import Annotated

import typer

import groupconv
from groupconv.errors import InvalidArgumentError
from groupconv_server.catalogue import layer_named
from groupconv_server.cli.app import DEFAULT_TARGET, TargetOption, TimeoutOption

NAME = "plan"
EXAMPLES = """Examples:

$ groupconv plan --layer alexnet_conv2

$ groupconv plan --input 8,64,56,56 --kernel 64,1,3,3 --groups 64 --padding same
"""


def command(
    layer: Annotated[str | None, typer.Option(help="A layer of the catalogue, in place of the shapes.")] = None,
    input_shape: Annotated[str | None, typer.Option("--input", help="N,C,H,W (or 1-D, 3-D).")] = None,
    kernel_shape: Annotated[str | None, typer.Option("--kernel", help="M,C/g,K,K; transposed C,M/g,K,K.")] = None,
    stride: Annotated[str, typer.Option(help="One number, or one per axis.")] = "1",
    padding: Annotated[str, typer.Option(help="One number, one per axis, same, same_lower or valid.")] = "0",
    dilation: Annotated[str, typer.Option(help="One number, or one per axis.")] = "1",
    groups: Annotated[int, typer.Option(help="Channel groups.")] = 1,
    transposed: Annotated[bool, typer.Option("--transposed", help="A transposed convolution.")] = False,
    dtype: Annotated[str, typer.Option(help="Of input and kernel.")] = "float32",
    target: TargetOption = DEFAULT_TARGET,
    timeout: TimeoutOption = 10.0,
) -> None:
    """Show how a server would cut a convolution: shards, workers, bytes, multiply-adds, and why."""
    if layer is not None:
        known = layer_named(layer)
        shapes, spec = (known.geometry.input_shape, known.geometry.weight_shape), known.spec
    elif input_shape is None or kernel_shape is None:
        raise InvalidArgumentError("--input", "--layer, or --input and --kernel", "neither")
    else:
        shapes = (_integers("--input", input_shape), _integers("--kernel", kernel_shape))
        spec = groupconv.ConvSpec(
            stride=_integers("--stride", stride),
            padding=padding if padding.isidentifier() else _integers("--padding", padding),  # type: ignore[arg-type]
            dilation=_integers("--dilation", dilation),
            groups=groups,
            transposed=transposed,
        )
    with groupconv.connect(target, timeout=timeout) as client:
        typer.echo(client.plan(*shapes, spec, dtype=dtype).explain())


def _integers(option: str, text: str) -> tuple[int, ...]:
    try:
        return tuple(int(part) for part in text.split(","))
    except ValueError:
        raise InvalidArgumentError(option, "integers separated by commas", text) from None
