"""Who waits for a worker in vain is told why there is none."""

import time

import pytest

from groupconv.errors import DeadlineExceededError, UnavailableError
from groupconv_server.executors.lanes import membership
from groupconv_server.executors.lanes.membership import Membership

WHY = "no node offers CPUs"


class Without(Membership):
    def trouble(self):
        return WHY


def test_the_error_has_the_reason(monkeypatch):
    monkeypatch.setattr(membership, "WAIT", 0.01)
    with pytest.raises(UnavailableError, match=WHY):
        Without().wait(None)
    with pytest.raises(DeadlineExceededError, match=WHY):
        Without().wait(time.monotonic())
