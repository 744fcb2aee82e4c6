"""Write proto/conformance/*.json: `PYTHONPATH=tests python -m conformance.generate`.

Outputs come from the reference engine (float64 NumPy), shapes and words from the SDK and a server with that engine.
docs/api.md says what the files hold and how to run them in another language.
"""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import grpc
import numpy as np
from google.protobuf.json_format import MessageToDict
from google.protobuf.message import Message

from conformance.convolutions import Named, convolutions, values
from conformance.refusals import BAD_SPECS, change, good, refusals
from groupconv.convolution.dtypes import DTYPES, is_float, types_of
from groupconv.convolution.geometry import Geometry, resolve
from groupconv.convolution.spec import Activation, ConvSpec
from groupconv.convolution.steps import Step, geometries
from groupconv.errors import InvalidArgumentError
from groupconv.transport.channel import from_rpc_error
from groupconv.v1 import convolution_pb2
from groupconv.wire.plans import plan_request
from groupconv.wire.requests import request_fields, steps_to_wire
from groupconv.wire.specs import spec_from_wire, spec_to_wire
from groupconv.wire.tensors import to_wire
from groupconv_server.config import Config
from groupconv_server.server import Server
from groupconv_worker import reference
from oracle import bound
from strategies import Case

FOLDER = Path(__file__).parents[2] / "proto" / "conformance"

BAD_SHAPES: tuple[tuple[str, dict[str, Any], tuple[int, ...], tuple[int, ...]], ...] = (
    ("a kernel without spatial axes", {}, (1, 4), (2, 4)),
    ("a kernel of four axes", {}, (1, 1, 2, 2, 2, 2), (1, 1, 2, 2, 2, 2)),
    ("another rank than the kernel", {}, (1, 4, 6), (2, 4, 3, 3)),
    ("an extent of 0", {}, (1, 4, 0, 6), (2, 4, 3, 3)),
    ("channels that the kernel is not for", {}, (1, 5, 6, 6), (2, 4, 3, 3)),
    ("groups that do not divide the output channels", {"groups": 2}, (1, 4, 6, 6), (3, 2, 3, 3)),
    ("transposed, other channels", {"transposed": True}, (1, 4, 6, 6), (2, 4, 3, 3)),
    ("transposed, more padding than output", {"transposed": True, "padding": 2}, (1, 1, 2, 2), (1, 1, 2, 2)),
    (
        "transposed, output padding of a stride",
        {"transposed": True, "stride": 2, "output_padding": 2},
        (1, 1, 4),
        (1, 1, 3),
    ),
    (
        "transposed, same, a kernel within the stride",
        {"transposed": True, "stride": 4, "padding": "same"},
        (1, 1, 4),
        (1, 1, 3),
    ),
    ("slopes for other channels", {"activation": Activation("prelu", (1, 2, 3))}, (1, 1, 4), (2, 1, 3)),
)
CUTS = {
    "nothing": ("depthwise separable", "spatially separable"),
    "group": ("grouped", "depthwise"),
    "rows": ("standard", "dilated", "depthwise"),
}
"""The convolutions whose plans are also asked for with a cut; the planner chooses one for every convolution."""


def geometry() -> Iterator[dict[str, Any]]:
    """Specs applied to shapes, and specs and shapes that are refused."""
    for named in convolutions():
        shapes = [layer.kernel for layer in named.layers]
        chain = geometries([layer.spec for layer in named.layers], named.shape, shapes)
        for i, (layer, found) in enumerate(zip(named.layers, chain, strict=True)):
            name = named.name if len(chain) == 1 else f"{named.name}, step {i}"
            yield _applied(name, found.input_shape, layer.kernel, spec_to_wire(layer.spec))
    for name, fields in BAD_SPECS.items():
        spec = good().steps[0].spec
        change(spec, fields)
        yield _applied(name, (1, 4, 6, 6), (2, 2, 3, 3), spec)
    for name, arguments, shape, kernel in BAD_SHAPES:
        yield _applied(name, shape, kernel, spec_to_wire(ConvSpec(**arguments)))


def _applied(name: str, shape: tuple[int, ...], kernel: tuple[int, ...], spec: Message) -> dict[str, Any]:
    case = {"name": name, "inputShape": shape, "kernelShape": kernel, "spec": MessageToDict(spec)}
    try:
        return case | {"geometry": _numbers(resolve(spec_from_wire(spec), shape, kernel))}
    except InvalidArgumentError as error:
        return case | {"error": {"field": error.field, "message": str(error)}}


def _numbers(g: Geometry) -> dict[str, Any]:
    return {
        "outputShape": g.output_shape, "stride": g.stride, "padding": g.padding, "dilation": g.dilation,
        "weights": g.weights, "multiplyAdds": g.multiply_adds, "receptiveField": g.receptive_field,
        "variant": g.variant(),
    }  # fmt: skip


def outputs() -> Iterator[dict[str, Any]]:
    """Requests with their outputs, and the error that an answer may have."""
    for named in convolutions():
        x, steps, y, tolerance = computed(named)
        request = convolution_pb2.ConvolveRequest(input=to_wire(x), steps=steps_to_wire(steps))
        request.MergeFromString(request_fields("", report=False, allow_reordering=False))
        yield {
            "name": named.name,
            "request": MessageToDict(request),
            "output": MessageToDict(to_wire(y)),
            "tolerance": tolerance,
        }


def computed(named: Named) -> tuple[np.ndarray, list[Step], np.ndarray, float]:
    """Arrays of a convolution, its output, and the largest error that any correct summation may have."""
    x, steps, dtype = values(named.name, named.shape, named.dtype), [], DTYPES[named.dtype]
    y, tolerance = x, 0.0
    for i, layer in enumerate(named.layers):
        kernel = values(f"{named.name} kernel {i}", layer.kernel, named.kernel_dtype)
        types = types_of(dtype, kernel.dtype)
        g = resolve(layer.spec, y.shape, layer.kernel)
        bias_dtype = str(types.output) if is_float(types.output) else "int32"
        bias = values(f"{named.name} bias {i}", (g.out_channels,), bias_dtype) if layer.bias else None
        steps.append(Step(kernel, bias, layer.spec))
        case = Case(layer.spec, y, kernel, bias, g, types)
        y, dtype = reference.convolve(y, kernel, bias, g).astype(types.output), types.output
        if is_float(dtype):  # the error so far grows by at most the weights of an output
            grown = tolerance * float(np.abs(kernel.astype(np.float64)).sum(axis=tuple(range(1, kernel.ndim))).max())
            tolerance = grown + float(bound(case).max(initial=0))
    return x, steps, y, tolerance


def plans() -> Iterator[dict[str, Any]]:
    """Requests for plans, and what every server's plan says of the steps."""
    for named in convolutions():
        if named.shape[0] == 0:
            continue
        specs, kernels = [layer.spec for layer in named.layers], [layer.kernel for layer in named.layers]
        for cut in ("", *(cut for cut, names in CUTS.items() if named.name in names)):
            request = plan_request(named.shape, kernels, specs, "float32", cut=cut)
            steps = [
                {"variant": g.variant(), "inputShape": g.input_shape, "kernelShape": g.weight_shape,
                 "outputShape": g.output_shape, "groups": g.groups, "weights": g.weights,
                 "multiplyAdds": g.multiply_adds}
                | ({"cut": cut} if cut else {})
                for g in geometries(specs, named.shape, kernels)
            ]  # fmt: skip
            name = f"{named.name}, cut along {cut}" if cut else named.name
            yield {"name": name, "request": MessageToDict(request), "steps": steps}


def errors(channel: grpc.Channel) -> Iterator[dict[str, Any]]:
    """Calls that a server refuses: status, field and message. A message that names a limit is left out."""
    for name, method, request in refusals():
        try:
            channel.unary_unary(f"/{method}", type(request).SerializeToString)(request, timeout=30)
        except grpc.RpcError as failure:
            error = from_rpc_error(failure)
        else:
            raise AssertionError(f"{name}: the server answered")
        case = {"name": name, "method": method, "request": MessageToDict(request), "status": error.status}
        if error.status != "RESOURCE_EXHAUSTED":
            case["message"] = str(error)
        if isinstance(error, InvalidArgumentError):
            case["field"] = error.field
        yield case


def write(name: str, cases: Iterator[dict[str, Any]]) -> None:
    """One case a line, so that a change shows as one."""
    lines = ",\n".join(json.dumps(case, ensure_ascii=False) for case in cases)
    (FOLDER / f"{name}.json").write_text(f"[\n{lines}\n]\n")


def main() -> None:
    """Write all files."""
    FOLDER.mkdir(exist_ok=True)
    write("geometry", geometry())
    write("outputs", outputs())
    write("plans", plans())
    config = Config(port=0, executor="local", workers=2, threads=1, engine="reference")
    with Server(config) as server, grpc.insecure_channel(server.address) as channel:
        write("errors", errors(channel))


if __name__ == "__main__":
    main()
