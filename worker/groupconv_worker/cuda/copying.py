"""Copies between the caller's arrays and pinned memory."""

import numpy as np

from groupconv.dtypes import BFLOAT16
from groupconv_worker.engines.base import Array


def copy(target: Array, source: Array) -> None:
    """Copy an array of the same shape and dtype, any strides, without the GIL."""
    if target.dtype == BFLOAT16:  # NumPy knows what to do with its bits alone
        target, source = target.view(np.uint16), source.view(np.uint16)
    np.copyto(target, source)
