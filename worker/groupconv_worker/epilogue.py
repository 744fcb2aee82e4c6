"""Bias and activation, in place, for any array namespace (NumPy or CuPy).

Formulas as in torch.nn.functional: relu, leaky_relu, prelu, sigmoid, tanh, silu = x·σ(x),
gelu = x·Φ(x) with the error function, gelu_tanh its tanh approximation (Hendrycks and Gimpel, 2016).
"""

import math
from types import ModuleType
from typing import Any

import numpy as np

from groupconv.convolution.spec import Activation


def add_bias(y: Any, bias: Any | None) -> None:
    """y (N, M, *output) += bias (M,), in the dtype of y."""
    if bias is not None:
        y += bias.astype(y.dtype).reshape((1, -1) + (1,) * (y.ndim - 2))


@np.errstate(all="ignore")  # NaN and infinity are data
def activate(y: Any, activation: Activation | None, xp: ModuleType, erf: Any) -> None:
    """Apply `activation` to y (N, M, *output) in place.

    Args:
        y: float accumulator, or int32 for relu alone.
        activation: None leaves y as it is.
        xp: numpy or cupy, whichever y belongs to.
        erf: the error function of that namespace (scipy.special.erf, cupyx.scipy.special.erf).

    Example:
        >>> import numpy as np, scipy.special
        >>> y = np.array([[[-1.0, 2.0]]])
        >>> activate(y, Activation("leaky_relu", (0.5,)), np, scipy.special.erf); y
        array([[[-0.5,  2. ]]])
    """
    if activation is None:
        return
    match activation.kind:
        case "relu":
            xp.maximum(y, 0, out=y)  # a NaN stays a NaN, as in PyTorch
        case "leaky_relu" | "prelu":
            slope = xp.asarray(activation.slope, dtype=y.dtype).reshape((1, -1) + (1,) * (y.ndim - 2))
            xp.copyto(y, xp.where(y >= 0, y, y * slope))
        case "sigmoid":
            xp.copyto(y, _sigmoid(y, xp))
        case "tanh":
            xp.tanh(y, out=y)
        case "silu":
            y *= _sigmoid(y, xp)
        case "gelu":
            y *= 0.5 * (1 + erf(y * y.dtype.type(math.sqrt(0.5))))
        case "gelu_tanh":
            inner = y.dtype.type(math.sqrt(2 / math.pi)) * (y + y.dtype.type(0.044715) * y * y * y)
            y *= 0.5 * (1 + xp.tanh(inner))


def _sigmoid(y: Any, xp: ModuleType) -> Any:
    """1 / (1 + e⁻ʸ) as (1 + tanh(y/2)) / 2, which cannot overflow."""
    return 0.5 * (1 + xp.tanh(y * y.dtype.type(0.5)))
