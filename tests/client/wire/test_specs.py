"""Tensors, specs, plans and reports through the wire and back."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from groupconv.arguments import as_array
from groupconv.convolution.dtypes import DTYPES
from groupconv.convolution.geometry import resolve
from groupconv.convolution.plan import Alternative, Plan, Range, Shard, StepPlan
from groupconv.convolution.report import Report, ShardReport
from groupconv.convolution.spec import ConvSpec
from groupconv.errors import InvalidArgumentError
from groupconv.v1 import convolution_pb2, spec_pb2, tensor_pb2
from groupconv.wire.plans import plan_from_wire, plan_to_wire, report_from_wire, report_to_wire
from groupconv.wire.specs import spec_from_wire, spec_to_wire
from groupconv.wire.tensors import from_wire, to_wire
from strategies import Case, array, cases


@given(st.sampled_from(sorted(DTYPES)), st.lists(st.integers(1, 5), min_size=1, max_size=5))
def test_tensors_come_back_equal(dtype, shape):
    x = array(np.random.default_rng(0), tuple(shape), DTYPES[dtype])
    message = tensor_pb2.Tensor.FromString(to_wire(x).SerializeToString())
    back = from_wire(message)
    assert back.dtype == x.dtype
    np.testing.assert_array_equal(back, x)


def test_any_strides_travel_in_row_major_order():
    x = np.arange(24, dtype=np.float32).reshape(2, 3, 4).transpose(2, 0, 1)[::-1]
    np.testing.assert_array_equal(from_wire(to_wire(x)), x)


@pytest.mark.parametrize(
    ("field", "message"),
    [
        ("input.data", tensor_pb2.Tensor(dtype=3, shape=[2, 2], data=bytes(15))),
        ("input.data", tensor_pb2.Tensor(dtype=3, shape=[2**31, 2**31, 2**31], data=b"")),
        ("input.dtype", tensor_pb2.Tensor(dtype=0, shape=[1], data=bytes(4))),
        ("input.dtype", tensor_pb2.Tensor(dtype=99, shape=[1], data=bytes(4))),
        ("input.shape[1]", tensor_pb2.Tensor(dtype=3, shape=[1, -1], data=bytes(4))),
        ("input.shape[0]", tensor_pb2.Tensor(dtype=3, shape=[0], data=b"")),
    ],
)
def test_broken_tensors_are_refused_by_field(field, message):
    with pytest.raises(InvalidArgumentError) as caught:
        from_wire(message, "input")
    assert caught.value.field == field


@settings(max_examples=200)
@given(case=cases())
def test_specs_mean_the_same_after_the_wire(case: Case):
    message = spec_pb2.ConvSpec.FromString(spec_to_wire(case.spec).SerializeToString())
    assert resolve(spec_from_wire(message), case.x.shape, case.weight.shape) == case.geometry


def test_an_empty_message_is_the_default_spec():
    assert spec_from_wire(spec_pb2.ConvSpec()) == ConvSpec()
    assert spec_from_wire(spec_pb2.ConvSpec(activation=spec_pb2.Activation())) == ConvSpec()


@pytest.mark.parametrize(
    ("field", "message"),
    [
        ("stride[0]", spec_pb2.ConvSpec(stride=[-1])),
        ("stride", spec_pb2.ConvSpec(stride=[1] * 4)),
        ("groups", spec_pb2.ConvSpec(groups=0)),
        ("padding_mode", spec_pb2.ConvSpec(padding_mode=17)),
        ("padding_rule", spec_pb2.ConvSpec(padding_rule=17)),
        ("padding_low", spec_pb2.ConvSpec(padding_rule=2, padding_low=[1])),
        ("padding_high", spec_pb2.ConvSpec(padding_low=[1, 1], padding_high=[1])),
        ("activation.kind", spec_pb2.ConvSpec(activation=spec_pb2.Activation(kind=99))),
        ("activation.kind", spec_pb2.ConvSpec(activation=spec_pb2.Activation(slope=[1.0]))),
        ("activation.slope", spec_pb2.ConvSpec(activation=spec_pb2.Activation(kind=1, slope=[1.0]))),
    ],
)
def test_broken_specs_are_refused_by_field(field, message):
    with pytest.raises(InvalidArgumentError) as caught:
        spec_from_wire(message)
    assert caught.value.field == field


def test_plans_and_reports_come_back_equal():
    shard = Shard(
        0, "w0", (Range(0, 1), Range(0, 4)), (Range(0, 2), Range(0, 4)), (Range(0, 1), Range(0, 2)), 9, 8, 7, 0.5, True
    )
    others = (Alternative("rows", 2, 0.75),)
    step = StepPlan("grouped", (1, 8), (4, 4), (1, 4), 2, "group", "because", (shard,), 0.25, others, True)
    plan = Plan((step,))
    assert plan_from_wire(plan_to_wire(plan)) == plan
    report = Report(plan, ((ShardReport(0, "w0", "gemm", 0.5, 0.25, 2),),), {"plan": 0.125})
    response = convolution_pb2.ConvolveResponse()
    report_to_wire(report, response)
    assert report_from_wire(response) == report


class Exporter:
    """A device array: NumPy may not take it implicitly, DLPack may."""

    def __init__(self, array: np.ndarray) -> None:
        self.array = array

    def __array__(self, dtype=None, copy=None):
        raise TypeError("implicit conversion is not allowed")

    def __dlpack__(self, **options):
        return self.array.__dlpack__(**options)

    def __dlpack_device__(self):
        return self.array.__dlpack_device__()


def test_arrays_come_from_array_and_dlpack_without_a_copy():
    x = np.arange(6.0)
    assert as_array(x) is x
    assert np.shares_memory(as_array(Exporter(x)), x)
    assert as_array([[1, 2]]).shape == (1, 2)
    with pytest.raises(InvalidArgumentError, match="array: expected an array, got Opaque: implicit conversion"):
        as_array(type("Opaque", (), {"__array__": Exporter.__array__, "array": x})())
