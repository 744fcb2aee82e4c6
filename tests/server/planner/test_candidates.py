"""The candidates of the planner."""

import numpy as np
import pytest

from groupconv_server.planner.candidates import cut_of, grids, row_of


@pytest.mark.parametrize(("rank", "workers"), [(1, 1), (2, 6), (3, 16), (2, 1000)])
def test_candidates_are_different_and_use_at_most_all_workers(rank, workers):
    matrix = grids(rank, workers)
    assert matrix[0].tolist() == [1] * (4 + rank)
    shards = matrix.prod(axis=1)
    assert shards.max() == workers
    assert len(np.unique(matrix, axis=0)) == len(matrix)


@pytest.mark.parametrize("rank", [1, 2, 3])
def test_up_to_16_workers_every_number_of_shards_is_there(rank):
    assert set(grids(rank, 12).prod(axis=1)) == set(range(1, 13))


def test_a_row_and_its_cut_are_the_same():
    for row in grids(2, 8):
        assert row_of(cut_of(row), 2) == tuple(row)
