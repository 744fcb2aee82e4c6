"""Whether all pages of a TIFF are there. tifffile reads the pages that it finds, and leaves others out."""

import struct
from pathlib import Path
from typing import Any

from groupconv.errors import InvalidArgumentError


def check_complete(file: Any, path: Path) -> None:
    """Check that the list of pages ends within the file. It does not in a copy that was cut off.

    Args:
        file: of tifffile.
        path: for the message.

    Raises:
        InvalidArgumentError: the last page that is there names a next one, behind the end of the file.
    """
    count, tiff, handle = len(file.pages), file.tiff, file.filehandle
    last = file.pages[count - 1]
    if not last.offset:  # a frame that tifffile made up, of a file whose frames lie at equal distances
        return
    handle.seek(last.offset)
    (tags,) = struct.unpack(tiff.tagnoformat, handle.read(tiff.tagnosize))
    handle.seek(last.offset + tiff.tagnosize + tags * tiff.tagsize)
    following_bytes = handle.read(tiff.offsetsize)
    (following,) = (
        struct.unpack(tiff.offsetformat, following_bytes) if len(following_bytes) == tiff.offsetsize else (handle.size,)
    )
    if following >= handle.size:
        got = f"{path.name}, whose page {count} goes on with one behind the end of the file"
        raise InvalidArgumentError("input", f"a complete TIFF, or {path.name}:0 for what is there", got)


def missing_planes(series: Any) -> int:
    """The number of planes of an OME-TIFF that its metadata names and no file has. tifffile reads zeros there."""
    return sum(page is None for page in series)
