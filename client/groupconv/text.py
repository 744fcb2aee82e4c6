"""Numbers and tables as readable text."""

from collections.abc import Sequence


def table(rows: Sequence[Sequence[str]], left: frozenset[int] = frozenset()) -> str:
    """Rows of cells as aligned text. The first row is the heading. Columns in `left` are left-aligned, others right."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = (
        "  ".join(
            cell.ljust(width) if i in left else cell.rjust(width)
            for i, (cell, width) in enumerate(zip(row, widths, strict=True))
        ).rstrip()
        for row in rows
    )
    return "\n".join(lines)


def counted(number: int, noun: str) -> str:
    """A number and its noun.

    Example:
        >>> counted(1, "shard"), counted(2, "shard")
        ('1 shard', '2 shards')
    """
    return f"{number} {noun}{'s' * (number != 1)}"


def human_bytes(count: int) -> str:
    """A number of bytes with a binary unit.

    Example:
        >>> human_bytes(1536), human_bytes(3 * 2**20)
        ('1.5 KiB', '3 MiB')
    """
    size, units = float(count), iter(("B", "KiB", "MiB", "GiB", "TiB"))
    unit = next(units)
    while size >= 1024 and unit != "TiB":
        size, unit = size / 1024, next(units)
    return f"{size:.0f} {unit}" if size >= 100 or size == int(size) else f"{size:.1f} {unit}"


def milliseconds(seconds: float) -> str:
    """Seconds as milliseconds with three significant digits.

    Example:
        >>> milliseconds(0.0012345), milliseconds(2.5)
        ('1.23 ms', '2500 ms')
    """
    ms = seconds * 1e3
    return f"{ms:.0f} ms" if ms >= 100 or ms == 0 else f"{ms:.3g} ms"
