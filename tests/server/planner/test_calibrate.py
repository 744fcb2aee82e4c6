"""Measuring the workers."""

from groupconv_server.executors import create_executor
from groupconv_server.planner.calibrate import calibrate


def test_calibration_measures_every_worker_in_little_time():
    executor = create_executor("local", workers=2, threads=1, engine="cpu")
    try:
        rates = calibrate(executor)
    finally:
        executor.close()
    assert set(rates) == {"local-0", "local-1"}
    for r in rates.values():
        assert min(r.multiply_adds) > 1e6
        assert min(r.memory, r.link) > 1e6
        assert 0 < r.latency < 1
        assert min(r.overhead) >= 0


def test_workers_that_cannot_be_measured_get_default_rates():
    from groupconv.errors import UnavailableError

    class Broken:
        def workers(self):
            return ("w0",)

        def run(self, tasks, *, job=None, among=1):
            raise UnavailableError("away")

    assert calibrate(Broken()) == {}
