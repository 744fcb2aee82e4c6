"""The reference engine: float64 (int64 for integers), one tap at a time, plainly right. The oracle of every test.

For each kernel tap the input samples it meets are one strided slice of the padded input, so the convolution is
a sum over taps and channels of scaled slices, exactly as the definition reads:

    y[n, m, h'] = Σ_c Σ_k  w[m, c, k] · x_padded[n, c, h'·s + k·d]

The transposed form scatters instead: each input sample adds w·x to the outputs it reaches.

Taps and channels are summed in the order they are written here whatever the shape (a matrix product would choose its
own), so an output is the same bit for bit wherever its convolution is cut.
"""

import itertools
from typing import Any

import numpy as np

from groupconv.convolution.dtypes import is_float
from groupconv.convolution.geometry import Geometry
from groupconv_worker.contract import Array, Prepared, Problem
from groupconv_worker.epilogue import activate, add_bias
from groupconv_worker.job import current
from groupconv_worker.pieces import erf
from groupconv_worker.taps import combinations, outputs_by_tap, padding_dominates, tap_inputs

PAD_MODE = {"zeros": "constant", "reflect": "reflect", "replicate": "edge", "circular": "wrap"}
"""numpy.pad's names for PyTorch's."""


class ReferenceEngine:
    """Computes every convolution in float64 or int64 and rounds once, at the end."""

    name = "reference"
    threads = at_once = 1
    gpu = None

    def device(self) -> str:
        """Always the CPU."""
        return "cpu: NumPy, float64"

    def prepare(
        self, problem: Problem, weight: Array, bias: Array | None = None, *, resident: bool = False
    ) -> Prepared:
        """Keep the weights in the wide dtype."""
        if not resident:
            return _Reference(problem, weight, bias)
        return _Reference(problem, weight.copy(), None if bias is None else bias.copy())

    def close(self) -> None:
        """Nothing is held."""


class _Reference:
    algorithm = "reference"

    def __init__(self, problem: Problem, weight: Array, bias: Array | None) -> None:
        self.problem, self.weight, self.bias = problem, weight, bias

    @property
    def nbytes(self) -> int:
        return self.weight.nbytes + (0 if self.bias is None else self.bias.nbytes)

    @np.errstate(all="ignore")  # NaN and infinity are data
    def run(self, x: Array, out: Array) -> None:
        out[...] = convolve(x, self.weight, self.bias, self.problem.geometry).astype(out.dtype)


def convolve(x: Array, weight: Array, bias: Array | None, g: Geometry) -> Array:
    """The convolution `g` in float64, or in int64 where input and weight are integers.

    Args:
        x: (N, C, *input), any dtype.
        weight: (M, C/g, *kernel), transposed (C, M/g, *kernel).
        bias: (M,) or None.
        g: the geometry; its batch is ignored in favour of x's.

    Returns:
        (N, M, *output), float64 or int64, bias and activation applied.

    Example:
        >>> from groupconv import ConvSpec, resolve
        >>> x = np.arange(5.0).reshape(1, 1, 5)
        >>> w = np.array([[[1.0, 2.0, 3.0]]])
        >>> convolve(x, w, None, resolve(ConvSpec(), x.shape, w.shape))
        array([[[ 8., 14., 20.]]])
    """
    wide = np.float64 if is_float(x.dtype) or is_float(weight.dtype) else np.int64
    xs, ws = x.astype(wide), weight.astype(wide)
    if g.flip_kernel:
        ws = np.flip(ws, tuple(range(2, ws.ndim)))
    y: Array = _scatter(xs, ws, g) if g.transposed else _gather(xs, ws, g)
    add_bias(y, bias)
    if wide == np.int64:
        y = y.astype(np.int32).astype(np.int64)  # integer sums wrap; the activation sees the wrapped sum
    activate(y, g.activation, np, erf)
    return y


def _gather(x: Array, w: Array, g: Geometry) -> Any:
    n = x.shape[0]
    apart = padding_dominates(g)  # then padding is not made
    padded = x if apart else np.pad(x, ((0, 0), (0, 0), *g.padding), mode=PAD_MODE[g.padding_mode])  # type: ignore[call-overload]
    grouped: Any = padded.reshape(n, g.groups, g.in_channels // g.groups, *padded.shape[2:])
    filters: Any = w.reshape(g.groups, g.out_channels // g.groups, g.in_channels // g.groups, *g.kernel)
    y: Any = np.zeros((n, g.groups, g.out_channels // g.groups, *g.output), dtype=x.dtype)
    for tap in itertools.product(*map(range, g.kernel)):
        window = tuple(
            slice(k * d, k * d + (o - 1) * s + 1, s)
            for k, d, o, s in zip(tap, g.dilation, g.output, g.stride, strict=True)
        )
        met = tap_inputs(grouped, g, tap, np) if apart else grouped[..., *window]  # (N, g, C/g, *output)
        for c in range(met.shape[2]):
            current().check()
            y += _scaled(filters[:, :, c, *tap], met[:, :, c])
    return y.reshape(n, g.out_channels, *g.output)


def _scatter(x: Array, w: Array, g: Geometry) -> Any:
    n = x.shape[0]
    grouped: Any = x.reshape(n, g.groups, g.in_channels // g.groups, *g.input)
    filters: Any = w.reshape(g.groups, g.in_channels // g.groups, g.out_channels // g.groups, *g.kernel)
    y: Any = np.zeros((n, g.groups, g.out_channels // g.groups, *g.output), dtype=x.dtype)
    for met in combinations(g, outputs_by_tap):
        tap, cells, outputs = zip(*met, strict=True)
        for c in range(grouped.shape[2]):
            current().check()
            y[..., *outputs] += _scaled(filters[:, c, :, *tap], grouped[:, :, c, *cells])
    return y.reshape(n, g.out_channels, *g.output)


def _scaled(w: Any, x: Any) -> Any:
    """Channel x (N, g, *space) times each of the weights w (g, m) -> (N, g, m, *space)."""
    return w.reshape(1, *w.shape, *(1,) * (x.ndim - 2)) * x[:, :, None]
