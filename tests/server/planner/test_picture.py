"""Plans as pictures: every kind of cut can be drawn, halos are hatched, files are what they say."""

import imageio.v3 as iio
import numpy as np
import pytest

from groupconv import ConvSpec, resolve
from groupconv.convolution.dtypes import types_of
from groupconv_server.planner import Cut, Planner, request_plan
from groupconv_server.planner.picture import _shared, draw
from groupconv_worker.contract import Problem

F32 = np.dtype("float32")
WORKERS = tuple(f"w{i}" for i in range(12))


def plan_of(x, w, cut, **spec):
    problem = Problem(resolve(ConvSpec(**spec), x, w), types_of(F32, F32))
    return request_plan(Planner().forced((problem,), WORKERS, [(1, cut)]))


CASES = [
    plan_of((2, 4, 9, 9), (4, 2, 3, 3), Cut(group=2, batch=2, space=(3, 1)), groups=2),
    plan_of((1, 4, 12, 12), (4, 4, 3, 3), Cut(space=(3, 2)), padding=1, padding_mode="circular"),
    plan_of((1, 4, 30), (4, 4, 3), Cut(space=(3,)), padding=1),
    plan_of((1, 4, 6, 6, 6), (4, 4, 3, 3, 3), Cut(space=(2, 2, 1)), padding=1),
    plan_of((1, 4, 5, 5), (4, 4, 3, 3), Cut(channel=2, filter=2)),
    plan_of((1, 40, 5, 5), (40, 1, 3, 3), Cut(group=12), groups=40),
]


@pytest.mark.parametrize("plan", CASES)
def test_a_plan_is_drawn_in_its_workers_colours(plan, tmp_path):
    draw(plan, tmp_path / "plan.png")
    pixels = iio.imread(tmp_path / "plan.png")[..., :3].reshape(-1, 3)
    _, counts = np.unique(pixels[(np.ptp(pixels, axis=1) > 40)], axis=0, return_counts=True)
    assert (counts > 1000).sum() >= len(plan.workers)


def test_an_svg_is_one(tmp_path):
    draw(CASES[0], tmp_path / "plan.svg")
    assert "<svg" in (tmp_path / "plan.svg").read_text()


def test_halos_are_what_neighbours_share():
    plan = plan_of((1, 4, 8, 8), (4, 4, 3, 3), Cut(space=(2, 1)), padding=1)
    step = plan.steps[0]
    shared = list(_shared([(s, s.input) for s in step.shards], step.input_shape))
    assert [(str(y), str(x)) for y, x in shared] == [("3:5", "0:8")]
    assert list(_shared([(s, s.output) for s in step.shards], step.output_shape)) == []
