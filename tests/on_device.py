"""Arrays on an emulated device, and what convolving them gives."""

import numpy as np

from emulation.libcuda import OnDevice
from groupconv import ConvSpec
from groupconv.convolution.dtypes import types_of
from groupconv.convolution.geometry import resolve
from groupconv_worker import reference

SPEC = ConvSpec(padding=1, groups=4)
W = np.random.default_rng(0).integers(-9, 10, (4, 1, 3, 3)).astype(np.float32)
SHAPE = (2, 4, 16, 16)
SIZE = int(np.prod(SHAPE)) * 4


def regions(server):
    return server.client_device_memory.regions()


def image(seed=1, shape=SHAPE, dtype=np.float32):
    return np.random.default_rng(seed).integers(-9, 10, shape).astype(dtype)


def on_device(library, x, offset=0, device=0, **stream):
    """`x` at an offset of an allocation of its own."""
    memory = library.allocate(offset + x.nbytes + 64, device)
    there = memory[offset : offset + x.nbytes].view(x.dtype).reshape(x.shape)
    there[...] = x
    return OnDevice(there, **(stream or {"stream": 1}))


def expected(x, w=W, spec=SPEC):
    """The exact answer: whole numbers."""
    batch = x if x.ndim == w.ndim else x[np.newaxis]
    y = reference.convolve(batch, w, None, resolve(spec, batch.shape, w.shape))
    return y.astype(types_of(x.dtype, w.dtype).output).reshape(y.shape[w.ndim - x.ndim :])
