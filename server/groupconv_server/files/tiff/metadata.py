"""Metadata of TIFF, OME-TIFF and ImageJ: read from tifffile's objects, and as options of its writer."""

from typing import Any

import numpy as np

from groupconv_server.files.attributes import not_kept
from groupconv_server.files.derived import SWAPPED
from groupconv_server.files.layout import Layout
from groupconv_server.files.metadata import GeoTag, Metadata, unit_named

INCH, CENTIMETER = 2, 3
"""Units of resolution in TIFF."""
EXTRA = {0: "unspecified", 1: "assocalpha", 2: "unassalpha"}
ALPHA = {"assocalpha": "associated", "unassalpha": "unassociated"}
OME_UNITS = ("m", "cm", "mm", "µm", "nm", "s", "ms")
OME_SIZES = {axis: (f"PhysicalSize{axis}", "µm") for axis in "ZYX"} | {"T": ("TimeIncrement", "s")}
"""Attributes of OME's pixels, and their default units."""
GEOREFERENCE = (33550, 33922, 34264, 34735, 34736, 34737, 50844)
"""Tags of GeoTIFF: pixel scale, tie points, transformation, the three of the keys; and GDAL's rational polynomials."""
SECONDS = {"s": 1.0, "ms": 0.001}
NO_DATA = 42113
"""GDAL's tag of the value that marks pixels without data."""
NOT_KEPT = {
    700: "XMP",
    271: "Make",
    272: "Model",
    306: "DateTime",
    315: "Artist",
    33432: "Copyright",
    33723: "IPTC",
    34377: "Photoshop's records",
    34665: "EXIF",
    34853: "GPS",
    42112: "GDAL metadata",
}
"""Tags that no output has, and their names."""
NOT_KEPT_IMAGEJ = ("Info", "Labels", "Ranges", "LUTs", "ROI", "Overlays", "Plot")
NOT_KEPT_OME = {
    "Image": ("Description", "AcquisitionDate", "StageLabel"),
    "Pixels": ("Plane",),
    "Channel": ("Color", "EmissionWavelength", "ExcitationWavelength", "Fluor"),
}
SHAPED = '{"shape"'
"""How tifffile's own descriptions begin, which have only the shape."""
KEPT_OME = ("Image", "Creator", "UUID", "schemaLocation")


def metadata_of(file: Any, series: Any, axes: str | None, orientation: int) -> Metadata:
    """The metadata of a series.

    Args:
        file: of tifffile.
        series: of the file.
        axes: that the caller requested; the file's extra samples then have no meaning.
        orientation: 1 to 8; the array will be turned upright.
    """
    page = series.keyframe
    letters = axes or series.axes
    extra = (
        tuple(EXTRA.get(int(e), "unspecified") for e in page.extrasamples) if "S" in letters and axes is None else ()
    )
    turned = orientation in SWAPPED and axes is None
    dpi = None if file.is_imagej else _dpi(page)
    notes, georeference = [], _georeference(page)
    if set(ALPHA) & set(extra[:-1]):
        notes.append("the alpha channel is not the last one: it is convolved like the others")
    if georeference and orientation != 1:
        notes.append("the image is stored turned or mirrored, so its georeference does not fit: left out")
        georeference = ()
    if NO_DATA in page.tags:
        value = str(page.tags[NO_DATA].value).strip()
        notes.append(f"pixels of the no-data value {value} are computed like any others; the output does not mark them")
    notes += not_kept(_unread(file, page))
    return Metadata(
        axes=letters,
        alpha=ALPHA.get(extra[-1], "") if extra else "",
        extrasamples=extra,
        planar="S" in letters and int(page.planarconfig) == 2,
        dpi=dpi and (dpi[::-1] if turned else dpi),
        pixel_sizes=_pixel_sizes(file, page),
        channel_names=_channel_names(file),
        icc_profile=bytes(page.iccprofile or b""),
        georeference=georeference,
        notes=tuple(notes),
    )


def _unread(file: Any, page: Any) -> list[str]:
    """Names of what a TIFF says and no output does."""
    found = [name for code, name in NOT_KEPT.items() if code in page.tags]
    if file.is_ome:
        return found + _unread_ome(file)
    if file.is_imagej:
        return found + [f"ImageJ's {name}" for name in NOT_KEPT_IMAGEJ if name in (file.imagej_metadata or {})]
    text = str(getattr(page.tags.get("ImageDescription"), "value", "")).strip()
    return ["ImageDescription", *found] if text and not text.startswith(SHAPED) else found


def _unread_ome(file: Any) -> list[str]:
    image, pixels = _ome_image(file), _ome_pixels(file)
    channels = pixels.get("Channel", [])
    parts = [("Image", image), ("Pixels", pixels)]
    parts += [("Channel", channel) for channel in (channels if isinstance(channels, list) else [channels])]
    names = [f"OME's {kind} {name}" for kind, part in parts for name in NOT_KEPT_OME[kind] if name in part]
    names += [f"OME's {name}" for name in _ome_root(file) if name not in KEPT_OME and name[0].isupper()]
    return list(dict.fromkeys(names))


def _georeference(page: Any) -> tuple[GeoTag, ...]:
    tags = [page.tags[code] for code in GEOREFERENCE if code in page.tags]
    return tuple((tag.code, int(tag.dtype), tag.count, tag.value) for tag in tags)


def options_of(samples: int, channels: int, metadata: Metadata, *, kind: str) -> tuple[dict[str, Any], tuple[str, ...]]:
    """Keywords for tifffile's `write`, and the names of the metadata fields that they hold.

    Args:
        samples: of a pixel.
        channels: of the output, as samples or as pages.
        metadata: of the output.
        kind: "ome", "imagej", or "" for a plain TIFF.
    """
    alpha = bool(metadata.alpha)
    colors = samples - (len(metadata.extrasamples) or alpha)
    if metadata.photometric == "separated" and colors >= 4:
        options: dict[str, Any] = {"photometric": "separated"}
    elif metadata.photometric != "grey" and colors >= 3 and (colors == 3 or metadata.photometric == "rgb"):
        options, colors = {"photometric": "rgb"}, 3
    else:
        options, colors = {"photometric": "minisblack"}, 1
    if samples > 1:
        options["planarconfig"] = "contig"
    if extra := samples - colors:
        last = "assocalpha" if metadata.alpha == "associated" else "unassalpha"
        extrasamples = ["unspecified"] * (extra - alpha) + [last] * alpha
        options["extrasamples"] = list(metadata.extrasamples) if len(metadata.extrasamples) == extra else extrasamples
    held = ["planar"]
    if metadata.icc_profile:
        options["iccprofile"] = metadata.icc_profile
        held.append("icc_profile")
    if metadata.georeference:
        options["extratags"] = [(*tag, True) for tag in metadata.georeference]
        held.append("georeference")
    if kind == "imagej":
        (unit,) = _units(metadata)
        x, y, z = (metadata.pixel_sizes.get(axis, (0.0, ""))[0] for axis in "XYZ")
        options["resolution"] = (1 / x if x else 1, 1 / y if y else 1)
        options["metadata"] = {"unit": "um" if unit == "µm" else unit} | ({"spacing": z} if z else {})  # ASCII only
        seconds, of_time = metadata.pixel_sizes.get("T", (0.0, ""))
        if of_time in SECONDS:
            options["metadata"]["finterval"] = seconds * SECONDS[of_time]
        kept = ("pixel_sizes",) if not seconds or of_time in SECONDS else ()
        return options, (*held, *kept)
    if dpi := metadata.pixels_per_inch():
        options |= {"resolution": dpi, "resolutionunit": "INCH"}
        held.append("dpi")
        if set(metadata.pixel_sizes) <= set("XY"):
            held.append("pixel_sizes")
    options["metadata"] = _ome(metadata, channels) if kind == "ome" else {}
    if kind == "ome":
        held += ["pixel_sizes", "channel_names"]
    return options, tuple(held)


def imagej_axes(layout: Layout, dtype: np.dtype, metadata: Metadata) -> str:
    """The axes, as letters, of an output that ImageJ's TIFF can describe; "" if it cannot.

    Axes of extent 1, other than Y and X, are left out.
    """
    kinds = "".join(a.kind for a in layout.axes if a.size > 1 or a.kind in "YX").replace("N", "T")
    in_order = kinds == "".join(a for a in "TZCYX" if a in kinds)
    one_unit = len(_units(metadata)) == 1
    plain = metadata.photometric in ("", "grey") and not metadata.planar and not metadata.alpha
    return kinds if in_order and one_unit and plain and dtype.name in ("uint8", "uint16", "float32") else ""


def _units(metadata: Metadata) -> set[str]:
    return {unit for axis, (_, unit) in metadata.pixel_sizes.items() if axis in "ZYX"}


def _dpi(page: Any) -> tuple[float, float] | None:
    unit = int(getattr(page.tags.get("ResolutionUnit"), "value", INCH))
    tags = [page.tags.get(name) for name in ("XResolution", "YResolution")]
    if unit not in (INCH, CENTIMETER) or not all(tags):
        return None
    scale = 2.54 if unit == CENTIMETER else 1.0
    values = [tag.value[0] / tag.value[1] * scale if tag.value[1] else 0.0 for tag in tags]
    return (values[0], values[1]) if min(values) > 0 and values != [1.0, 1.0] else None


def _pixel_sizes(file: Any, page: Any) -> dict[str, tuple[float, str]]:
    if file.is_ome:
        pixels = _ome_pixels(file)
        return {
            axis: (float(pixels[name]), unit_named(pixels.get(f"{name}Unit", default)))
            for axis, (name, default) in OME_SIZES.items()
            if pixels.get(name)
        }
    if not file.is_imagej:
        return {}
    about, sizes = file.imagej_metadata or {}, {}
    unit = unit_named(str(about.get("unit", "")))
    for axis in "YX":
        tag = page.tags.get(f"{axis}Resolution")
        if unit and tag and tag.value[0]:
            sizes[axis] = (tag.value[1] / tag.value[0], unit)
    if about.get("finterval"):
        sizes["T"] = (float(about["finterval"]), "s")
    if unit and about.get("spacing"):
        sizes["Z"] = (float(about["spacing"]), unit)
    return sizes


def _channel_names(file: Any) -> tuple[str, ...]:
    if not file.is_ome:
        return ()
    channels = _ome_pixels(file).get("Channel", [])
    names = [c.get("Name", "") for c in (channels if isinstance(channels, list) else [channels])]
    return tuple(names) if all(names) else ()


def _ome_root(file: Any) -> dict[str, Any]:
    from tifffile import xml2dict

    root: dict[str, Any] = xml2dict(file.ome_metadata).get("OME", {})
    return root


def _ome_image(file: Any) -> dict[str, Any]:
    """The attributes and elements of the first image."""
    image = _ome_root(file).get("Image", {})
    first: dict[str, Any] = image[0] if isinstance(image, list) else image
    return first


def _ome_pixels(file: Any) -> dict[str, Any]:
    """The attributes of the first image's pixels."""
    pixels: dict[str, Any] = _ome_image(file).get("Pixels", {})
    return pixels


def _ome(metadata: Metadata, channels: int) -> dict[str, Any]:
    about: dict[str, Any] = {}
    for axis, (size, unit) in metadata.pixel_sizes.items():
        if unit in OME_UNITS:
            name, _ = OME_SIZES[axis]
            about |= {name: size, f"{name}Unit": unit}
    if metadata.channel_names and len(metadata.channel_names) == channels:
        about["Channel"] = {"Name": list(metadata.channel_names)}
    return about
