"""Measuring a coordinator's workers, so that its planner knows their rates."""

from groupconv_server.coordinator.coordinator import Coordinator
from groupconv_server.planner.calibrate import BUDGET, calibrate


def calibrate_workers(coordinator: Coordinator, budget: float = BUDGET) -> bool:
    """Measure the present workers. The planner uses the rates.

    Args:
        coordinator: of the workers.
        budget: seconds that it may take, about; of a slow machine it then knows a part.

    Returns:
        Whether every class was measured. If not, a request came, which goes first, or kernels are being compiled:
        measure again later.
    """
    begun = coordinator.requests
    measured = calibrate(
        coordinator.executor,
        disturbed=lambda: coordinator.running > 0 or coordinator.requests != begun,
        budget=budget,
        shards=coordinator.calibration_shards,
    )
    if measured.disturbed:
        return False
    coordinator.planner.statistics.calibrated(measured.rates, measured.unknown)
    return not measured.unknown


def calibrate_joined(coordinator: Coordinator, worker: str) -> None:
    """Measure a worker that joins, unless it was measured before and comes back."""
    statistics, shards = coordinator.planner.statistics, coordinator.calibration_shards
    known = statistics.known()
    if worker in known:
        return
    measured = calibrate(coordinator.executor, workers=[worker], like=list(known.values()), shards=shards)
    for name, rates in measured.rates.items():
        statistics.joined(name, rates)
