"""Values of results in the dtype of a file."""

import numpy as np

from groupconv_server.files.values import Fitted, as_request_dtype, saturate


def test_results_are_saturated_to_what_is_held():
    y = np.array([-np.inf, -1, 0.4, 65534.6, 1e9, np.nan])
    assert saturate(y, np.dtype("uint16")).tolist() == [0, 0, 0, 65535, 65535, 0]
    out = np.zeros((1, 1, 2, 2), np.uint8)
    Fitted(out, np.dtype("float32"), absolute=True)[0, :, 0:2] = np.array([[[-3.6, 2], [-400, 7]]], np.float32)
    assert out.tolist() == [[[[4, 2], [255, 7]]]]
    for dtype, wide in [("uint16", "float32"), ("int64", "float64"), ("bool", "uint8"), ("float16", "float16")]:
        assert as_request_dtype(np.zeros((1, 1, 2, 2), dtype)).dtype == wide
