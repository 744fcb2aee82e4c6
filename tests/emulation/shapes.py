"""Shapes that Hypothesis' small ones do not reach: several tiles, every template, warps of several groups."""

from typing import Any

WIDE: dict[str, tuple[tuple[int, ...], tuple[int, ...], dict[str, Any]]] = {
    "tile of 128 filters": ((1, 40, 9, 9), (130, 40, 3, 3), {"padding": 1}),
    "tile of 64 filters": ((2, 9, 10, 11), (70, 9, 3, 3), {"stride": 2, "padding": 1}),
    "tile of 32 filters": ((1, 3, 24, 24), (32, 3, 3, 3), {"padding": 1}),
    "groups of 16 filters": ((1, 32, 12, 12), (32, 16, 3, 3), {"groups": 2, "padding": 1}),
    "depthwise 3x3": ((1, 5, 40, 37), (5, 1, 3, 3), {"groups": 5, "padding": 1}),
    "depthwise 3x3 stride 2": ((1, 5, 40, 71), (5, 1, 3, 3), {"groups": 5, "padding": 1, "stride": 2}),
    "depthwise 5x5": ((1, 3, 19, 20), (3, 1, 5, 5), {"groups": 3, "padding": 2}),
    "depthwise 5x5 stride 2": ((1, 3, 19, 20), (3, 1, 5, 5), {"groups": 3, "padding": 2, "stride": 2}),
    "depthwise 5x5 stride 2 in vectors": ((2, 3, 19, 48), (3, 1, 5, 5), {"groups": 3, "padding": 2, "stride": 2}),
    "depthwise 7x7": ((1, 2, 21, 20), (2, 1, 7, 7), {"groups": 2, "padding": 3}),
    "depthwise 7x7 stride 2": ((1, 2, 21, 35), (2, 1, 7, 7), {"groups": 2, "padding": 3, "stride": 2}),
    "depthwise 7x7 on 7x7": ((2, 33, 7, 7), (33, 1, 7, 7), {"groups": 33, "padding": 3}),
    "multiplier 6": ((1, 3, 15, 15), (18, 1, 3, 3), {"groups": 3, "padding": 1}),
    "thin 3x3": ((1, 12, 14, 14), (20, 3, 3, 3), {"groups": 4, "padding": 1}),
    "thin 3x3 stride 2": ((1, 12, 15, 14), (20, 3, 3, 3), {"groups": 4, "padding": 1, "stride": 2}),
    "thin 5x5": ((1, 4, 12, 12), (8, 2, 5, 5), {"groups": 2, "padding": 2}),
    "thin 5x5 stride 2": ((1, 4, 13, 12), (8, 2, 5, 5), {"groups": 2, "padding": 2, "stride": 2}),
    "one row": ((1, 6, 1, 90), (6, 1, 1, 9), {"groups": 6, "padding": (0, 4)}),
    "many filters in one row": ((1, 6, 90), (18, 1, 9), {"groups": 6, "padding": 4}),
    "wide stride and dilation": ((1, 4, 50, 50), (4, 1, 3, 3), {"groups": 4, "stride": 5, "dilation": 6}),
    "three axes": ((1, 6, 7, 8, 9), (6, 1, 3, 3, 3), {"groups": 6, "padding": 1}),
    "upsampling by 4": ((1, 6, 5, 6), (6, 2, 8, 8), {"transposed": True, "stride": 4, "padding": 2, "groups": 3}),
    "stride beyond the kernel": ((1, 2, 4, 4), (2, 3, 2, 2), {"transposed": True, "stride": 5, "output_padding": 3}),
    "stride beyond the output": ((1, 2, 1, 1), (2, 3, 2, 2), {"transposed": True, "stride": 2**31 - 1}),
    "circular": ((1, 3, 12, 13), (5, 3, 5, 5), {"padding": 5, "padding_mode": "circular"}),
}
"""(input, kernel, keywords of ConvSpec) by name."""
