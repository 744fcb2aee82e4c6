"""The metadata of an array in a file, which an output keeps as far as its format can."""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

INCH = {"m": 0.0254, "cm": 2.54, "mm": 25.4, "µm": 25400.0, "nm": 2.54e7, "inch": 1.0}
"""Units of length in an inch."""
UNITS = {
    "micron": "µm",
    "microns": "µm",
    "um": "µm",
    "μm": "µm",
    "micrometer": "µm",
    "micrometre": "µm",
    "nanometer": "nm",
    "millimeter": "mm",
    "centimeter": "cm",
    "meter": "m",
    "in": "inch",
    "inches": "inch",
    "micrometers": "µm",
    "nanometers": "nm",
    "second": "s",
    "seconds": "s",
    "sec": "s",
    "millisecond": "ms",
}
"""Units as files name them, and the names used here. µ exists twice in Unicode."""


GeoTag = tuple[int, int, int, Any]
"""A tag of TIFF: its code, dtype, count and value."""


@dataclass(frozen=True)
class Metadata:
    """The metadata of an array. An unknown field is empty.

    Attributes:
        axes: of the array in the file, one letter each: T, C, Z, Y, X, S for samples of a pixel.
        photometric: meaning of the color channels: "grey", "rgb" or "separated" (inks; 0 is no ink).
        alpha: meaning of the last channel: "" (no alpha), "unassociated" or "associated" (colors are multiplied by it).
        extrasamples: meaning of each channel after the colors, in TIFF's terms: unspecified, assocalpha, unassalpha.
        planar: whether the file stores one channel after another.
        dpi: pixels per inch along (x, y).
        pixel_sizes: extent of a pixel and its unit, by axis: {"Z": (2.0, "µm")}.
        origin: position of the first pixel, by axis, in the unit of `pixel_sizes`.
        channel_names: one for each channel.
        channel_colors: one for each channel, as six hexadecimal digits.
        icc_profile: of the colors.
        exif: without the orientation, which reading applies.
        georeference: the tags of GeoTIFF that say where on Earth the pixels are.
        durations: milliseconds of each frame of an animation.
        loop: how often an animation is shown; 0 means forever, None once.
        notes: lines for the user about what reading changed.
    """

    axes: str = ""
    photometric: str = ""
    alpha: str = ""
    extrasamples: tuple[str, ...] = ()
    planar: bool = False
    dpi: tuple[float, float] | None = None
    pixel_sizes: Mapping[str, tuple[float, str]] = field(default_factory=dict)
    origin: Mapping[str, float] = field(default_factory=dict)
    channel_names: tuple[str, ...] = ()
    channel_colors: tuple[str, ...] = ()
    icc_profile: bytes = b""
    exif: bytes = b""
    georeference: tuple[GeoTag, ...] = ()
    durations: tuple[int, ...] = ()
    loop: int | None = None
    notes: tuple[str, ...] = ()

    def filtered(self, before: int, after: int, stride: int, spatial: str = "ZYX") -> "Metadata":
        """The metadata of an output.

        Args:
            before: channels of the input.
            after: channels of the output. If their number changes, profile, names and meaning are dropped.
            stride: input pixels from one output pixel to the next. Above 1 the georeference is dropped: it describes
                the grid of the input.
            spatial: the axes that have the stride.

        Example:
            >>> Metadata(dpi=(300.0, 300.0), icc_profile=b"rgb").filtered(3, 1, 2)
            Metadata(... dpi=(150.0, 150.0), ... icc_profile=b'', ...)
        """
        dpi = self.dpi and (self.dpi[0] / stride, self.dpi[1] / stride)
        sizes = {a: (size * stride if a in spatial else size, unit) for a, (size, unit) in self.pixel_sizes.items()}
        scaled = replace(self, dpi=dpi, pixel_sizes=sizes, georeference=self.georeference if stride == 1 else ())
        if before == after:
            return scaled
        return replace(scaled, photometric="", extrasamples=(), channel_names=(), channel_colors=(), icc_profile=b"")

    def pixels_per_inch(self) -> tuple[float, float] | None:
        """The resolution along (x, y), from `dpi` or from the pixel sizes."""
        pixel_sizes = [self.pixel_sizes.get(axis) for axis in "XY"]
        lengths = [INCH[f[1]] / f[0] for f in pixel_sizes if f and f[1] in INCH and f[0] > 0]
        return self.dpi or ((lengths[0], lengths[1]) if len(lengths) == len(pixel_sizes) else None)

    def left_out(self, *held: str) -> tuple[str, ...]:
        """Names of the known fields that are not among `held`, for messages.

        Example:
            >>> Metadata(dpi=(72.0, 72.0), icc_profile=b"rgb", planar=True).left_out("dpi")
            ('ICC profile',)
        """
        return tuple(words for name, words in NAMES.items() if name not in held and getattr(self, name))


UNKNOWN = Metadata()
"""The metadata of an array without any."""


def missing(format_name: str, words: tuple[str, ...]) -> tuple[str, ...]:
    """A line for the user about metadata that a format cannot hold, or no line.

    Example:
        >>> missing(".npy", ("resolution", "EXIF"))
        ('.npy holds no resolution, EXIF: left out',)
    """
    return (f"{format_name} holds no {', '.join(words)}: left out",) if words else ()


def moved(before: Metadata, after: Metadata) -> tuple[str, ...]:
    """A line for the user if `filtered` dropped the georeference, or no line.

    Example:
        >>> moved(Metadata(georeference=((33550, 12, 3, (10.0, 10.0, 0.0)),)), Metadata())
        ('the output has another grid than the input, so the georeference is left out',)
    """
    lost = before.georeference and not after.georeference
    return ("the output has another grid than the input, so the georeference is left out",) if lost else ()


NAMES = {
    "dpi": "resolution",
    "pixel_sizes": "pixel sizes",
    "origin": "position",
    "channel_names": "channel names",
    "channel_colors": "channel colors",
    "icc_profile": "ICC profile",
    "exif": "EXIF",
    "georeference": "georeference",
    "durations": "durations of frames",
}
"""Names of fields in messages."""


def unit_named(text: str) -> str:
    """A unit under the name that `INCH` has for it; unknown units stay as they are.

    Example:
        >>> unit_named("micron"), unit_named("s")
        ('µm', 's')
    """
    text = text.strip().replace(r"\u00B5", "µ")  # as ImageJ writes it
    return UNITS.get(text, text)
