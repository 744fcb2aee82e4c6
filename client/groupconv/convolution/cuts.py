"""The names of cuts: the dimensions along which a convolution can be cut into shards."""

import re
from typing import Any

from groupconv.errors import InvalidArgumentError

AXES = {1: ("width",), 2: ("rows", "columns"), 3: ("slices", "rows", "columns")}
"""Names of the spatial axes, by their number."""
DIMENSIONS = ("group", "batch", "filter", "width", "slices", "rows", "columns", "channel")
"""All dimensions, in the order in which the name of a cut has them."""
NOTHING = "nothing"
"""The name of a plan without a cut."""


def cut_name(cut: Any) -> str:
    """The name of a cut as the planner writes it; "" for None.

    Args:
        cut: "nothing", a name of `DIMENSIONS`, or several names with "×", "*" or "x" between them.

    Raises:
        InvalidArgumentError: it is none of these.

    Example:
        >>> cut_name("rows"), cut_name("rows x group"), cut_name(None)
        ('rows', 'group × rows', '')
    """
    if cut is None or cut == "":
        return ""
    names = re.split(r"\s*[×*]\s*|\s+x\s+", cut.strip()) if isinstance(cut, str) else []
    if names == [NOTHING]:
        return NOTHING
    if not names or len(set(names)) < len(names) or not set(names) <= set(DIMENSIONS):
        expected = f"{NOTHING}, or one or more of {', '.join(DIMENSIONS)} with × between them"
        raise InvalidArgumentError("cut", expected, cut)
    return " × ".join(name for name in DIMENSIONS if name in names)
