"""The cut that the planner chooses, and how workers share it."""

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from groupconv import ConvSpec, resolve
from groupconv.convolution.dtypes import types_of
from groupconv_server.layers.catalogue import catalogue
from groupconv_server.planner import Cut, Planner, Rates, Statistics, request_plan
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


def test_small_convolutions_are_not_split_and_large_ones_use_every_worker():
    small, large = problem(x=(1, 4, 8, 8), w=(4, 4, 3, 3)), problem(x=(1, 64, 128, 128), w=(64, 64, 3, 3))
    (chain,) = Planner().plan((small,), EIGHT)
    assert chain.cut.parts == 1
    assert "not split: predicted" in chain.plans[0].reason
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
