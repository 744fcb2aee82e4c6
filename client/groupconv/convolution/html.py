"""HTML for notebooks: tables, and pictures of the output that each shard computes."""

import html
from collections.abc import Sequence

from groupconv.pictures import HATCHES, look

WIDTH, HEIGHT = 480, 160
"""Size of a picture in pixels."""

Box = tuple[float, float, float, float]
"""x, y, width and height of a tile, as fractions of the picture."""


def html_table(rows: Sequence[Sequence[str]]) -> str:
    """Rows of cells as a table. The first row is the heading.

    Example:
        >>> html_table([("shard", "worker"), ("0", "w<0>")])
        '<table><tr><th>shard</th><th>worker</th></tr><tr><td>0</td><td>w&lt;0&gt;</td></tr></table>'
    """
    lines = (
        "".join(f"<{tag}>{html.escape(cell)}</{tag}>" for cell in row)
        for tag, row in zip(("th", *("td",) * (len(rows) - 1)), rows, strict=True)
    )
    return f"<table>{''.join(f'<tr>{line}</tr>' for line in lines)}</table>"


def svg_tiles(title: str, across: str, down: str, tiles: Sequence[tuple[str, str, Box]]) -> str:
    """A picture of rectangles with a title and two axes.

    Args:
        title: for screen readers.
        across: label of the horizontal axis.
        down: label of the vertical axis; "" has none.
        tiles: label, worker and box of each. Tiles of one worker look alike (`groupconv.pictures.look`).
    """
    workers = list(dict.fromkeys(worker for _, worker, _ in tiles))
    parts = []
    parts.append(
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{WIDTH + 24}" height="{HEIGHT + 24}" role="img" '
        f'font-family="sans-serif" font-size="12"><title>{html.escape(title)}</title>'
    )
    for label, worker, (x, y, width, height) in tiles:
        color, hatch, ink = look(workers.index(worker))
        left, top, wide, high = 20 + x * WIDTH, y * HEIGHT, width * WIDTH, height * HEIGHT
        parts.append(
            f'<rect x="{left:.1f}" y="{top:.1f}" width="{wide:.1f}" height="{high:.1f}" fill="{color}" stroke="black"/>'
        )
        if hatch:
            turn = 180 // len(HATCHES) * HATCHES.index(hatch)  # at 180° stripes would look as at 0°
            parts.append(
                f'<pattern id="turned-{turn}" width="6" height="6" patternUnits="userSpaceOnUse" '
                f'patternTransform="rotate({turn})"><path d="M0 0V6" stroke="black"/></pattern>'
                f'<path d="M{left:.1f} {top:.1f}h{wide:.1f}v{high:.1f}h-{wide:.1f}z" fill="url(#turned-{turn})"/>'
            )
        if wide >= 8 * len(label) and high >= 14:  # a label that does not fit is left out: the table has it
            parts.append(
                f'<text x="{left + wide / 2:.1f}" y="{top + high / 2 + 4:.1f}" text-anchor="middle" fill="{ink}">'
                f"{html.escape(label)}</text>"
            )
    parts.append(f'<text x="{20 + WIDTH / 2:.0f}" y="{HEIGHT + 18}" text-anchor="middle">{html.escape(across)}</text>')
    if down:
        middle = HEIGHT / 2
        parts.append(
            f'<text x="12" y="{middle:.0f}" text-anchor="middle" transform="rotate(-90 12 {middle:.0f})">'
            f"{html.escape(down)}</text>"
        )
    return "".join((*parts, "</svg>"))


def step_picture(
    variant: str, output_shape: tuple[int, ...], shards: Sequence[tuple[int, str, Sequence[tuple[int, int]]]]
) -> str:
    """A picture of a step's output, channels across and rows down, with a tile for each shard.

    Shards of a cut along samples, and shards that are summed, have the same channels and rows. Then the tiles lie one
    below the other.

    Args:
        variant: kind of convolution.
        output_shape: (N, M, *spatial).
        shards: index, worker and output ranges (start, stop) per dimension of each.
    """
    _, channels, height, *_ = output_shape
    boxes: list[Box] = [
        (m[0] / channels, rows[0] / height, (m[1] - m[0]) / channels, (rows[1] - rows[0]) / height)
        for _, _, (_, m, rows, *_) in shards
    ]
    down = f"{height} output rows"
    if len(set(boxes)) < len(boxes):
        boxes = [(0.0, i / len(shards), 1.0, 1 / len(shards)) for i in range(len(shards))]
        down = f"{len(shards)} shards"
    tiles = [(f"{index}: {worker}", worker, box) for (index, worker, _), box in zip(shards, boxes, strict=True)]
    return svg_tiles(f"Shards of a {variant} convolution", f"{channels} output channels", down, tiles)
