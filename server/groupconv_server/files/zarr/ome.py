"""OME-Zarr: finding the image in a group, and describing an image that is written.

Source: the specification of OME-NGFF 0.4 and 0.5, and the layout of bioformats2raw.
"""

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from groupconv.errors import InvalidArgumentError
from groupconv_server.files.attributes import not_kept
from groupconv_server.files.axes import kind_of
from groupconv_server.files.layout import Layout
from groupconv_server.files.metadata import Metadata, unit_named

LISTED = 12
"""Largest number of arrays listed in a message."""
TYPES = {"N": "time", "C": "channel", "Z": "space", "Y": "space", "X": "space"}
"""Types of axes in OME-Zarr."""
WORDS = {
    "µm": "micrometer",
    "nm": "nanometer",
    "mm": "millimeter",
    "cm": "centimeter",
    "m": "meter",
    "s": "second",
    "ms": "millisecond",
}
"""OME-Zarr's names of units."""


@dataclass(frozen=True)
class Image:
    """A Zarr array that is an image.

    Attributes:
        array: of Zarr.
        names: of its axes; None if it has none.
        pixel_sizes: extent of a pixel and its unit, by T, Z, Y and X, where they are known.
        origin: position of the first pixel, by T, Z, Y and X, where it is not 0.
        channels: OMERO's descriptions of the channels.
        notes: lines for the user about other arrays in the group and what is not read.
    """

    array: Any
    names: list[str] | None = None
    pixel_sizes: Mapping[str, tuple[float, str]] = field(default_factory=dict)
    origin: Mapping[str, float] = field(default_factory=dict)
    channels: Sequence[Mapping[str, Any]] = ()
    notes: tuple[str, ...] = ()

    def labels(self, key: str) -> tuple[str, ...]:
        """`label` or `color` of all channels; nothing if some have none."""
        found = tuple(str(channel.get(key) or "") for channel in self.channels)
        return found if all(found) else ()


def image_in(path: Path, group: Any) -> Image:
    """The image of a group at full resolution.

    Raises:
        InvalidArgumentError: there is no array, or there are several; the message lists them.
    """
    attributes = _attributes(group)
    if scales := attributes.get("multiscales"):
        levels = [level["path"] for level in scales[0]["datasets"]]
        other = f"{path.name}: took level {levels[0]} of {len(levels)}; for another one, {path.name}/{levels[-1]}"
        notes = (other,) * (len(levels) > 1) + not_kept(["labels"] if "labels" in group else [])
        return replace(_level(group[levels[0]], scales[0], 0), channels=_channels(attributes), notes=notes)
    if images := _images(group, attributes):
        if len(images) == 1:
            return image_in(path / images[0], group[images[0]])
        raise InvalidArgumentError("input", f"the path of one image, of {_listed(path, images)}", path.name)
    arrays = {name: node for name, node in group.members(max_depth=None) if hasattr(node, "chunks")}
    coordinates = {name for name in arrays if len(arrays[name].shape) < 2}  # xarray stores them as arrays
    found = sorted(set(arrays) - coordinates) or sorted(arrays)
    if len(found) != 1:
        what = f"of {_listed(path, found)}" if found else "as the group has none"
        raise InvalidArgumentError("input", f"the path of one array, {what}", path.name)
    return Image(arrays[found[0]])


def level_of(zarr: Any, path: Path, array: Any) -> Image:
    """An array that a path names directly. Its group may describe it as a level of an image."""
    try:
        attributes = _attributes(zarr.open_group(store=str(path.parent), mode="r"))
    except (ValueError, KeyError, OSError):
        return Image(array)
    for scale in attributes.get("multiscales", []):
        paths = [level["path"] for level in scale["datasets"]]
        if path.name in paths:
            return replace(_level(array, scale, paths.index(path.name)), channels=_channels(attributes))
    return Image(array)


def is_replaceable(path: Path, *, image: bool) -> bool:
    """Whether an output may replace a folder: it is an array or, if `image`, an image without other contents."""
    described = path / "zarr.json"
    if not described.is_file():
        return (path / ".zarray").is_file()
    try:
        content = json.loads(described.read_text())
        if content.get("node_type") == "array":
            return True
        scales = content.get("attributes", {}).get("ome", {}).get("multiscales", [])
        levels = {level["path"].partition("/")[0] for scale in scales for level in scale["datasets"]}
    except (ValueError, TypeError, AttributeError, KeyError, RecursionError):
        return False  # not known to be an image, so it is kept
    return image and bool(levels) and {node.name for node in path.iterdir()} <= {"zarr.json", *levels}


def describe(group: Any, layout: Layout, metadata: Metadata, levels: Sequence[float]) -> None:
    """Write the attributes of an image whose levels are the arrays `0`, `1`, … of a group.

    Args:
        group: of the image.
        layout: of the first level.
        metadata: of the image.
        levels: the size of a pixel of each level along Y and X, in pixels of the first level.
    """
    axes, pixel_sizes = [], metadata.pixel_sizes
    for axis in layout.axes:
        unit = pixel_sizes.get(_letter(axis.kind), (1, ""))[1]
        axes.append({"name": axis.name, "type": TYPES[axis.kind]} | ({"unit": WORDS.get(unit, unit)} if unit else {}))
    datasets = []
    for i, level in enumerate(levels):
        sizes = [pixel_sizes.get(_letter(a.kind), (1.0, ""))[0] * (level if a.kind in "YX" else 1) for a in layout.axes]
        transforms: list[dict[str, Any]] = [{"type": "scale", "scale": sizes}]
        if metadata.origin:
            place = []
            for axis in layout.axes:
                size = pixel_sizes.get(_letter(axis.kind), (1.0, ""))[0]
                half = (level - 1) / 2 * size if axis.kind in "YX" else 0.0  # its first pixel is the mean of several
                place.append(metadata.origin.get(_letter(axis.kind), 0.0) + half)
            transforms.append({"type": "translation", "translation": place})
        datasets.append({"path": str(i), "coordinateTransformations": transforms})
    about: dict[str, Any] = {"version": "0.5", "multiscales": [{"axes": axes, "datasets": datasets}]}
    names, colors = metadata.channel_names, metadata.channel_colors
    if names or colors:
        about["omero"] = {
            "channels": [
                ({"label": names[i]} if names else {}) | {"color": colors[i] if colors else "FFFFFF"}
                for i in range(len(names or colors))
            ]
        }
    group.attrs["ome"] = about


def _level(array: Any, scale: Mapping[str, Any], index: int) -> Image:
    """A level of a multiscale image, with its pixel sizes and position."""
    names = _axis_names(scale)
    sizes: dict[str, tuple[float, str]] = {}
    origin: dict[str, float] = {}
    axes = scale.get("axes", [])
    for i, axis in enumerate(axes):
        transforms = [
            *scale["datasets"][index].get("coordinateTransformations", []),
            *scale.get("coordinateTransformations", []),
        ]
        factors, place = [], 0.0
        for transform in transforms:
            kind = transform.get("type")
            values = transform.get(str(kind), [])
            if len(values) == len(axes) and kind == "scale":
                factors.append(float(values[i]))
                place *= factors[-1]  # a translation before it is scaled, too
            elif len(values) == len(axes) and kind == "translation":
                place += float(values[i])
        unit = axis.get("unit", "") if isinstance(axis, dict) else ""
        axis_kind = kind_of(names[i]) if names else None
        if axis_kind in ("N", "Z", "Y", "X"):
            if factors:
                sizes[_letter(axis_kind)] = (math.prod(factors), unit_named(str(unit)))
            if place:
                origin[_letter(axis_kind)] = place
    known = {a: size for a, size in sizes.items() if size != (1.0, "")}
    return Image(array, names, known, origin)


def _channels(attributes: Mapping[str, Any]) -> tuple[Mapping[str, Any], ...]:
    """OMERO's descriptions of the channels, if they are in its form."""
    about = attributes.get("omero")
    found = about.get("channels") if isinstance(about, dict) else None
    return tuple(found) if isinstance(found, list) and all(isinstance(c, dict) for c in found) else ()


def _letter(kind: str) -> str:
    """The key in `pixel_sizes` of a kind of axis."""
    return "T" if kind == "N" else kind


def _attributes(group: Any) -> dict[str, Any]:
    """OME-Zarr's attributes of a group. Since version 0.5 they are under the key `ome`."""
    attributes = dict(group.attrs)
    own = attributes.get("ome", attributes)
    return dict(own) if isinstance(own, dict) else {}


def _axis_names(scale: Mapping[str, Any]) -> list[str] | None:
    names = [axis["name"] if isinstance(axis, dict) else str(axis) for axis in scale.get("axes", [])]
    return names or (list("tczyx") if scale.get("version") in ("0.1", "0.2") else None)


def _images(group: Any, attributes: Mapping[str, Any]) -> list[str]:
    """The paths of the images in a group of bioformats2raw, in a plate or in a well."""
    if "plate" in attributes:
        wells = [well["path"] for well in attributes["plate"].get("wells", []) if well["path"] in group]
        return [f"{well}/{image}" for well in wells for image in _images(group[well], _attributes(group[well]))]
    if "well" in attributes:
        return [image["path"] for image in attributes["well"].get("images", [])]
    if "bioformats2raw.layout" in attributes:
        series = _attributes(group["OME"]).get("series") if "OME" in group else None
        return list(series or sorted(name for name, node in group.groups() if "multiscales" in _attributes(node)))
    return []


def _listed(path: Path, inside: list[str]) -> str:
    shown = ", ".join(f"{path.name}/{name}" for name in inside[:LISTED])
    return shown + f" and {len(inside) - LISTED} more" * (len(inside) > LISTED)
