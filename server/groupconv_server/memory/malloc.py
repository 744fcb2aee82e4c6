"""Memory that was touched once stays with the process: what costs in large messages is pages touched first."""

import ctypes

_TRIM_THRESHOLD, _MMAP_THRESHOLD = -1, -3  # of glibc's malloc.h
KEPT = 2**30


def keep_pages() -> bool:
    """Have glibc keep up to 1 GiB of freed memory for the next message, and serve large messages from it.

    By default it gives memory back after each message of more than a few hundred KiB, and the kernel must clear as many
    pages again. It is the setting of MALLOC_TRIM_THRESHOLD_ and MALLOC_MMAP_THRESHOLD_ and concerns the whole process.

    Returns:
        Whether the C library is one that has the setting.
    """
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (AttributeError, OSError):
        return False
    return bool(mallopt(_MMAP_THRESHOLD, KEPT)) and bool(mallopt(_TRIM_THRESHOLD, KEPT))


def give_back() -> bool:
    """Give freed memory back to the kernel, where the C library can."""
    try:
        trim = ctypes.CDLL(None).malloc_trim
    except (AttributeError, OSError):
        return False
    return bool(trim(0))
