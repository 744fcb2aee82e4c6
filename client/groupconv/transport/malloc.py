"""Tuning of malloc in the caller's process: large freed blocks are kept for the next message.

The server tunes more, see `groupconv_server.memory.malloc`.
"""

import functools

import numpy as np

ONCE = 32 * 2**20 - 2**16
"""Bytes of the largest block from which glibc's malloc adjusts its thresholds."""


@functools.cache
def expect_messages() -> None:
    """Make glibc's malloc keep up to 64 MiB of freed memory, as it does by itself after a block of 32 MiB is freed.

    gRPC holds three or four copies of a message at once. Without this, malloc returns their pages to the kernel after
    each call, and the kernel clears as many for the next one. The array made here is never touched, so it costs
    nothing. MALLOC_MMAP_THRESHOLD_ and MALLOC_TRIM_THRESHOLD_ in the environment take precedence. Other C libraries
    are not affected.

    Source: malloc(3), mallopt(3): M_MMAP_THRESHOLD adjusts to freed blocks, M_TRIM_THRESHOLD to twice that.
    """
    np.empty(ONCE, np.uint8)
