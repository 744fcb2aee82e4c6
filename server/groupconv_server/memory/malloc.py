"""Settings of glibc's malloc: freed memory stays with the process, since new pages make large messages slow."""

import ctypes
import mmap

_TRIM_THRESHOLD, _MMAP_THRESHOLD, _ARENA_MAX = -1, -3, -8  # of glibc's malloc.h
KEPT_BYTES = 2**30
HUGE_BYTES = 2**29
"""What is prepared for huge pages. It takes no memory until it is used, and what is freed lies below `KEPT_BYTES`."""
_HUGE_PAGE = 2**21


def keep_pages() -> bool:
    """Have glibc keep up to 1 GiB of freed memory for the next messages, in huge pages. Call it before threads start.

    By default it returns memory after each message of more than a few hundred KiB, and the kernel must clear new pages
    for the next one. The settings are those of MALLOC_TRIM_THRESHOLD_, MALLOC_MMAP_THRESHOLD_ and MALLOC_ARENA_MAX, for
    the whole process. All threads share one arena, so a message takes the memory that an earlier one had, whatever
    thread read that: it may still be in the caches.

    Returns:
        Whether the C library has the settings.
    """
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (AttributeError, OSError):
        return False
    settings = ((_MMAP_THRESHOLD, KEPT_BYTES), (_TRIM_THRESHOLD, KEPT_BYTES), (_ARENA_MAX, 1))
    if not all(mallopt(setting, value) for setting, value in settings):
        return False
    _prefer_huge_pages()
    return True


def _prefer_huge_pages() -> None:
    """Let the kernel use pages of 2 MiB for what malloc hands out next: copies of messages then miss the TLB less."""
    library = ctypes.CDLL(None, use_errno=True)
    library.malloc.restype = ctypes.c_void_p
    library.malloc.argtypes = (ctypes.c_size_t,)
    library.free.argtypes = (ctypes.c_void_p,)
    library.madvise.argtypes = (ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int)
    # a block that nobody touches: freed, it is the free end of the heap, from which the next blocks are cut
    block = library.malloc(HUGE_BYTES)
    if block:
        first = -(-block // _HUGE_PAGE) * _HUGE_PAGE
        library.madvise(first, (block + HUGE_BYTES - first) // _HUGE_PAGE * _HUGE_PAGE, mmap.MADV_HUGEPAGE)
        library.free(block)


def give_back() -> bool:
    """Return freed memory to the kernel. False if the C library cannot."""
    try:
        trim = ctypes.CDLL(None).malloc_trim
    except (AttributeError, OSError):
        return False
    returned = bool(trim(0))
    _prefer_huge_pages()  # of the heap's end, which has left
    return returned
