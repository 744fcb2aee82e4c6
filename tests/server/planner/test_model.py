"""What the planner chooses and why: the model, shares, learning, chains and words."""

import math
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from groupconv import ConvSpec, resolve
from groupconv.convolution.dtypes import types_of
from groupconv_server.executors import create_executor
from groupconv_server.layers.catalogue import catalogue
from groupconv_server.planner import Cut, Planner, Rates, Statistics, request_plan
from groupconv_server.planner.calibrate import calibrate
from groupconv_server.planner.candidates import cut_of, grids
from groupconv_server.planner.model import predict, screen
from groupconv_server.planner.pieces import pieces
from groupconv_server.planner.plan import DOUBTS
from groupconv_server.planner.statistics import TRIALS
from groupconv_worker.contract import Problem
from strategies import Case, cases

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


@settings(max_examples=100)
@given(case=cases(max_groups=6, max_batch=4), workers=st.integers(1, 12), reordering=st.booleans())
def test_screening_bounds_what_the_pieces_cost(case: Case, workers, reordering):
    chain = (Problem(case.geometry, case.types),)
    rates = [replace(SLOW, link=1e6, crowding=0.3)] * workers
    matrix = grids(case.geometry.rank, workers)
    seconds = screen(chain, matrix, rates, reordering=reordering)
    for row, upper in zip(matrix, seconds, strict=True):
        cut = cut_of(row)
        made = pieces(chain, cut)
        if math.isinf(upper):
            assert made is None or (cut.channel > 1 and not reordering)
        elif made is not None:
            exact = predict(made, rates[: cut.parts], workers).seconds
            assert exact <= upper * (1 + 1e-9)
            if cut.parts == 1:
                assert exact == pytest.approx(upper)


def test_small_convolutions_are_not_split_and_large_ones_use_every_worker():
    small, large = problem(x=(1, 4, 8, 8), w=(4, 4, 3, 3)), problem(x=(1, 64, 128, 128), w=(64, 64, 3, 3))
    (chain,) = Planner().plan((small,), EIGHT)
    assert chain.cut.parts == 1
    assert "not split: one worker takes" in chain.plans[0].reason
    (chain,) = Planner().plan((large,), EIGHT)
    assert chain.cut.parts == 8
    assert chain.plans[0].alternatives[-1].cut == "nothing"
    assert chain.plans[0].alternatives[-1].seconds > chain.plans[0].seconds


def test_one_group_or_fewer_groups_than_workers_leave_nobody_idle():
    for name in ("resnet50_3x3_56", "alexnet_conv2", "unet_up2"):
        (chain,) = planner().plan(layers(name), EIGHT)
        assert set(chain.workers) == set(EIGHT), name


@pytest.mark.parametrize(("link", "parts"), [(float("inf"), 8), (1.0, 1)])
def test_a_slow_link_keeps_work_together(link, parts):
    (chain,) = planner(replace(SLOW, link=link)).plan(layers("resnet50_3x3_56"), EIGHT)
    assert chain.cut.parts == parts


@given(st.lists(st.sampled_from([1.0, 2.0, 3.0]), min_size=2, max_size=8))
def test_shares_follow_the_speeds(speeds):
    p = planner(speeds=speeds)
    (chain,) = p.forced((problem(x=(720, 1, 8), w=(1, 1, 3)),), EIGHT[: len(speeds)], [(1, Cut(batch=len(speeds)))])
    for shard in chain.plans[0].shards:
        speed = speeds[EIGHT.index(shard.worker)]
        samples = shard.output[0].stop - shard.output[0].start
        assert abs(samples - 720 * speed / sum(speeds)) <= 1


def test_input_channels_are_cut_only_if_sums_may_be_reordered():
    deep = (problem(x=(1, 4096, 1), w=(1, 4096, 1)),)
    (kept,) = planner().plan(deep, EIGHT)
    assert kept.cut.parts == 1
    (summed,) = planner().plan(deep, EIGHT, reordering=True)
    assert (summed.cut.channel, summed.cut.parts) == (8, 8)
    assert "(summed)" in request_plan((summed,)).explain()


def test_layers_of_one_grouping_run_as_towers_and_a_regrouping_is_said():
    two = EIGHT[:2]
    towers = planner().plan(layers("alexnet_conv4", "alexnet_conv5"), two)
    assert [(c.cut.group, len(c.chain)) for c in towers] == [(2, 2)]
    plan = request_plan(towers)
    assert [s.joined for s in plan.steps] == [False, True]
    assert [s.bytes_out for s in plan.steps[0].shards] == [0, 0]
    assert "nothing is merged in between (2 towers of the 2 groups)" in plan.steps[1].reason
    # one tower cannot run the 384 filters of conv3 over all channels without the other's half
    first = problem(x=(1, 64, 4, 4), w=(64, 32, 3, 3), padding=1, groups=2)
    second = problem(x=(1, 64, 4, 4), w=(64, 64, 5, 5), padding=2)
    chains = planner().plan((first, second), two)
    assert len(chains) == 2
    assert chains[0].cut.group == 2
    assert chains[1].plans[0].reason.startswith("regrouped: step 0 has g=2, this one g=1")


def test_depthwise_and_pointwise_go_by_samples_or_rows_without_meeting():
    (chain,) = planner(replace(SLOW, link=1e9)).plan(layers("mobilenet_dw_14", "mobilenet_pw_14", batch=2), EIGHT[:2])
    assert chain.cut == Cut(batch=2, space=(1, 1))
    (chain,) = planner(replace(SLOW, link=1e9)).plan(layers("mobilenet_dw_14", "mobilenet_pw_14"), EIGHT[:2])
    assert max(chain.cut.space) == 2
    rows = [tuple(map(str, s.input[2:])) for s in chain.plans[0].shards]
    assert rows in ([("0:8", "0:14"), ("6:14", "0:14")], [("0:14", "0:8"), ("0:14", "6:14")])


def test_a_plan_is_kept_until_what_it_rests_on_changes():
    p = planner()
    (first,) = p.plan(layers("alexnet_conv2"), EIGHT)
    assert p.plan(layers("alexnet_conv2"), EIGHT)[0] is first
    p.learn(first, 2 * first.prediction.seconds, first.prediction.compute)
    (second,) = p.plan(layers("alexnet_conv2"), EIGHT)
    assert second is not first
    p.learn(second, second.prediction.seconds, second.prediction.compute)
    assert p.plan(layers("alexnet_conv2"), EIGHT)[0] is second


def test_measured_times_replace_predicted_ones_and_scale_the_rest():
    p = planner()
    layer = layers("alexnet_conv2")
    (model,) = p.plan(layer, EIGHT)
    for _ in range(3):
        p.learn(model, 2 * model.prediction.seconds, model.prediction.compute)
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
        p.learn(chain, truth.get(chain.cut, 1.0) * modelled.seconds, modelled.compute)
    assert p.plan(layer, EIGHT)[0].cut == Cut(space=(1, 8))


def test_a_cut_that_was_slow_in_a_busy_hour_gets_another_chance():
    p, layer = planner(), layers("resnet50_3x3_56")
    best = p.plan(layer, EIGHT)[0].cut
    for run in range(240):
        (chain,) = p.explore(p.plan(layer, EIGHT), EIGHT)
        modelled = Planner(p.statistics).forced(layer, EIGHT, [(1, chain.cut)])[0].prediction
        p.learn(chain, (3 if chain.cut == best and run < 100 else 1) * modelled.seconds, modelled.compute)
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
        p.learn(chain, modelled.seconds, modelled.compute)
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
        p.learn(chain, 1.0, truth)
    samples = {s.worker: s.output[0].stop - s.output[0].start for s in chain.plans[0].shards}
    assert samples["w2"] == min(samples.values())
    others = [n for w, n in samples.items() if w != "w2"]
    assert 2 <= np.mean(others) / samples["w2"] <= 4


def test_small_requests_take_turns_on_workers_that_are_alike():
    small = (problem(x=(1, 4, 8, 8), w=(4, 4, 3, 3)),)
    p = Planner()
    assert {p.plan(small, EIGHT)[0].workers for _ in range(8)} == {(w,) for w in EIGHT}
    fast = planner(Rates(), speeds=(1, 1, 1, 1, 1, 1, 1, 4.0))
    assert {fast.plan(small, EIGHT)[0].workers for _ in range(8)} == {("w7",)}


def test_a_thousand_workers_are_planned_for():
    workers = tuple(f"w{i}" for i in range(1000))
    big = (problem(x=(8, 64, 512, 512), w=(64, 64, 3, 3), padding=1),)
    (chain,) = planner().plan(big, workers)
    assert len(set(chain.workers)) == chain.cut.parts >= 950


@settings(max_examples=30)
@given(case=cases(rank=2), sequence=st.integers(2, 4))
def test_the_seconds_of_the_steps_add_up_to_the_plan(case: Case, sequence):
    same = replace(case.spec, padding="same") if not case.spec.transposed else None
    assume(same is not None and case.spec.padding_mode == "zeros")
    m = case.geometry.out_channels
    pointwise = ConvSpec()
    from groupconv.convolution.steps import geometries

    kernels = [case.weight.shape] + [(m, m, 1, 1)] * (sequence - 1)
    shapes = geometries([same] + [pointwise] * (sequence - 1), case.x.shape, kernels)
    chains = planner().plan(tuple(Problem(g, case.types) for g in shapes), EIGHT)
    plan = request_plan(chains)
    assert plan.seconds == pytest.approx(sum(c.prediction.seconds for c in chains))
    assert len(plan.steps) == sequence


def test_calibration_measures_every_worker_in_little_time():
    executor = create_executor("local", workers=2, threads=1, engine="cpu")
    try:
        rates = calibrate(executor)
    finally:
        executor.close()
    assert set(rates) == {"local-0", "local-1"}
    for r in rates.values():
        assert min(r.multiply_adds) > 1e6
        assert min(r.memory, r.link) > 1e6
        assert 0 < r.latency < 1
        assert min(r.overhead) >= 0


def test_workers_that_cannot_be_measured_get_default_rates():
    from groupconv.errors import UnavailableError

    class Broken:
        def workers(self):
            return ("w0",)

        def run(self, tasks, *, job=None, among=1):
            raise UnavailableError("away")

    assert calibrate(Broken()) == {}
