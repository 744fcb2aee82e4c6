"""What the SDK makes of the caller's arrays before anything travels."""

import numpy as np
import pytest

from groupconv import ConvSpec, Step
from groupconv.arguments import as_array, input_dtype, prepare
from groupconv.errors import InvalidArgumentError
from groupconv.streaming.bands import Sliced


def test_kernels_take_the_input_s_float_dtype_and_lists_are_welcome():
    x, steps, unbatched = prepare(np.ones((1, 1, 4), np.float16), [Step([[[1.0, 2.0]]], bias=[1])])
    assert steps[0].kernel.dtype == steps[0].bias.dtype == x.dtype == np.float16
    assert not unbatched


def test_python_integers_become_int32_and_wide_ones_are_refused():
    x, steps, _ = prepare(np.ones((1, 1, 4), np.uint8), [Step([[[1, 2]]])])
    assert (x.dtype, steps[0].kernel.dtype) == (np.uint8, np.int32)
    with pytest.raises(InvalidArgumentError, match=r"steps\[0\]\.kernel: expected integers that fit int32"):
        prepare(np.ones((1, 1, 4), np.uint8), [Step([[[1, 2**40]]])])


def test_big_endian_arrays_are_turned():
    x, _, _ = prepare(np.arange(4, dtype=">f4").reshape(1, 1, 4), [Step([[[1.0]]])])
    assert x.tolist() == [[[0, 1, 2, 3]]]
    assert x.dtype.isnative


def test_masked_elements_are_refused_and_a_mask_of_none_is_not():
    """netCDF4 gives masked arrays even where nothing is missing."""
    whole = np.ma.masked_array(np.ones((1, 1, 4), np.float32), mask=np.zeros((1, 1, 4), bool))
    x, steps, _ = prepare(whole, [Step(whole[..., :2])])
    assert type(x) is type(steps[0].kernel) is np.ndarray
    missing = np.ma.masked_greater(np.arange(4.0).reshape(1, 1, 4), 1)
    for x, kernel, field in ((missing, whole, "input"), (whole, missing, r"steps\[0\]\.kernel")):
        with pytest.raises(
            InvalidArgumentError, match=rf"{field}: expected an array without masked elements.*got '?2 "
        ):
            prepare(x, [Step(kernel)])
    with pytest.raises(InvalidArgumentError, match="x: expected an array without masked elements"):
        as_array([whole[0], missing[0]], "x")  # a stack of arrays, of which NumPy drops the masks
    with pytest.raises(InvalidArgumentError, match="input: expected an array without masked elements"):
        Sliced(missing, 1, np.dtype("float32")).rows(0, 4)


def test_one_sample_needs_no_batch_axis():
    x, _, unbatched = prepare(np.ones((3, 5, 5), np.float32), [Step(np.ones((2, 3, 3, 3)))])
    assert x.shape == (1, 3, 5, 5)
    assert unbatched


@pytest.mark.parametrize(
    ("field", "x", "steps"),
    [
        ("steps", np.ones((1, 1, 4)), []),
        ("input.dtype", np.ones((1, 1, 4), complex), [Step([[[1.0]]])]),
        ("input.shape", np.ones((4,)), [Step([[[1.0]]])]),
        ("steps[0].spec.groups", np.ones((1, 3, 4)), [Step(np.ones((2, 1, 1)), spec=ConvSpec(groups=2))]),
        ("steps[1].kernel.shape[1]", np.ones((1, 3, 4)), [Step(np.ones((2, 3, 1))), Step(np.ones((1, 3, 1)))]),
    ],
)
def test_refusals_carry_the_path(field, x, steps):
    with pytest.raises(InvalidArgumentError) as caught:
        prepare(x, steps)
    assert caught.value.field == field


@pytest.mark.parametrize(
    ("dtype", "kernel", "sent"),
    [
        ("bool", "float32", "uint8"),
        ("bool", "int8", "uint8"),
        ("uint16", "float32", "float32"),
        ("int16", "float64", "float64"),
        ("uint16", "int8", "int32"),
        (">u2", "float32", "float32"),
        ("int64", "float32", "int32"),
        ("uint32", "int8", "int32"),
        (">i4", "float32", "int32"),
        ("uint8", "float32", "uint8"),
    ],
)
def test_integers_of_other_dtypes_are_converted_by_one_rule(dtype, kernel, sent):
    values = np.array([[[0, 1, 1, 0]]], dtype)
    x, steps, _ = prepare(values, [Step(np.ones((1, 1, 2), kernel))])
    assert x.dtype == sent
    assert x.tolist() == [[[0, 1, 1, 0]]]
    assert steps[0].kernel.dtype == (sent if sent.startswith("float") else kernel)
    assert input_dtype(np.dtype(dtype), np.dtype(kernel)) == sent


def test_long_integers_become_float64_where_the_kernel_is_a_float():
    x = np.array([[[2**40, 1, 0]]])
    sent, steps, _ = prepare(x, [Step(np.ones((1, 1, 2), np.float32))])
    assert (sent.dtype, steps[0].kernel.dtype) == (np.float64, np.float64)
    assert sent.tolist() == x.tolist()
    with pytest.raises(InvalidArgumentError, match="input: expected integers that fit int32"):
        prepare(x, [Step(np.ones((1, 1, 2), np.int8))])
