"""Predicted times: of all candidates at once, and of the pieces of a cut."""

import math
from dataclasses import replace

import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from groupconv import ConvSpec
from groupconv_server.planner import Planner, Rates, Statistics, request_plan
from groupconv_server.planner.candidates import cut_of, grids
from groupconv_server.planner.model import predict, screen
from groupconv_server.planner.pieces import pieces
from groupconv_worker.contract import Problem
from strategies import Case, cases

EIGHT = tuple(f"w{i}" for i in range(8))
SLOW = Rates(multiply_adds=(1e6,) * 5, overhead=(1e-6,) * 5, latency=1e-6, dispatch=1e-6)


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
