"""Every picture of the project: nothing overlaps, everyone can read it, axes end with the data, legends match."""

import importlib.util
import itertools
import re
import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from matplotlib.collections import PathCollection
from matplotlib.colors import to_hex, to_rgb
from matplotlib.patches import Rectangle
from matplotlib.text import Text

from groupconv import ConvSpec, resolve
from groupconv.convolution.dtypes import types_of
from groupconv.convolution.plan_picture import draw as draw_plan
from groupconv.errors import InvalidArgumentError
from groupconv.networks.nodes import NodePlan
from groupconv.networks.picture import draw as draw_network
from groupconv.pictures import COLORS, LINES, SHARED, ink, label_ends, look
from groupconv_server.demo import sheet
from groupconv_server.layers.catalogue import catalogue
from groupconv_server.load import plot
from groupconv_server.load.asker import Sample
from groupconv_server.load.outcome import LoadOutcome
from groupconv_server.measure.engine import Peaks, Row
from groupconv_server.measure.report import draw_roofline
from groupconv_server.planner import Cut, Planner, request_plan
from groupconv_worker.contract import Problem
from sight import MACHADO, contrast, difference

F32 = np.dtype("float32")
WORKERS = tuple(f"worker-{i}" for i in range(12))
RNG = np.random.default_rng(3)
ROOT = Path(__file__).parents[2]


def plan_of(x, *layers, chains):
    problems, shape = [], x
    for w, spec in layers:
        problems.append(Problem(resolve(ConvSpec(**spec), shape, w), types_of(F32, F32)))
        shape = problems[-1].geometry.output_shape
    return request_plan(Planner().forced(tuple(problems), WORKERS, chains))


PLANS = {
    "groups, samples and rows": plan_of(
        (2, 4, 9, 9), ((4, 2, 3, 3), {"groups": 2}), chains=[(1, Cut(group=2, batch=2, space=(3, 1)))]
    ),
    "tiles, circular": plan_of(
        (1, 4, 12, 12), ((4, 4, 3, 3), {"padding": 1, "padding_mode": "circular"}), chains=[(1, Cut(space=(3, 2)))]
    ),
    "a signal": plan_of((1, 4, 30), ((4, 4, 3), {"padding": 1}), chains=[(1, Cut(space=(3,)))]),
    "a volume": plan_of((1, 4, 6, 6, 6), ((4, 4, 3, 3, 3), {"padding": 1}), chains=[(1, Cut(space=(2, 2, 1)))]),
    "sums": plan_of((1, 4, 5, 5), ((4, 4, 3, 3), {}), chains=[(1, Cut(channel=2, filter=2))]),
    "depthwise over twelve workers": plan_of(
        (1, 40, 5, 5), ((40, 1, 3, 3), {"groups": 40}), chains=[(1, Cut(group=12))]
    ),
    "two steps, the second on one worker": plan_of(
        (1, 8, 20, 300),
        ((16, 8, 3, 3), {"padding": 1}),
        ((16, 4, 4, 4), {"transposed": True, "stride": 2}),
        chains=[(1, Cut(filter=4)), (1, Cut(space=(1, 1)))],
    ),
}


def outcome(*, errors=True, answers=True, memory=True):
    o = LoadOutcome(["alexnet_conv2 resident", "mobilenet_dw_14", "unet_up2 stream", "resnet50_3x3_56 batch 4"])
    o.start, o.elapsed = 0.0, 20.0
    for i in range(400):
        failed = "UnavailableError: gone" if (errors and i % 7 == 0) or not answers else None
        seconds = float(RNG.lognormal(-5.5 + 0.4 * (i % 4), 0.4))
        o.add(Sample(i % 4, float(RNG.uniform(0, 20)), seconds, failed=failed))
    o.memory = [(t, 4e8 + 1e6 * t) for t in range(0, 20, 5)] if memory else []
    return o


def roofline():
    peaks = [Peaks(1, 60.0, 12.0), Peaks(2, 110.0, 18.0)]
    rows = [
        Row(name, peak.threads, 1, 1, 1, 1, 1, "gemm", "gemm", 0.0, float(gflops), 1.0, float(intensity), 0.0, 0.0)
        for peak in peaks
        for name, gflops, intensity in zip(
            catalogue(), RNG.uniform(5, 100, len(catalogue())), RNG.uniform(1, 300, len(catalogue())), strict=True
        )
    ]
    return draw_roofline(rows, peaks)


def contact_sheet():
    photo = RNG.random((1, 3, 32, 32), np.float32)
    shapes = {
        "a long name of a case that goes over more than one line": (1, 3, 32, 32),
        "maps": (1, 8, 16, 16),
        "1-D": (1, 3, 64),
        "3-D": (1, 3, 8, 9, 9),
    }
    verdicts = [
        SimpleNamespace(
            case=SimpleNamespace(name=name),
            result=SimpleNamespace(output=RNG.random(shape, np.float32) * 2 - 1),
            passed=name != "maps",
            error=3e-7,
        )
        for name, shape in shapes.items()
    ]
    return sheet.draw(photo, verdicts)


def scaling():
    spec = importlib.util.spec_from_file_location("simulate", ROOT / "bench" / "simulate.py")
    simulate = sys.modules["simulate"] = importlib.util.module_from_spec(spec)
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(ROOT / "bench")  # benchmarks import each other
        spec.loader.exec_module(simulate)
    counts = (1, 8, 64, 1000)
    points = [
        SimpleNamespace(
            workers=n, whole=0.01, between=0.01 / n**0.8, seconds=0.01 / n**0.6, coordinator=3e-5 + n * 1e-8
        )
        for n in counts
    ]
    names = [load.name for load in simulate.loads(8)]
    return simulate.draw({cluster: dict.fromkeys(names, points) for cluster in ("one node", "many nodes")})


def network():
    nodes, shape, before = [], (1, 64, 56, 56), "image"
    for i, op in enumerate(
        ("Conv", "Relu", "MaxPool", "Conv", "Relu", "GroupNormalization", "Concat", "GlobalAveragePool", "Gemm")
    ):
        reads = (before, "stage/0") if op == "Concat" else (before,)
        adds = 10**6 if op in ("Conv", "Gemm") else 0
        nodes.append(
            NodePlan(
                f"stage/{i}/{op.lower()}",
                op,
                shape,
                100,
                adds,
                "own",
                reads,
                (f"stage/{i}",),
                window="3×3" * bool(adds),
            )
        )
        before = f"stage/{i}"
    return draw_network(nodes, "a network")


PICTURES = {
    "network": network,
    **{f"plan: {name}": lambda plan=plan: draw_plan(plan.steps, plan.workers) for name, plan in PLANS.items()},
    "load": lambda: plot.draw(outcome(), "groupconv load --profile mix"),
    "load without answers": lambda: plot.draw(
        outcome(answers=False, memory=False), "groupconv load --layer alexnet_conv2"
    ),
    "roofline": roofline,
    "contact sheet": contact_sheet,
    "scaling": scaling,
}


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
    assert len(set(looks)) == len(looks) == len(plan.workers) + 1
    labels = [text.get_text() for text in legend.get_texts()]
    assert labels[:-1] == list(plan.workers)
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
    from groupconv.pictures import figure

    made = figure(4, 3)
    axes = made.subplots()
    axes.set_ylim(0, 1)
    label_ends(axes, [(0.5, "one", "black"), (0.5, "two", "black"), (0.51, "three", "black")])
    boxes = sorted((text.get_window_extent() for text in axes.texts), key=lambda box: box.y0)
    assert all(a.y1 <= b.y0 + 1 for a, b in itertools.pairwise(boxes))
