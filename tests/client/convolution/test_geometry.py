"""Output extents and padding against ONNX's own shape inference; refusals by field."""

import hypothesis.strategies as st
import numpy as np
import onnx
import pytest
from hypothesis import given, settings

from groupconv import ConvSpec, Geometry, receptive_field, resolve
from groupconv.convolution.spec import padding_pairs
from groupconv.errors import InvalidArgumentError
from strategies import Case, cases


def onnx_output_shape(g: Geometry, auto_pad: str | None = None, stride: tuple[int, ...] = ()) -> tuple[int, ...]:
    """What onnx.shape_inference says of the same node."""
    attributes = {"strides": stride or g.stride, "dilations": g.dilation, "group": g.groups, "kernel_shape": g.kernel}
    if auto_pad:
        attributes["auto_pad"] = auto_pad
    else:
        attributes["pads"] = [lo for lo, _ in g.padding] + [hi for _, hi in g.padding]
    if g.transposed:
        attributes["output_padding"] = g.output_padding
    node = onnx.helper.make_node("ConvTranspose" if g.transposed else "Conv", ["x", "w"], ["y"], **attributes)
    real = onnx.TensorProto.FLOAT
    graph = onnx.helper.make_graph(
        [node],
        "one",
        [
            onnx.helper.make_tensor_value_info("x", real, g.input_shape),
            onnx.helper.make_tensor_value_info("w", real, g.weight_shape),
        ],
        [onnx.helper.make_tensor_value_info("y", real, None)],
    )
    model = onnx.shape_inference.infer_shapes(onnx.helper.make_model(graph), strict_mode=True)
    return tuple(d.dim_value for d in model.graph.output[0].type.tensor_type.shape.dim)


@settings(max_examples=300)
@given(case=cases())
def test_output_shapes_are_onnx_s(case: Case):
    assert case.geometry.output_shape == onnx_output_shape(case.geometry)


@settings(max_examples=200)
@given(case=cases(transposed=False), lower=st.booleans())
def test_same_padding_is_onnx_s_auto_pad(case: Case, lower: bool):
    spec = ConvSpec(
        stride=case.spec.stride,
        dilation=case.spec.dilation,
        groups=case.spec.groups,
        padding="same_lower" if lower else "same",
    )
    g = resolve(spec, case.x.shape, case.weight.shape)
    assert g.output_shape == onnx_output_shape(g, "SAME_LOWER" if lower else "SAME_UPPER", case.spec.stride)
    for low, high in g.padding:
        assert high - low in ((0, -1) if lower else (0, 1))


def test_transposed_same_has_stride_times_the_input():
    g = resolve(ConvSpec(transposed=True, stride=2, padding="same"), (1, 4, 9, 9), (4, 2, 5, 4))
    assert g.output == (18, 18)


@pytest.mark.parametrize(
    ("field", "spec", "x", "w"),
    [
        ("kernel.shape", {}, (1, 3, 8, 8), (4, 3)),
        ("kernel.shape", {}, (1,) * 6, (1,) * 6),
        ("input.shape", {}, (1, 3, 8), (4, 3, 3, 3)),
        ("input.shape[0]", {}, (-1, 3, 8, 8), (4, 3, 3, 3)),
        ("input.shape[2]", {}, (1, 3, -8, 8), (4, 3, 3, 3)),
        ("kernel.shape[3]", {}, (1, 3, 8, 8), (4, 3, 3, 0)),
        ("groups", {"groups": 2}, (1, 3, 8, 8), (4, 1, 3, 3)),
        ("groups", {"groups": 3}, (1, 3, 8, 8), (4, 1, 3, 3)),
        ("kernel.shape[1]", {}, (1, 3, 8, 8), (4, 1, 3, 3)),
        ("kernel.shape[0]", {"transposed": True}, (1, 3, 8, 8), (4, 3, 3, 3)),
        ("kernel.shape[2]", {}, (1, 3, 2, 8), (4, 3, 3, 3)),
        ("kernel.shape[3]", {"dilation": (1, 4)}, (1, 3, 8, 8), (4, 3, 3, 3)),
        ("stride", {"stride": (1, 1, 1)}, (1, 3, 8, 8), (4, 3, 3, 3)),
        ("padding", {"padding": (1, 1, 1)}, (1, 3, 8, 8), (4, 3, 3, 3)),
        ("padding[1]", {"padding": (0, 8), "padding_mode": "reflect"}, (1, 3, 8, 8), (4, 3, 3, 3)),
        ("padding[0]", {"padding": (9, 0), "padding_mode": "circular"}, (1, 3, 8, 8), (4, 3, 3, 3)),
        ("padding[0]", {"padding": 3, "transposed": True}, (1, 4, 3, 9), (4, 3, 3, 3)),
        ("padding", {"padding": "same", "stride": 4, "transposed": True}, (1, 4, 3, 9), (4, 3, 3, 3)),
        ("output_padding[0]", {"output_padding": 2, "stride": 2, "transposed": True}, (1, 4, 3, 3), (4, 3, 3, 3)),
        ("activation.slope", {"activation": "prelu3"}, (1, 3, 8, 8), (4, 3, 3, 3)),
    ],
)
def test_refusals_name_their_field(field, spec, x, w):
    from groupconv import Activation

    if spec.get("activation") == "prelu3":
        spec = {"activation": Activation("prelu", (0.1, 0.2, 0.3))}
    with pytest.raises(InvalidArgumentError) as caught:
        resolve(ConvSpec(**spec), x, w)
    assert caught.value.field == field


def test_parameters_that_cannot_matter_are_normalised():
    far = resolve(ConvSpec(stride=2**31 - 1, dilation=2**31 - 1), (1, 1, 5, 5), (1, 1, 1, 1))
    assert far == resolve(ConvSpec(stride=9), (1, 1, 5, 5), (1, 1, 1, 1))
    assert far.stride == (5, 5)
    assert far.dilation == (1, 1)


def test_receptive_field_of_a_dilated_stack():
    assert receptive_field([(3, 1, d) for d in (1, 2, 4, 8)]) == 1 + 2 * (1 + 2 + 4 + 8)
    assert receptive_field([(7, 2, 1), (3, 2, 1)]) == 7 + 2 * 2


def test_alexnet_s_published_shapes():
    x = (1, 3, 227, 227)
    layers = [
        (ConvSpec(stride=4), (96, 3, 11, 11), (55, 55), 3),
        (ConvSpec(padding=2, groups=2), (256, 48, 5, 5), (27, 27), 3),
        (ConvSpec(padding=1), (384, 256, 3, 3), (13, 13), None),
        (ConvSpec(padding=1, groups=2), (384, 192, 3, 3), (13, 13), None),
        (ConvSpec(padding=1, groups=2), (256, 192, 3, 3), (13, 13), 3),
    ]
    for spec, weight, extents, pool in layers:
        g = resolve(spec, x, weight)
        assert g.output == extents
        x = g.output_shape if pool is None else (*g.output_shape[:2], *((e - 3) // 2 + 1 for e in extents))
    assert x == (1, 256, 6, 6)


@given(st.lists(st.one_of(st.integers(0, 9), st.tuples(st.integers(0, 9), st.integers(0, 9))), min_size=2, max_size=2))
def test_padding_pairs_say_the_same_as_numbers(values):
    pairs = padding_pairs(tuple(values), 2)
    assert np.array(pairs).shape == (2, 2)
    for value, pair in zip(values, pairs, strict=True):
        assert pair == (value if isinstance(value, tuple) else (value, value))
