"""The states of networks on all workers of an executor."""

from collections.abc import Iterable
from dataclasses import replace

from groupconv.networks.state import NetworkState
from groupconv_worker.networks.runner import States

SECONDS = 1.0
"""Seconds that workers have to answer; those that are late are left out."""


def joined(by_worker: Iterable[tuple[str, States]]) -> States:
    """The states of several workers, each with the worker's id.

    Example:
        >>> from groupconv.networks.state import Phase
        >>> state = NetworkState(Phase.MEASURING)
        >>> [s.worker for s in joined([("a", {("net", 1): (state,)}), ("b", {("net", 1): (state,)})])["net", 1]]
        ['a', 'b']
    """
    states: dict[tuple[str, int], list[NetworkState]] = {}
    for worker, versions in by_worker:
        for version, several in versions.items():
            states.setdefault(version, []).extend(replace(state, worker=worker) for state in several)
    return {version: tuple(several) for version, several in states.items()}
