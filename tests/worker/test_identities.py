"""The identities that define the variants, and two libraries that know nothing of us."""

import numpy as np
import onnx
import onnxruntime
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from scipy import signal

from groupconv import ConvSpec, resolve
from groupconv_worker.engines import create_engine
from groupconv_worker.reference import convolve
from oracle import run
from strategies import Case, cases


def plain(x, w, bias=None, **spec):
    spec = ConvSpec(**spec)
    return convolve(x, w, bias, resolve(spec, x.shape, w.shape))


@settings(max_examples=100)
@given(case=cases(transposed=False, spec_activation=False))
def test_grouped_is_the_concatenation_of_its_groups(case: Case):
    g = case.geometry
    c, m = g.in_channels // g.groups, g.out_channels // g.groups
    parts = []
    for i in range(g.groups):
        spec = ConvSpec(
            stride=case.spec.stride,
            padding=case.spec.padding,
            dilation=case.spec.dilation,
            padding_mode=case.spec.padding_mode,
            flip_kernel=case.spec.flip_kernel,
        )
        x, w = case.x[:, i * c : (i + 1) * c], case.weight[i * m : (i + 1) * m]
        bias = None if case.bias is None else case.bias[i * m : (i + 1) * m]
        parts.append(convolve(x, w, bias, resolve(spec, x.shape, w.shape)))
    np.testing.assert_array_equal(np.concatenate(parts, axis=1), convolve(case.x, case.weight, case.bias, g))


@settings(max_examples=100)
@given(case=cases(transposed=True, spec_activation=False, max_groups=1))
def test_transposed_is_zero_insertion_then_convolution_with_the_flipped_kernel(case: Case):
    g = case.geometry
    pads = [(d * (k - 1) - lo, d * (k - 1) - hi + r) for d, k, (lo, hi), r in zip(
        g.dilation, g.kernel, g.padding, g.output_padding, strict=True)]  # fmt: skip
    assume(all(low >= 0 and high >= 0 for low, high in pads))
    wide = np.zeros((g.batch, g.in_channels, *((h - 1) * s + 1 for h, s in zip(g.input, g.stride, strict=True))))
    wide[(..., *(slice(None, None, s) for s in g.stride))] = case.x
    weight = case.weight.swapaxes(0, 1)
    if not g.flip_kernel:
        weight = np.flip(weight, tuple(range(2, weight.ndim)))
    want = plain(wide, weight, case.bias, padding=pads, dilation=g.dilation)
    np.testing.assert_allclose(convolve(case.x, case.weight, case.bias, g), want, rtol=1e-12, atol=1e-12)


@settings(max_examples=60)
@given(st.integers(0, 2**32 - 1), st.integers(1, 3), st.booleans())
def test_scipy_agrees_on_correlation_and_true_convolution(seed, rank, flip):
    rng = np.random.default_rng(seed)
    x = rng.standard_normal(rng.integers(4, 8, rank))
    k = rng.standard_normal(rng.integers(1, 4, rank))
    scipys = signal.convolve if flip else signal.correlate
    got = plain(x[None, None], k[None, None], flip_kernel=flip)
    np.testing.assert_allclose(got[0, 0], scipys(x, k, mode="valid", method="direct"), rtol=1e-12, atol=1e-12)


def onnx_convolve(case: Case) -> np.ndarray:
    """The same convolution by onnxruntime, in float32."""
    g = case.geometry
    weight = np.flip(case.weight, tuple(range(2, case.weight.ndim))) if g.flip_kernel else case.weight
    attributes = {
        "strides": g.stride,
        "dilations": g.dilation,
        "group": g.groups,
        "pads": [lo for lo, _ in g.padding] + [hi for _, hi in g.padding],
    }
    if g.transposed:
        attributes["output_padding"] = g.output_padding
    names = ["x", "w"] + (["b"] if case.bias is not None else [])
    node = onnx.helper.make_node("ConvTranspose" if g.transposed else "Conv", names, ["y"], **attributes)
    info = onnx.helper.make_tensor_value_info
    shapes = [g.input_shape, g.weight_shape, (g.out_channels,)]
    graph = onnx.helper.make_graph(
        [node],
        "one",
        [info(n, onnx.TensorProto.FLOAT, s) for n, s in zip(names, shapes, strict=False)],
        [info("y", onnx.TensorProto.FLOAT, g.output_shape)],
    )
    model = onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", 17)], ir_version=8)
    session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    arrays = {"x": case.x, "w": np.ascontiguousarray(weight)}
    if case.bias is not None:
        arrays["b"] = case.bias
    return session.run(None, arrays)[0]


@settings(max_examples=150)
@given(case=cases(spec_activation=False))
def test_onnxruntime_agrees_with_the_reference(case: Case):
    agrees_with_onnxruntime("reference", case)


@settings(max_examples=50)
@given(case=cases(spec_activation=False))
def test_onnxruntime_agrees_with_the_cpu_engine(case: Case):
    """Fewer examples: most compile a form, and test_engines.py holds this engine to the reference."""
    agrees_with_onnxruntime("cpu", case)


def agrees_with_onnxruntime(engine: str, case: Case) -> None:
    assume(case.spec.padding_mode == "zeros")
    g = case.geometry
    # onnxruntime refuses some transposed convolutions that PyTorch takes
    assume(not g.transposed or all(
        max(pair) < e and r < s
        for pair, e, r, s in zip(g.padding, g.effective_kernel, g.output_padding, g.stride, strict=True)
    ))  # fmt: skip
    np.testing.assert_allclose(run(create_engine(engine), case), onnx_convolve(case), rtol=2e-4, atol=2e-4)


@pytest.mark.parametrize(
    ("kind", "formula"),
    [
        ("relu", lambda y: np.maximum(y, 0)),
        ("leaky_relu", lambda y: np.where(y > 0, y, 0.01 * y)),
        ("prelu", lambda y: np.where(y > 0, y, 0.25 * y)),
        ("sigmoid", lambda y: 1 / (1 + np.exp(-y))),
        ("tanh", np.tanh),
        ("silu", lambda y: y / (1 + np.exp(-y))),
        ("gelu", lambda y: y * 0.5 * (1 + np.vectorize(__import__("math").erf)(y / np.sqrt(2)))),
        ("gelu_tanh", lambda y: 0.5 * y * (1 + np.tanh(np.sqrt(2 / np.pi) * (y + 0.044715 * y**3)))),
    ],
)
def test_activations_are_torch_s_formulas(kind, formula):
    x = np.linspace(-6, 6, 49).reshape(1, 1, 49)
    np.testing.assert_allclose(plain(x, np.ones((1, 1, 1)), activation=kind), formula(x), rtol=1e-12, atol=1e-15)
