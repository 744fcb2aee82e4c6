"""Measured times: what they replace, and when they are forgotten."""

import numpy as np
import pytest

from groupconv import ConvSpec, resolve
from groupconv.convolution.dtypes import types_of
from groupconv_server.layers.catalogue import catalogue
from groupconv_server.planner import Cut, Planner, Rates, Statistics
from groupconv_server.planner.history import TRIALS
from groupconv_server.planner.plan import DOUBTS
from groupconv_worker.contract import Problem

F32 = np.dtype("float32")
EIGHT = tuple(f"w{i}" for i in range(8))
SLOW = Rates(multiply_adds=(1e6,) * 5, overhead=(1e-6,) * 5, latency=1e-6, dispatch=1e-6)


def problem(*, x, w, **spec) -> Problem:
    return Problem(resolve(ConvSpec(**spec), x, w), types_of(F32, F32))


def layers(*names, batch=1) -> tuple[Problem, ...]:
    from groupconv.convolution.steps import geometries

    found = [catalogue()[name] for name in names]
    shape = found[0].geometry.with_batch(batch).input_shape
    shapes = geometries([f.spec for f in found], shape, [f.geometry.weight_shape for f in found])
    return tuple(Problem(g, types_of(F32, F32)) for g in shapes)


def planner(rates: Rates = SLOW, speeds=(1.0,) * 8) -> Planner:
    statistics = Statistics()
    statistics.calibrated({w: rates.faster(s) for w, s in zip(EIGHT, speeds, strict=False)})
    return Planner(statistics)


def learn(p, chain, seconds, compute):
    """What a coordinator has the planner learn from a run."""
    chain.history.observe(chain.cut, seconds, chain.prediction.seconds)
    p.statistics.observe_workers(chain.workers, map(sum, chain.prediction.compute), map(sum, compute))


def test_a_plan_is_kept_until_what_it_rests_on_changes():
    p = planner()
    (first,) = p.plan(layers("alexnet_conv2"), EIGHT)
    assert p.plan(layers("alexnet_conv2"), EIGHT)[0] is first
    learn(p, first, 2 * first.prediction.seconds, first.prediction.compute)
    (second,) = p.plan(layers("alexnet_conv2"), EIGHT)
    assert second is not first
    learn(p, second, second.prediction.seconds, second.prediction.compute)
    assert p.plan(layers("alexnet_conv2"), EIGHT)[0] is second


def test_measured_times_replace_predicted_ones_and_scale_the_rest():
    p = planner()
    layer = layers("alexnet_conv2")
    (model,) = p.plan(layer, EIGHT)
    for _ in range(3):
        learn(p, model, 2 * model.prediction.seconds, model.prediction.compute)
    (learned,) = p.plan(layer, EIGHT)
    assert learned.prediction.seconds == pytest.approx(2 * model.prediction.seconds)
    whole = [c.plans[0].alternatives[-1].seconds for c in (model, learned)]
    assert whole[1] == pytest.approx(2 * whole[0])


def test_the_planner_comes_to_the_cut_that_is_fastest_in_truth():
    p, layer = planner(), layers("resnet50_3x3_56")
    truth = {Cut(space=(1, 8)): 0.5}  # eight bands of columns take half of what the model says, all else what it says
    for _ in range(200):
        (chain,) = p.explore(p.plan(layer, EIGHT), EIGHT)
        modelled = Planner(p.statistics).forced(layer, EIGHT, [(1, chain.cut)])[0].prediction
        learn(p, chain, truth.get(chain.cut, 1.0) * modelled.seconds, modelled.compute)
    assert p.plan(layer, EIGHT)[0].cut == Cut(space=(1, 8))


def test_a_cut_that_was_slow_in_a_busy_hour_gets_another_chance():
    p, layer = planner(), layers("resnet50_3x3_56")
    best = p.plan(layer, EIGHT)[0].cut
    for run in range(240):
        (chain,) = p.explore(p.plan(layer, EIGHT), EIGHT)
        modelled = Planner(p.statistics).forced(layer, EIGHT, [(1, chain.cut)])[0].prediction
        learn(p, chain, (3 if chain.cut == best and run < 100 else 1) * modelled.seconds, modelled.compute)
        if run == 110:
            assert p.plan(layer, EIGHT)[0].cut != best
    assert p.plan(layer, EIGHT)[0].cut == best


def test_curiosity_has_an_end():
    p, layer = planner(), layers("resnet50_3x3_56")
    ran = []
    for _ in range(500):
        planned = p.plan(layer, EIGHT)
        (chain,) = p.explore(planned, EIGHT)
        if chain is not planned[0]:
            ran.append(chain.cut)
            assert chain.plans[0].reason.startswith("tried once to measure its time")
        modelled = Planner(p.statistics).forced(layer, EIGHT, [(1, chain.cut)])[0].prediction
        learn(p, chain, modelled.seconds, modelled.compute)
    assert ran
    doubted = sum(runs < 500 for runs in DOUBTS)
    assert max(map(ran.count, ran)) <= TRIALS * (1 + doubted)
    assert p.explore(p.plan(layer, EIGHT), EIGHT)[0] is p.plan(layer, EIGHT)[0]


def test_a_worker_that_is_slower_than_the_others_gets_less():
    p, layer = planner(), (problem(x=(64, 1, 64), w=(1, 1, 3)),)
    for _ in range(40):
        (chain,) = p.forced(layer, EIGHT[:4], [(1, Cut(batch=4))])
        truth = [
            tuple(s * (3 if w == "w2" else 1) * p.statistics.rates(w).multiply_adds[0] / 1e6 for s in steps)
            for w, steps in zip(chain.workers, chain.prediction.compute, strict=True)
        ]
        learn(p, chain, 1.0, truth)
    samples = {s.worker: s.output[0].stop - s.output[0].start for s in chain.plans[0].shards}
    assert samples["w2"] == min(samples.values())
    others = [n for w, n in samples.items() if w != "w2"]
    assert 2 <= np.mean(others) / samples["w2"] <= 4
