"""When requests are due."""

import numpy as np
import pytest

from groupconv_server.load.profile import Profile
from groupconv_server.load.schedule import Schedule

LAYER = "mobilenet_dw_14"


def profile(**fields):
    return Profile.model_validate({"users": 2, "seconds": 0.5, "verify": 1, "mix": [{"layer": LAYER}], **fields})


def test_requests_are_due_at_the_rate_and_in_the_shares_asked_for():
    mix = [{"layer": LAYER, "weight": 3}, {"layer": "alexnet_conv2", "weight": 1}]
    schedule = Schedule(profile(rate=50, verify=0.5, mix=mix))
    due, cases, verified = zip(*(schedule.next() for _ in range(4000)), strict=True)
    assert np.diff(due).min() >= 0
    assert due[-1] == pytest.approx(80, rel=0.1)
    assert np.mean(cases) == pytest.approx(0.25, abs=0.03)
    assert np.mean(verified) == pytest.approx(0.5, abs=0.03)
