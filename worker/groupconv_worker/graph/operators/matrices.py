"""Matrix products.

Source: the ONNX operators Gemm and MatMul.
"""

from typing import Any

import numpy as np

from groupconv_worker.graph.operators.call import Call, Definition


def ordered_product(a: Any, b: Any) -> Any:
    """A matrix product whose every sum is taken in one order, whatever the extents of the matrices are.

    A BLAS orders its sums by the extents, so that a part of a product differs from the product of the parts.

    Args:
        a: float64, (…, rows, inner).
        b: float64, (…, inner, columns). The leading axes of both broadcast.

    Example:
        >>> a, b = np.random.default_rng(0).random((2, 50, 50))
        >>> bool((ordered_product(a[:1], b) == ordered_product(a, b)[:1]).all())
        True
    """
    leading = np.broadcast_shapes(a.shape[:-2], b.shape[:-2])
    y = np.zeros((*leading, a.shape[-2], b.shape[-1]), np.result_type(a, b))
    for k in range(a.shape[-1]):
        y += a[..., :, k, None] * b[..., k, None, :]
    return y


def _gemm(call: Call) -> Any:
    a, b, c = call.inputs[0], call.inputs[1], call.given(2)
    left = a.T if call.attribute("transA", 0) else a
    right = b.T if call.attribute("transB", 0) else b
    y = call.attribute("alpha", 1.0) * call.product(left, right)
    return y if c is None else y + call.attribute("beta", 1.0) * c


def _matmul(call: Call) -> Any:
    a, b = call.inputs
    return call.product(a, b) if min(a.ndim, b.ndim) > 1 else np.matmul(a, b)


MATRICES: dict[str, Definition] = {
    "Gemm": _gemm,
    "MatMul": _matmul,
}
