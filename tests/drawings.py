"""Every picture of the project, drawn from made-up numbers: functions that return a figure, by name."""

import importlib.util
import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from groupconv import ConvSpec, resolve
from groupconv.convolution.dtypes import types_of
from groupconv.convolution.plan_picture import draw as draw_plan
from groupconv.networks.cuts_picture import draw as draw_cuts
from groupconv.networks.nodes import NodePlan
from groupconv.networks.picture import draw as draw_network
from groupconv.networks.tensor_cut import TensorCut
from groupconv_server.demo import sheet
from groupconv_server.layers.catalogue import catalogue
from groupconv_server.load import plot
from groupconv_server.load.outcome import LoadOutcome
from groupconv_server.load.requester import Sample
from groupconv_server.measure.engine import Peaks, Row
from groupconv_server.measure.report import draw_roofline
from groupconv_server.planner import Cut, Planner, request_plan
from groupconv_worker.contract import Problem
from groupconv_worker.graph.partition.cut import Cut as TensorsCut
from groupconv_worker.graph.partition.cut import even

F32 = np.dtype("float32")
WORKERS = tuple(f"worker-{i}" for i in range(12))
RNG = np.random.default_rng(3)
ROOT = Path(__file__).parents[1]


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


def cut_network():
    """Sixty tensors over twelve workers: by rows, by channels, on all, and on one."""
    tensors = []
    for i in range(60):
        axis, shape = (2, 1, None)[i // 20], (1, 48, 48, 48)
        cut = TensorsCut.replicated(shape, 12) if axis is None else TensorsCut.along(shape, axis, even(48, 12))
        boxes = tuple(tuple(map(tuple, box.ranges)) for box in cut.boxes)
        sent = 1 << i // 2 if i % 3 else 0
        tensors.append(TensorCut(f"stage/{i}", "Conv", f"t{i}", shape, str(cut), boxes, sent, 1e-3, 1e-4))
    return draw_cuts(tensors, 12, "a network over 12 workers")


PICTURES = {
    "network": network,
    "network over workers": cut_network,
    **{f"plan: {name}": lambda plan=plan: draw_plan(plan.steps, plan.workers) for name, plan in PLANS.items()},
    "load": lambda: plot.draw(outcome(), "groupconv load --profile mix"),
    "load without answers": lambda: plot.draw(
        outcome(answers=False, memory=False), "groupconv load --layer alexnet_conv2"
    ),
    "roofline": roofline,
    "contact sheet": contact_sheet,
    "scaling": scaling,
}
