"""Resize: nearest, linear and cubic interpolation along each axis.

Source: the ONNX operator Resize, versions 10 to 19. An axis is resized by a matrix of weights, (output, input).
"""

import math
from typing import Any

import numpy as np

from groupconv_worker.graph.operators.call import Call, Definition


def coordinates(call: Call, axis: int, extent: int, length: int, scale: float, roi: tuple[float, float]) -> Any:
    """The position of each output element in the input, by the mode's formula."""
    at = np.arange(length, dtype=np.float64)
    match call.attribute("coordinate_transformation_mode", "half_pixel"):
        case "half_pixel":
            return (at + 0.5) / scale - 0.5
        case "half_pixel_symmetric":
            adjustment = length / (scale * extent)
            center = extent / 2
            return center * (1 - adjustment) + (at + 0.5) / scale - 0.5
        case "pytorch_half_pixel":
            return (at + 0.5) / scale - 0.5 if length > 1 else np.zeros(1)
        case "align_corners":
            # the output's length before it was rounded down
            return at * (extent - 1) / (scale * extent - 1) if length > 1 else np.zeros(1)
        case "asymmetric":
            return at / scale
        case "tf_half_pixel_for_nn":  # of operator sets 11 and 12
            return (at + 0.5) / scale
        case "tf_crop_and_resize":
            start, end = roi
            if length > 1:
                return start * (extent - 1) + at * (end - start) * (extent - 1) / (length - 1)
            return np.full(1, 0.5 * (start + end) * (extent - 1))
        case other:
            raise ValueError(f"coordinate_transformation_mode {other!r} of axis {axis}")


def _nearest(at: Any, mode: str) -> Any:
    match mode:
        case "round_prefer_floor":
            return np.ceil(at - 0.5)
        case "round_prefer_ceil":
            return np.floor(at + 0.5)
        case "floor":
            return np.floor(at)
        case _:
            return np.ceil(at)


def _triangle(distance: Any, _: float) -> Any:
    return np.maximum(0, 1 - np.abs(distance))


def _cubic(distance: Any, a: float) -> Any:
    d = np.abs(distance)
    near = (a + 2) * d**3 - (a + 3) * d**2 + 1
    far = a * d**3 - 5 * a * d**2 + 8 * a * d - 4 * a
    return np.where(d <= 1, near, np.where(d < 2, far, 0))


def weights(call: Call, at: Any, extent: int, scale: float) -> Any:
    """The matrix (output, input) of an axis, for outputs that lie at `at`. Beyond the edges the edge goes on."""
    mode = call.attribute("mode", "nearest")
    matrix = np.zeros((len(at), extent))
    rows = np.arange(len(at))
    if mode == "nearest":
        places = _nearest(at, call.attribute("nearest_mode", "round_prefer_floor"))
        matrix[rows, np.clip(places, 0, extent - 1).astype(int)] = 1
        return matrix
    kernel, reach = (_triangle, 1) if mode == "linear" else (_cubic, 2)
    stretch = min(scale, 1.0) if call.attribute("antialias", 0) else 1.0
    reach = math.ceil(reach / stretch)
    a = call.attribute("cubic_coeff_a", -0.75)
    base = np.floor(at).astype(int)
    shares = []
    for step in range(-reach + 1, reach + 1):
        place = base + step
        share = kernel((place - at) * stretch, a)
        if call.attribute("exclude_outside", 0):
            share = np.where((place >= 0) & (place < extent), share, 0)
        shares.append((np.clip(place, 0, extent - 1), share))
    total = sum(share for _, share in shares)
    for place, share in shares:
        np.add.at(matrix, (rows, place), share / total)
    return matrix


def _resize(call: Call) -> Any:
    rank = call.x.ndim
    axes = call.attribute("axes")
    axes = tuple(range(rank)) if axes is None else tuple(axis % rank for axis in axes)
    scales, roi = call.option("scales", 2), call.option("roi", 1)
    scales = None if scales is None or len(scales) == 0 else scales
    y = call.x
    for i, axis in enumerate(axes):
        extent, length = call.x.shape[axis], call.shape[axis]
        scale = length / extent if scales is None else float(scales[i])
        if scales is None and call.attribute("keep_aspect_ratio_policy", "stretch") != "stretch":
            scale = _common_scale(call, axes)
        part = (0.0, 1.0) if roi is None or len(roi) == 0 else (float(roi[i]), float(roi[i + len(axes)]))
        at = coordinates(call, axis, extent, length, scale, part)
        lines = np.moveaxis(y, axis, 0)
        resized = call.product(weights(call, at, extent, scale), lines.reshape(extent, -1))
        y = np.moveaxis(resized.reshape(length, *lines.shape[1:]), 0, axis)
        if call.attribute("coordinate_transformation_mode") == "tf_crop_and_resize":
            outside = (at < 0) | (at > extent - 1)
            shape = [1] * rank
            shape[axis] = length
            y = np.where(outside.reshape(shape), call.attribute("extrapolation_value", 0.0), y)
    return y.astype(call.x.dtype)


def _common_scale(call: Call, axes: tuple[int, ...]) -> float:
    """One scale for all axes, as the policy chooses among what the sizes would need."""
    sizes: Any = call.option("sizes", 3)
    ratios: list[float] = [float(size) / call.x.shape[axis] for size, axis in zip(sizes, axes, strict=True)]
    return max(ratios) if call.attribute("keep_aspect_ratio_policy") == "not_smaller" else min(ratios)


RESIZE: dict[str, Definition] = {"Resize": _resize}
