"""A closed-loop load: clients that ask, check the answer and ask again."""

import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np

import groupconv
from groupconv.errors import GroupconvError
from groupconv_server.catalogue import CatalogueLayer
from groupconv_worker.engines import reference

TOLERANCE = 1e-4
"""Largest error of an answer, relative to the largest output, that counts as right in float32."""


@dataclass
class Tally:
    """What came of a load.

    Attributes:
        seconds: of each right answer. wrong: answers that missed the reference. failed: errors by message.
        elapsed: seconds from start to end.
    """

    seconds: list[float] = field(default_factory=list)
    wrong: int = 0
    failed: dict[str, int] = field(default_factory=dict)
    elapsed: float = 0.0

    @property
    def errors(self) -> int:
        """Wrong and failed together."""
        return self.wrong + sum(self.failed.values())

    def percentile(self, q: float) -> float:
        """Seconds that q percent of the right answers took at most."""
        return float(np.percentile(self.seconds, q)) if self.seconds else float("nan")

    def summary(self) -> str:
        """One line of figures, and one for each kind of error."""
        line = (
            f"{len(self.seconds)} answers in {self.elapsed:.1f} s: {len(self.seconds) / self.elapsed:.1f} requests/s, "
            f"p50 {self.percentile(50) * 1e3:.1f} ms, p99 {self.percentile(99) * 1e3:.1f} ms; "
            f"{self.wrong} wrong, {sum(self.failed.values())} failed"
        )
        return "\n".join([line, *(f"  {count} × {message}" for message, count in self.failed.items())])


def run_load(
    connect: Callable[[float], groupconv.Client],
    layer: CatalogueLayer,
    *,
    clients: int,
    seconds: float,
    progress: Callable[[float, Tally], None] = lambda *_: None,
) -> Tally:
    """Ask a server for `layer` from `clients` threads, each with its own connection, for `seconds`.

    Every answer is compared with the float64 reference, computed here once. `progress` is called about four times a
    second with the seconds gone.
    """
    x, w, b = layer.arrays()
    want = reference.convolve(x, w, b, layer.geometry)
    atol = TOLERANCE * float(np.abs(want).max())
    tally, lock = Tally(), threading.Lock()
    end = time.monotonic() + seconds

    def client_loop() -> None:
        with connect(60) as client:
            while time.monotonic() < end:
                start = time.perf_counter()
                try:
                    y = client.convolve(x, w, b, layer.spec)
                except GroupconvError as error:
                    with lock:
                        message = f"{type(error).__name__}: {error}"
                        tally.failed[message] = tally.failed.get(message, 0) + 1
                    continue
                took = time.perf_counter() - start
                right = np.allclose(y, want, rtol=0, atol=atol)
                with lock:
                    if right:
                        tally.seconds.append(took)
                    else:
                        tally.wrong += 1

    start = time.monotonic()
    threads = [threading.Thread(target=client_loop, daemon=True) for _ in range(clients)]
    for thread in threads:
        thread.start()
    for thread in threads:
        while thread.is_alive():
            thread.join(0.25)
            progress(time.monotonic() - start, tally)
    tally.elapsed = time.monotonic() - start
    return tally
