"""Settings of glibc's malloc: freed memory stays with the process, since new pages make large messages slow."""

import ctypes

_TRIM_THRESHOLD, _MMAP_THRESHOLD = -1, -3  # of glibc's malloc.h
KEPT_BYTES = 2**30


def keep_pages() -> bool:
    """Have glibc keep up to 1 GiB of freed memory for the next messages.

    By default it returns memory after each message of more than a few hundred KiB, and the kernel must clear new pages
    for the next one. The setting is that of MALLOC_TRIM_THRESHOLD_ and MALLOC_MMAP_THRESHOLD_, for the whole process.

    Returns:
        Whether the C library has the setting.
    """
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (AttributeError, OSError):
        return False
    return bool(mallopt(_MMAP_THRESHOLD, KEPT_BYTES)) and bool(mallopt(_TRIM_THRESHOLD, KEPT_BYTES))


def give_back() -> bool:
    """Return freed memory to the kernel. False if the C library cannot."""
    try:
        trim = ctypes.CDLL(None).malloc_trim
    except (AttributeError, OSError):
        return False
    return bool(trim(0))
