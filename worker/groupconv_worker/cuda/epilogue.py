"""Bias and activation of a convolution, on the device."""

import numpy as np

from groupconv.convolution.geometry import Geometry
from groupconv_worker.contract import Array
from groupconv_worker.cuda.arguments import ACTIVATIONS, EPILOGUE
from groupconv_worker.cuda.device import Device


class Epilogue:
    """Bias and activation, as kernels apply them to sums.

    Args:
        device: where they lie.
        g: has the activation.
        bias: (M,) or None.
        accumulate: the dtype of sums.
    """

    def __init__(self, device: Device, g: Geometry, bias: Array | None, accumulate: np.dtype) -> None:
        self._itemsize = accumulate.itemsize
        self._bias = None if bias is None else device.upload(bias.astype(accumulate))
        slope = g.activation.slope if g.activation else ()
        self._slope = device.upload(np.array(slope, dtype=accumulate)) if slope else None
        self._slope_step = int(len(slope) > 1)
        self._activation = ACTIVATIONS[g.activation.kind if g.activation else None]

    @property
    def nbytes(self) -> int:
        """Bytes of device memory."""
        return sum(int(array.nbytes) for array in (self._bias, self._slope) if array is not None)

    @property
    def is_identity(self) -> bool:
        """Whether there is neither a bias nor an activation."""
        return self._bias is None and self._activation == 0

    def argument(self, first_channel: int) -> Array:
        """The `EPILOGUE` struct for output channels from `first_channel` on."""
        struct = np.zeros((), dtype=EPILOGUE)
        if self._bias is not None:
            struct["bias"] = self._bias.data.ptr + first_channel * self._itemsize
        if self._slope is not None:
            struct["slope"] = self._slope.data.ptr + first_channel * self._itemsize * self._slope_step
        struct["slope_step"], struct["activation"] = self._slope_step, self._activation
        return struct
