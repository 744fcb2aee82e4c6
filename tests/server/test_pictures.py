"""Every picture of the project: nothing overlaps, everyone can read it, axes end with the data, legends match."""

import itertools
import re
from types import SimpleNamespace

import numpy as np
import pytest
from drawings import PICTURES, PLANS, plan_of
from matplotlib.collections import PathCollection
from matplotlib.colors import to_hex, to_rgb
from matplotlib.patches import Rectangle
from matplotlib.text import Text

from groupconv.convolution.plan_picture import draw as draw_plan
from groupconv.errors import InvalidArgumentError
from groupconv.pictures import COLORS, LINES, SEVERAL, SHARED, figure, ink, label_ends, look
from groupconv_server.planner import Cut
from sight import MACHADO, contrast, difference

SLOW = (
    "tiles, circular",
    "a volume",
    "depthwise over twelve workers",
    "two steps, the second on one worker",
    "scaling",
)


def parameters(names):
    """The names as parameters; some run with the slow suite only."""
    return [pytest.param(n, marks=[pytest.mark.slow] * n.removeprefix("plan: ").startswith(SLOW)) for n in names]


@pytest.fixture(scope="module", params=parameters(PICTURES))
def drawn(request):
    """A picture, the texts that its renderer drew with their boxes, its pixels without them."""
    figure = PICTURES[request.param]()
    texts, original = [], Text.draw

    def record(text, renderer):
        if text.get_visible() and text.get_text().strip():
            texts.append((text, text.get_window_extent(renderer)))
        return original(text, renderer)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Text, "draw", record)
        figure.canvas.draw()
        patch.setattr(Text, "draw", lambda *_: None)
        figure.canvas.draw()
    return SimpleNamespace(
        name=request.param, figure=figure, texts=texts, pixels=np.asarray(figure.canvas.buffer_rgba())[..., :3]
    )


def all_axes(figure):
    return [axes for axes in figure.get_axes() if axes.axison]


def test_no_text_overlaps_another_or_is_cut_off(drawn):
    assert len(drawn.texts) > 5
    height, width = drawn.pixels.shape[:2]
    for text, box in drawn.texts:
        assert min(box.x0, box.y0, width - box.x1, height - box.y1) > -1, (text, box)
    for (one, a), (other, b) in itertools.combinations(drawn.texts, 2):
        across, down = min(a.x1, b.x1) - max(a.x0, b.x0), min(a.y1, b.y1) - max(a.y0, b.y0)
        assert min(across, down) < 1.5, (one.get_text(), other.get_text())


def test_text_has_the_contrast_that_wcag_asks_for(drawn):
    height = len(drawn.pixels)
    for text, box in drawn.texts:
        patch = text.get_bbox_patch()
        if patch is not None:
            behind = patch.get_facecolor()[:3]
        else:
            rows = drawn.pixels[
                max(0, int(height - box.y1)) : int(height - box.y0) + 1, max(0, int(box.x0)) : int(box.x1) + 1
            ]
            colors, counts = np.unique(rows.reshape(-1, 3), axis=0, return_counts=True)
            behind = colors[counts.argmax()] / 255
        large = text.get_fontsize() >= 9 and text.get_color() in {color for color, _, _ in LINES}
        assert contrast(to_rgb(text.get_color()), behind) >= (3 if large else 4.5), text.get_text()


def test_axes_have_names_and_plain_numbers(drawn):
    for axes in all_axes(drawn.figure):
        assert axes.get_xlabel(), axes
        assert axes.get_ylabel() or axes.get_title() or axes.get_title(loc="left") or len(axes.get_yticklabels()) >= 2
    for text, _ in drawn.texts:
        assert not re.search(r"\d[eE][+-]?\d+$|10\^|\\times|\$|nan|inf", text.get_text().partition("error")[0]), (
            text.get_text()
        )


def test_legends_cover_nothing(drawn):
    figure = drawn.figure
    legends = [*figure.legends, *(axes.get_legend() for axes in figure.get_axes() if axes.get_legend())]
    for legend, axes in itertools.product(legends, all_axes(figure)):
        box, inside = legend.get_window_extent(), axes.get_window_extent()
        assert (
            min(box.x1, inside.x1) - max(box.x0, inside.x0) < 1 or min(box.y1, inside.y1) - max(box.y0, inside.y0) < 1
        )


def test_lines_are_told_apart_without_color(drawn):
    for axes in all_axes(drawn.figure):
        lines = [line for line in axes.lines if len(line.get_xdata()) > 2]
        looks = {(line.get_linestyle(), line.get_marker()) for line in lines}
        assert len(looks) == len(lines) or len({to_hex(line.get_color()) for line in lines}) < len(lines)
        markers = [c for c in axes.collections if isinstance(c, PathCollection) and c.get_label()[0] != "_"]
        assert len({c.get_paths()[0].vertices.tobytes() for c in markers}) == len({c.get_label() for c in markers})


@pytest.mark.parametrize("sight", MACHADO)
def test_colors_differ_for_everyone(sight):
    for one, other in itertools.combinations((*COLORS, SHARED), 2):
        limit = 2 if SHARED in (one, other) else 10  # gray is hatched as well
        assert difference(to_rgb(one), to_rgb(other), sight) > limit, (one, other)
    for (one, *_), (other, *_) in itertools.combinations(LINES, 2):
        assert difference(to_rgb(one), to_rgb(other), sight) > 10, (one, other)
    assert difference(to_rgb("tab:green"), to_rgb("tab:red"), "deuteranopia") < 30  # what a bad pair measures


def test_areas_and_lines_stand_out():
    for color in COLORS:
        assert contrast(to_rgb(color), to_rgb(ink(color))) >= 4.5
    for color, _, _ in LINES:
        assert contrast(to_rgb(color), (1, 1, 1)) >= 3
    assert len({look(i) for i in range(42)}) == 42


@pytest.mark.parametrize("name", parameters(PLANS))
def test_tiles_of_a_plan_match_its_legend_and_fill_the_axes(name):
    plan = PLANS[name]
    figure = draw_plan(plan.steps, plan.workers)
    (legend,) = figure.legends
    looks = [(to_hex(p.get_facecolor()), p.get_hatch() or "") for p in legend.get_patches()]
    hatches = {p.get_hatch() for axes in figure.get_axes() for p in axes.patches}
    more = ["read or summed by several workers"] * (SEVERAL in hatches)
    assert len(set(looks)) == len(looks) == len(plan.workers) + len(more)
    places = {text.get_text(): text.get_window_extent() for text in legend.get_texts()}
    labels = sorted(places, key=lambda label: (-round(places[label].y1), places[label].x0))  # as one reads them
    assert labels == [*plan.workers, *more]
    for axes in figure.get_axes():
        tiles = [p for p in axes.patches if isinstance(p, Rectangle)]
        assert {(to_hex(p.get_facecolor()), p.get_hatch() or "") for p in tiles if p.get_fill()} <= set(looks)
        boxes = np.array([p.get_bbox().extents for p in tiles])
        np.testing.assert_allclose(
            (*sorted(axes.get_xlim()), *sorted(axes.get_ylim())),
            (boxes[:, 0].min(), boxes[:, 2].max(), boxes[:, 1].min(), boxes[:, 3].max()),
        )
        assert axes.get_xticks()[0] == axes.get_yticks()[0] == 0
    written = [text.get_text() for axes in figure.get_axes() for text in axes.texts]
    assert all(worker in written for worker in plan.workers if len(plan.workers) <= 4)


def test_halos_are_what_neighbors_share():
    plan = plan_of((1, 4, 8, 8), ((4, 4, 3, 3), {"padding": 1}), chains=[(1, Cut(space=(2, 1)))])
    source, _, target = draw_plan(plan.steps, plan.workers).get_axes()
    shared = [p.get_bbox().extents.tolist() for p in source.patches if p.get_hatch() == "////"]
    assert shared == [[0, 3, 8, 5]]
    assert not [p for p in target.patches if p.get_hatch() == "////"]


def test_a_plan_saves_itself_in_each_format(tmp_path):
    plan = PLANS["a signal"]
    for suffix, begins in ((".png", b"\x89PNG"), (".svg", b"<?xml"), (".pdf", b"%PDF")):
        plan.picture(tmp_path / "new" / f"plan{suffix}")
        assert (tmp_path / "new" / f"plan{suffix}").read_bytes().startswith(begins)
    with pytest.raises(InvalidArgumentError, match=r"path: expected a file name that ends in \.png, \.svg, \.pdf, got"):
        plan.picture(tmp_path / "plan.txt")


def test_names_at_the_ends_of_lines_keep_apart():
    made = figure(4, 3)
    axes = made.subplots()
    axes.set_ylim(0, 1)
    label_ends(axes, [(0.5, "one", "black"), (0.5, "two", "black"), (0.51, "three", "black")])
    boxes = sorted((text.get_window_extent() for text in axes.texts), key=lambda box: box.y0)
    assert all(a.y1 <= b.y0 + 1 for a, b in itertools.pairwise(boxes))
