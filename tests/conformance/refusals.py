"""The calls of the conformance suite that a server refuses, each with one thing wrong."""

from collections.abc import Iterator
from typing import Any

import numpy as np
from google.protobuf.message import Message

from groupconv import ConvSpec, Step
from groupconv.arguments import prepare
from groupconv.v1 import convolution_pb2, layer_pb2, network_pb2
from groupconv.wire.plans import plan_request
from groupconv.wire.requests import convolve_request

CONVOLVE = "groupconv.v1.ConvolutionService/Convolve"
PLAN = "groupconv.v1.ConvolutionService/PlanConvolution"

BAD_SPECS: dict[str, dict[str, Any]] = {
    "stride 0": {"stride": [0]},
    "stride below 0 on one axis": {"stride": [1, -3]},
    "stride beyond 32 bits": {"stride": [2**62]},
    "strides for three axes": {"stride": [1, 1, 1]},
    "dilation 0": {"dilation": [0]},
    "groups 0": {"groups": 0},
    "groups that divide no channels": {"groups": 3},
    "groups that the kernel is not for": {"groups": 4},
    "padding below 0": {"padding_low": [-1], "padding_high": [0]},
    "padding for one end alone": {"padding_low": [1], "padding_high": [0, 0]},
    "padding with a rule": {"padding_low": [1], "padding_rule": 2},
    "unknown padding mode": {"padding_mode": 9},
    "unknown padding rule": {"padding_rule": 9},
    "reflection beyond the input": {"padding_low": [6], "padding_mode": 2},
    "wrapping beyond the input": {"padding_low": [7], "padding_mode": 4},
    "kernel beyond the padded input": {"dilation": [3]},
    "output padding without transposed": {"output_padding": [1]},
    "unknown math": {"math": 9},
    "rounded factors with exact": {"exact": True, "math": 2},
}
"""Changes to the spec of a good request by their names."""


def refusals() -> Iterator[tuple[str, str, Message]]:
    """Name, method and request of each."""
    for name, fields in BAD_SPECS.items():
        request = good()
        change(request.steps[0].spec, fields)
        yield name, CONVOLVE, request
    for name, path, fields in (
        ("no dtype", "input", {"dtype": 0}),
        ("unknown dtype", "input", {"dtype": 77}),
        ("fewer bytes than the shape has", "input", {"data": bytes(575)}),
        ("an extent below 0", "input", {"shape": [-1, 4, 6, 6]}),
        ("fewer dimensions than the kernel", "input", {"shape": [4, 36]}),
        ("unknown dtype of the kernel", "kernel", {"dtype": 77}),
        ("kernel of another float dtype", "kernel", {"dtype": 4, "data": bytes(288)}),
        ("bias for other channels", "bias", {"shape": [1], "data": bytes(4)}),
        ("bias with two axes", "bias", {"shape": [1, 2]}),
        ("unknown activation", "activation", {"kind": 99}),
        ("a slope that relu does not have", "activation", {"kind": 1, "slope": [0.5]}),
        ("slopes for other channels", "activation", {"kind": 3, "slope": [1, 2, 3]}),
    ):
        request = good()
        step = request.steps[0]
        target = {"input": request.input, "kernel": step.kernel, "bias": step.bias, "activation": step.spec.activation}
        change(target[path], fields)
        yield name, CONVOLVE, request
    yield "no steps", CONVOLVE, convolution_pb2.ConvolveRequest(input=good().input)
    cut = good()
    cut.cut = "diagonal"
    yield "unknown cut", CONVOLVE, cut
    cut = good()
    cut.cut = "channel"
    yield "a cut that reorders sums", CONVOLVE, cut
    huge = good()
    change(huge.steps[0].spec, {"padding_low": [2**30]})
    yield "an output beyond every limit", CONVOLVE, huge
    layer = convolution_pb2.ConvolveRequest(input=good().input, layer="conformance/none")
    yield "a layer that is not there", CONVOLVE, layer
    plan = plan_request((1, 4, 6, 6), [(2, 2, 3, 3)], [ConvSpec(groups=2)], "float32")
    plan.steps[0].spec.groups = 3
    yield "a plan for groups that divide no channels", PLAN, plan
    for name, service, kind in (
        ("LayerService/GetLayer", "layer", layer_pb2.GetLayerRequest),
        ("LayerService/UnloadLayer", "layer", layer_pb2.UnloadLayerRequest),
        ("NetworkService/GetNetwork", "network", network_pb2.GetNetworkRequest),
        ("NetworkService/UnloadNetwork", "network", network_pb2.UnloadNetworkRequest),
    ):
        yield f"{name.partition('/')[2]}: no such {service}", f"groupconv.v1.{name}", kind(name="conformance/none")


def good() -> convolution_pb2.ConvolveRequest:
    """A request that is served."""
    x, steps, _ = prepare(np.ones((1, 4, 6, 6), np.float32), [Step(np.ones((2, 2, 3, 3)), [1, 2], ConvSpec(groups=2))])
    return convolution_pb2.ConvolveRequest.FromString(convolve_request(x, steps))


def change(message: Message, fields: dict[str, Any]) -> None:
    """Set fields of a message; a list replaces a list."""
    for name, value in fields.items():
        if isinstance(value, list):
            del getattr(message, name)[:]
            getattr(message, name).extend(value)
        else:
            setattr(message, name, value)
