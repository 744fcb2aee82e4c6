"""Paths of images inside files: `scan.h5:/raw`, `slides.tif:2`, `slide.svs:0/1`."""

import re
from pathlib import Path

TIFF_IMAGE = re.compile(r"(?P<file>.+\.[A-Za-z]+):(?P<series>\d+)(?:/(?P<level>\d+))?")


def split(path: Path | str) -> tuple[Path, str | None]:
    """The file of a path, and what is named inside it: an HDF5 path, a TIFF's series and level, or None.

    Example:
        >>> split(Path("a/scan.h5:/raw")), split(Path("slide.svs:0/1")), split(Path("photo.png"))
        ((PosixPath('a/scan.h5'), '/raw'), (PosixPath('slide.svs'), '0/1'), (PosixPath('photo.png'), None))
    """
    path, text = Path(path), str(path)
    if path.exists():
        return path, None
    name, colon, inside = text.partition(":/")
    if colon:
        return Path(name), "/" + inside
    if match := TIFF_IMAGE.fullmatch(text):
        level = match["level"]
        return Path(match["file"]), match["series"] + (f"/{level}" if level else "")
    return path, None
