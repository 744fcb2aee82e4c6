"""Files read whole, up to a limit: a device such as /dev/zero has no end, and would take all memory."""

import os
from pathlib import Path

from groupconv.errors import InvalidArgumentError
from groupconv.text import human_bytes

LONGEST = 2**31 - 1
"""Most bytes of a protobuf, and so of an ONNX file."""
SMALL = 2**20
"""Most bytes of tokens, certificates and the like."""


def read_at_most(path: str | os.PathLike[str], most: int, field: str, what: str) -> bytes:
    """The content of a file.

    Args:
        path: of the file; a pipe is read to its end.
        most: bytes.
        field: that an error names.
        what: the file should be.

    Raises:
        InvalidArgumentError: the file is longer.
        OSError: it cannot be read.

    Example:
        >>> read_at_most("/dev/zero", 4, "--token-file", "a token")
        Traceback (most recent call last):
        ...
        groupconv.errors.InvalidArgumentError: --token-file: expected a token of at most 4 B, got ...
    """
    with Path(path).open("rb") as file:
        parts, left = [], most + 1
        while left and (part := file.read(min(left, 2**24))):  # in parts, as one read would allocate the limit first
            parts.append(part)
            left -= len(part)
    if not left:
        expected = f"{what} of at most {human_bytes(most)}"
        raise InvalidArgumentError(field, expected, f"{path}, which is longer")
    return b"".join(parts)
