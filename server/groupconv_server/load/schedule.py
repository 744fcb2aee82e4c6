"""The schedule of a load: when requests are due, and of which kind. The same seed gives the same schedule."""

import numpy as np

from groupconv_server.load.profile import Profile


class Schedule:
    """The requests of a load, in order, for all users.

    With a rate they are due at the times of a Poisson process, as from independent users. A request that is sent late,
    because all users were busy, counts from when it was due. So the latency includes the time that a server stalls.

    Args:
        profile: rate, mix, verify and seed.

    Example:
        >>> profile = Profile(rate=100, mix=[{"layer": "mobilenet_dw_14"}])
        >>> schedule = Schedule(profile)
        >>> due, case, verify = schedule.next()
        >>> schedule.next()[0] > due > 0
        True
    """

    def __init__(self, profile: Profile) -> None:
        self._rng = np.random.default_rng(profile.seed)
        weights = np.array([entry.weight for entry in profile.mix])
        self._edges = np.cumsum(weights / weights.sum())
        self._rate, self._verify, self._due = profile.rate, profile.verify, 0.0
        self.taken = 0

    def next(self) -> tuple[float | None, int, bool]:
        """When the next request is due (seconds after the start, or None for now), its case, whether to verify it."""
        if self._rate is not None:
            self._due += self._rng.exponential(1 / self._rate)
        case = int(np.searchsorted(self._edges, self._rng.random(), side="right"))
        verify = self._rng.random() < self._verify
        self.taken += 1
        return (self._due if self._rate is not None else None), min(case, len(self._edges) - 1), verify

    def missed(self, seconds: float) -> int:
        """Take the requests that are due by then, and return their number."""
        count = 0
        while self._rate is not None:
            due, _, _ = self.next()
            if due is None or due > seconds:
                break
            count += 1
        return count
