"""Resident layers before they are asked for: workers prepare every part that they may be given."""

from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from groupconv.convolution.steps import Step
from groupconv_server.coordinator.coordinator import Coordinator
from groupconv_worker.job import Job


def warm(
    coordinator: Coordinator,
    steps: Sequence[Step],
    shape: tuple[int, ...],
    dtype: np.dtype,
    job: Job | None = None,
) -> None:
    """Run the steps of a resident layer on zeros, so that every worker that may be given a part has it prepared.

    Args:
        coordinator: runs them.
        steps: of one version.
        shape: (N, C, *spatial) of an input to expect.
        dtype: of that input.
        job: that it is a part of; once that is over, preparing ends.

    Raises:
        InvalidArgumentError, ResourceExhaustedError, DeadlineExceededError, CancelledError, UnavailableError: as
            `Coordinator.convolve`.
    """
    job = job or Job()
    call = coordinator.compile(shape, dtype, steps)
    workers = coordinator.executor.workers()  # if none: each that joins prepares the call before it takes requests
    x = np.zeros(shape, dtype)
    for at_most in _shards(workers):
        chains = coordinator.planner.plan(call.problems, workers, at_most=at_most)
        for first in range(0, len(workers), max(len(c.workers) for c in chains)):
            coordinator.run_plan([c.rotated(workers, first) for c in chains], x, call, job)


def prepare(
    coordinator: Coordinator, worker: str, steps: Sequence[Step], shape: tuple[int, ...], dtype: np.dtype
) -> None:
    """Have one worker, which takes no requests yet, prepare every part of a resident layer it may be given.

    Args:
        coordinator: plans them.
        worker: its id.
        steps: of one version.
        shape: (N, C, *spatial) of an input to expect.
        dtype: of that input.

    Raises:
        InvalidArgumentError, ResourceExhaustedError, UnavailableError: as `Coordinator.convolve`.
    """
    call, executor = coordinator.compile(shape, dtype, steps), coordinator.executor
    workers = tuple(dict.fromkeys((*executor.workers(), worker)))
    done = set()
    for at_most in _shards(workers):
        for chain in coordinator.planner.plan(call.problems, workers, at_most=at_most):
            first = chain.chain[0]
            x = np.zeros(first.geometry.input_shape, first.types.input)
            dispatched = call.dispatch(chain, x)
            for task in dispatched.tasks:
                parts = tuple((stage.key, stage.problem) for stage in task.stages)
                if parts not in done:
                    done.add(parts)
                    executor.run([replace(task, worker=worker)])


def _shards(workers: Sequence[str]) -> list[int]:
    """As many shards at most as workers, and fewer for when other requests run beside it."""
    return sorted({len(workers) // busy for busy in range(1, len(workers) + 1)})
