"""Cuts that a caller gives."""

import pytest

from groupconv.errors import InvalidArgumentError
from groupconv.v1.network_pb2 import TensorCut
from groupconv_server.networks.cuts import MOST_CUTS, cuts_of


def test_more_cuts_than_a_network_has_tensors_are_refused_before_any_is_made():
    with pytest.raises(InvalidArgumentError, match="cuts: expected at most 16384 tensors, got 16385"):
        cuts_of([TensorCut(used=64)] * (MOST_CUTS + 1))
