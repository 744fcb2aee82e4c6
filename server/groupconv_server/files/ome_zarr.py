"""OME-Zarr: which array of a group is the image, and what describes one that is written.

Source: the specification of OME-NGFF 0.4 and 0.5, and the layout of bioformats2raw.
"""

import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from groupconv.errors import InvalidArgumentError
from groupconv_server.files.axes import Layout

LISTED = 12
"""Arrays that a message lists."""
TYPES = {"N": "time", "C": "channel", "Z": "space", "Y": "space", "X": "space"}
"""Of axes in OME-Zarr."""


def image_in(path: Path, group: Any) -> tuple[Any, list[str] | None, str]:
    """The image of a group at full resolution, the names of its axes, and a note about other ones.

    Raises:
        InvalidArgumentError: there is no array, or several: it lists their paths.
    """
    said = _described(group)
    if scales := said.get("multiscales"):
        levels = [level["path"] for level in scales[0]["datasets"]]
        other = f"{path.name}: took level {levels[0]} of {len(levels)}; for another one, {path.name}/{levels[-1]}"
        return group[levels[0]], _axis_names(scales[0]), other if len(levels) > 1 else ""
    if images := _images(group, said):
        if len(images) == 1:
            return image_in(path / images[0], group[images[0]])
        raise InvalidArgumentError("input", f"the path of one image, of {_listed(path, images)}", path.name)
    arrays = {name: node for name, node in group.members(max_depth=None) if hasattr(node, "chunks")}
    coordinates = {name for name in arrays if len(arrays[name].shape) < 2}  # as of xarray
    found = sorted(set(arrays) - coordinates) or sorted(arrays)
    if len(found) != 1:
        what = f"of {_listed(path, found)}" if found else "as the group has none"
        raise InvalidArgumentError("input", f"the path of one array, {what}", path.name)
    return arrays[found[0]], None, ""


def names_above(zarr: Any, path: Path) -> list[str] | None:
    """The names of the axes of an array that is a level of the image of the group that it lies in."""
    try:
        said = _described(zarr.open_group(store=str(path.parent), mode="r"))
    except (ValueError, KeyError, OSError):
        return None
    for scale in said.get("multiscales", []):
        if path.name in [level["path"] for level in scale["datasets"]]:
            return _axis_names(scale)
    return None


def is_image(path: Path) -> bool:
    """Whether a name is that of an OME-Zarr image."""
    return path.name.lower().endswith(".ome.zarr")


def is_replaceable(path: Path) -> bool:
    """Whether a folder is a Zarr array, or an image where one is to be written."""
    described = path / "zarr.json"
    if not described.is_file():
        return (path / ".zarray").is_file()
    said = json.loads(described.read_text())
    image = "multiscales" in said.get("attributes", {}).get("ome", {})
    return bool(said.get("node_type") == "array" or (image and is_image(path)))


def describe(group: Any, layout: Layout, scales: Iterable[Mapping[str, float]] = ({},)) -> None:
    """Say in the attributes of a group what its arrays `0`, `1`, … are.

    Args:
        group: of the image.
        layout: of the axes.
        scales: the extent of a pixel by kind of axis, for each array; 1 where it is not known.
    """
    axes = [{"name": axis.name, "type": TYPES[axis.kind]} for axis in layout.axes]
    datasets = [
        {
            "path": str(i),
            "coordinateTransformations": [
                {"type": "scale", "scale": [float(scale.get(axis.kind, 1)) for axis in layout.axes]}
            ],
        }
        for i, scale in enumerate(scales)
    ]
    group.attrs["ome"] = {"version": "0.5", "multiscales": [{"axes": axes, "datasets": datasets}]}


def _described(group: Any) -> dict[str, Any]:
    """The attributes of OME-Zarr: in version 0.5 they have a key of their own."""
    attributes = dict(group.attrs)
    return dict(attributes.get("ome", attributes))


def _axis_names(scale: Mapping[str, Any]) -> list[str] | None:
    names = [axis["name"] if isinstance(axis, dict) else str(axis) for axis in scale.get("axes", [])]
    return names or (list("tczyx") if scale.get("version") in ("0.1", "0.2") else None)


def _images(group: Any, said: Mapping[str, Any]) -> list[str]:
    """The paths of images in a group of bioformats2raw, in a plate or in a well."""
    if "plate" in said:
        wells = [well["path"] for well in said["plate"].get("wells", [])]
        return [f"{well}/{image}" for well in wells if well in group for image in _images(group[well], _described(group[well]))]  # fmt: skip  # noqa: E501
    if "well" in said:
        return [image["path"] for image in said["well"].get("images", [])]
    if "bioformats2raw.layout" in said:
        series = _described(group["OME"]).get("series") if "OME" in group else None
        return list(series or sorted(name for name, node in group.groups() if "multiscales" in _described(node)))
    return []


def _listed(path: Path, inside: list[str]) -> str:
    shown = ", ".join(f"{path.name}/{name}" for name in inside[:LISTED])
    return shown + f" and {len(inside) - LISTED} more" * (len(inside) > LISTED)
