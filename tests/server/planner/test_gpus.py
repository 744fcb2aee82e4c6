"""The planner on GPUs: its choices are held to the times that docs/cuda-engine.md has of one."""

import sys
from pathlib import Path

import numpy as np
import pytest

from groupconv.convolution import cost
from groupconv_server.planner import Planner, Statistics

sys.path.insert(0, str(Path(__file__).parents[3] / "bench"))
import h200

TIMINGS = [(problem, seconds) for name, problem, seconds in h200.timings() if name not in h200.OTHERWISE]
LINKS = {"lanes of one node": h200.LANE, "a network of 100 Gb/s": h200.NETWORK}


def test_the_model_describes_the_measured_times():
    rates = h200.rates(**h200.LANE)
    assert len(TIMINGS) == 27 + 27
    logs = [np.log((rates.compute_seconds(p) - h200.kernel(p) / rates.memory) / seconds) for p, seconds in TIMINGS]
    assert np.exp(np.median(np.abs(logs))) < 1.3
    assert np.exp(abs(np.mean(logs))) < 1.05


@pytest.mark.parametrize("workers", [1, 2, 8])
@pytest.mark.parametrize("link", LINKS)
def test_choices_follow_from_the_measured_times(link: str, workers: int):
    rates, names = h200.rates(**LINKS[link]), tuple(f"gpu-{i}" for i in range(workers))
    statistics = Statistics()
    statistics.calibrated(dict.fromkeys(names, rates))
    planner = Planner(statistics)
    cut = 0
    for problem, measured in TIMINGS:
        (chain,) = planner.plan((problem,), names)
        n, predicted = len(chain.shards), chain.plans[0].seconds
        # whatever is cut, the coordinator carries every byte once in each direction, and sends each shard
        carried = (h200.maps(problem) + h200.kernel(problem)) / rates.link
        assert predicted >= carried + n * rates.dispatch + rates.latency
        assert predicted <= (carried + rates.dispatch + rates.latency + rates.compute_seconds(problem)) * (1 + 1e-9)
        once = measured + h200.kernel(problem) / rates.memory  # the kernel comes with the request
        if n > 1:  # a perfect division of the measured time must save what the further shards cost
            cut += 1
            assert once * (1 - 1 / n) > 0.8 * (n - 1) * rates.dispatch, problem
        elif workers > 1:  # half of it must be less than one more shard costs, and the tensor that both halves need
            g = problem.geometry
            shared = 0 if g.groups > 1 else min(h200.kernel(problem), cost.bytes_in(g, problem.types))
            more = rates.dispatch + shared / rates.link + max(rates.overhead) / 2
            assert once / 2 < 1.5 * more, problem
    assert (cut > 20) == (workers > 1)


def test_a_second_gpu_behind_one_coordinator_saves_at_most_what_is_computed():
    """Carrying a feature map takes longer than its call, so two GPUs give far less than twice one."""
    one, two = (seconds_of_all(workers) for workers in (1, 2))
    carried = sum((h200.maps(p) + h200.kernel(p)) / h200.LANE["link"] for p, _ in TIMINGS)
    assert carried > sum(seconds for _, seconds in TIMINGS)
    assert 1.0 < one / two < 1.3


def seconds_of_all(workers: int) -> float:
    statistics, names = Statistics(), tuple(f"gpu-{i}" for i in range(workers))
    statistics.calibrated(dict.fromkeys(names, h200.rates(**h200.LANE)))
    planner = Planner(statistics)
    return sum(chain.plans[0].seconds for problem, _ in TIMINGS for chain in planner.plan((problem,), names))
