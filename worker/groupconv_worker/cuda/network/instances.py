"""Every kernel that a network can launch beside those of its convolutions; the test suite compiles them all."""

from itertools import product

import numpy as np

ELEMENTS = ("elements.cu", "groupconv::elements")
POOL = ("pool.cu", "groupconv::pool")
NEIGHBORS = ("pool.cu", "groupconv::normalize_neighbors")
REDUCE = ("rows.cu", "groupconv::reduce")
SOFTMAX = ("rows.cu", "groupconv::softmax")
NORMALIZE = ("rows.cu", "groupconv::normalize")
WHERE_LARGEST = ("rows.cu", "groupconv::where_largest")
RESAMPLE = ("movement.cu", "groupconv::resample")
BITS = {1: "unsigned char", 2: "unsigned short", 4: "unsigned int", 8: "unsigned long long"}
"""The C++ type by which an element is copied, by its bytes."""
INDICES = {"int32": "int", "int64": "groupconv::i64"}


def copy(itemsize: int) -> tuple[str, str]:
    """The file and kernel that copies elements of a size.

    Example:
        >>> copy(4)
        ('movement.cu', 'groupconv::copy<unsigned int>')
    """
    return "movement.cu", f"groupconv::copy<{BITS[itemsize]}>"


def gather(itemsize: int, index: np.dtype) -> tuple[str, str]:
    """The file and kernel that looks up elements of a size by indices of int32 or int64."""
    return "movement.cu", f"groupconv::gather<{BITS[itemsize]}, {INDICES[str(index)]}>"


def every_instance() -> list[tuple[str, str]]:
    """All (file, expression) that the operators of a network can launch."""
    instances = [ELEMENTS, POOL, NEIGHBORS, REDUCE, SOFTMAX, NORMALIZE, WHERE_LARGEST, RESAMPLE]
    instances += [copy(size) for size in BITS]
    instances += [gather(size, np.dtype(index)) for size, index in product(BITS, INDICES)]
    return instances
