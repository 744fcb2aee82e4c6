"""The outcome of a load."""

import math
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field

import numpy as np

from groupconv.convolution.steps import Array
from groupconv_server.load.requester import Sample


@dataclass
class LoadOutcome:
    """The requests of a load.

    Attributes:
        cases: names, in the order of the mix.
        samples: one for each request that has ended.
        start: by `time.perf_counter()`.
        elapsed: seconds from the start to the last answer.
        missed: requests that were due but never sent, because all users were busy.
        first_wrong: errors of the answers before the clock started.
        memory: (seconds since the start, bytes) of the server.
        answers: requests that were answered and not found wrong.
    """

    cases: list[str]
    samples: list[Sample] = field(default_factory=list)
    start: float = 0.0
    elapsed: float = 0.0
    missed: int = 0
    first_wrong: list[str] = field(default_factory=list)
    memory: list[tuple[float, float]] = field(default_factory=list)
    answers: int = 0

    def begin(self) -> None:
        """Clear the samples, and start to count now."""
        self.samples.clear()
        self.answers = 0
        self.start = time.perf_counter()

    def end(self, seconds: float) -> None:
        """End the count after `seconds`, or with the last answer if that came later."""
        self.elapsed = max([seconds, *(sample.ended - self.start for sample in self.samples)])

    def add(self, sample: Sample) -> None:
        """Count a request."""
        self.samples.append(sample)
        self.answers += sample.right

    @property
    def wrong(self) -> int:
        """Number of wrong answers."""
        return sum(sample.wrong is not None for sample in self.samples) + len(self.first_wrong)

    @property
    def failed(self) -> int:
        """Number of requests that ended with an error."""
        return sum(sample.failed is not None for sample in self.samples)

    def seconds(self, case: int | None = None) -> Array:
        """Seconds of each right answer, of one case or of all."""
        return np.array([s.seconds for s in self.samples if s.right and case in (None, s.case)])

    def milliseconds(self, q: float, case: int | None = None) -> float:
        """The q-th percentile of the right answers' times."""
        seconds = self.seconds(case)
        return float(np.percentile(seconds, q)) * 1e3 if seconds.size else float("nan")

    def summary(self) -> str:
        """A line of figures, and one for each kind of error."""
        rate = self.answers / self.elapsed if self.elapsed else 0.0
        verified = sum(sample.verified for sample in self.samples)
        missed = f", {self.missed} never sent" if self.missed else ""
        line = (
            f"{self.answers} answers in {self.elapsed:.1f} s: {rate:.1f} requests/s, "
            f"p50 {_shown(self.milliseconds(50))} ms, p99 {_shown(self.milliseconds(99))} ms; "
            f"{verified} verified, {self.wrong} wrong, {self.failed} failed{missed}"
        )
        return "\n".join([line, *(f"  {count} × {message}" for message, count in self.errors().items())])

    def errors(self) -> Counter[str]:
        """The number of times that each error came."""
        messages = [f"wrong: {message}" for message in self.first_wrong]
        messages += [s.failed or f"{self.cases[s.case]}: wrong: {s.wrong}" for s in self.samples if not s.right]
        return Counter(messages)

    def rows(self) -> Iterator[tuple[str, ...]]:
        """A table: a row of titles, and one for each case."""
        yield "request", "answers", "/s", "p50 ms", "p95 ms", "p99 ms", "max ms", "MB/s out", "errors"
        for i, name in enumerate(self.cases):
            mine = [s for s in self.samples if s.case == i]
            right = [s for s in mine if s.right]
            yield (
                name,
                str(len(right)),
                f"{len(right) / self.elapsed:.1f}" if self.elapsed else "–",
                *(_shown(self.milliseconds(q, i)) for q in (50, 95, 99, 100)),
                f"{sum(s.bytes for s in right) / self.elapsed / 1e6:.1f}" if self.elapsed else "–",
                str(len(mine) - len(right)),
            )


def _shown(number: float) -> str:
    """A number with one decimal; a dash where there is none."""
    return "–" if math.isnan(number) else f"{number:.1f}"
