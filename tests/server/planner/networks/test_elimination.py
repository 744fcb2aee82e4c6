"""Variable elimination against trying everything."""

import itertools

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from groupconv_server.planner.networks import elimination
from groupconv_server.planner.networks.elimination import cheapest


def total(costs, values):
    return sum(table[tuple(values[name] for name in names)] for names, table in costs)


@st.composite
def problems(draw):
    sizes = draw(st.lists(st.integers(1, 4), min_size=1, max_size=6))
    rng = np.random.default_rng(draw(st.integers(0, 999)))
    pairs = draw(st.lists(st.tuples(*[st.integers(0, len(sizes) - 1)] * 2), max_size=12))
    scopes = [(a, b) for a, b in pairs if a != b] + [(v,) for v in range(len(sizes))]
    return sizes, [(names, rng.random([sizes[name] for name in names])) for names in scopes]


@settings(max_examples=60, deadline=None)
@given(problems())
def test_nothing_is_cheaper(problem):
    sizes, costs = problem
    least = min(total(costs, values) for values in itertools.product(*map(range, sizes)))
    np.testing.assert_allclose(total(costs, cheapest(sizes, costs)), least)


@settings(max_examples=20, deadline=None)
@given(problems())
def test_without_room_for_tables_the_choice_is_legal(problem):
    sizes, costs = problem
    largest, elimination.LARGEST = elimination.LARGEST, 4
    try:
        found = cheapest(sizes, costs)
    finally:
        elimination.LARGEST = largest
    assert all(0 <= value < size for value, size in zip(found, sizes, strict=True))


def test_a_long_chain_follows_its_ends():
    apart = 1 - np.eye(3)
    costs = [((i, i + 1), apart) for i in range(300)] + [
        ((0,), np.array([5.0, 0, 9])),
        ((300,), np.array([9.0, 0.5, 0])),
    ]
    assert cheapest([3] * 301, costs) == [1] * 301
