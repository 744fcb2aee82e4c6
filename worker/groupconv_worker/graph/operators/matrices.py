"""Matrix products.

Source: the ONNX operators Gemm and MatMul.
"""

from typing import Any

import numpy as np

from groupconv_worker.graph.operators.call import Call, Definition


def _gemm(call: Call) -> Any:
    a, b, c = call.inputs[0], call.inputs[1], call.given(2)
    left = a.T if call.attribute("transA", 0) else a
    right = b.T if call.attribute("transB", 0) else b
    y = call.attribute("alpha", 1.0) * (left @ right)
    return y if c is None else y + call.attribute("beta", 1.0) * c


MATRICES: dict[str, Definition] = {
    "Gemm": _gemm,
    "MatMul": lambda call: np.matmul(call.inputs[0], call.inputs[1]),
}
