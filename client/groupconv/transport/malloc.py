"""Freed memory that stays with the caller's process, within what malloc does by itself.

A server's own process is told more: there `groupconv_server.memory.malloc` sets how much is kept.
"""

import functools

import numpy as np

ONCE = 32 * 2**20 - 2**16
"""Bytes: the most that glibc's malloc takes as a measure."""


@functools.cache
def expect_messages() -> None:
    """Have glibc's malloc expect large arrays from the start, as it does anyway once one of 32 MiB was freed.

    A message of a few hundred KiB lies in memory three or four times at once on its way through gRPC. Freed, that is
    more than malloc keeps unless larger blocks were freed before, so each call gave pages back and had the kernel clear
    as many again. What is allocated here is not touched, so costs nothing. Up to 64 MiB of freed memory then stay with
    the process. MALLOC_MMAP_THRESHOLD_ and MALLOC_TRIM_THRESHOLD_ in the environment have their way, and another C
    library or malloc sees an array come and go.

    Source: malloc(3), mallopt(3): M_MMAP_THRESHOLD adjusts itself to what is freed, M_TRIM_THRESHOLD to twice that.
    """
    np.empty(ONCE, np.uint8)
