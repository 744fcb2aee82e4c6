"""What came of a load."""

import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field

import numpy as np

from groupconv.convolution.steps import Array
from groupconv_server.load.asker import Sample


@dataclass
class LoadOutcome:
    """Every request of a load.

    Attributes:
        cases: names, in the order of the mix.
        samples: of the requests that ended. answers: how many of them were right, as far as they were verified.
        start: `time.perf_counter()` at its start. elapsed: seconds from then to the last answer.
        missed: requests that were due and that no user was free to send.
        first_wrong: what was wrong before the clock started.
        memory: (seconds since the start, bytes) of the server.
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
        """Forget what was, and count from now."""
        self.samples.clear()
        self.answers = 0
        self.start = time.perf_counter()

    def end(self, seconds: float) -> None:
        """Count until then, or until the last answer where that came later."""
        self.elapsed = max([seconds, *(sample.ended - self.start for sample in self.samples)])

    def add(self, sample: Sample) -> None:
        """Count one."""
        self.samples.append(sample)
        self.answers += sample.right

    @property
    def wrong(self) -> int:
        """Answers that missed the reference."""
        return sum(sample.wrong is not None for sample in self.samples) + len(self.first_wrong)

    @property
    def failed(self) -> int:
        """Requests that ended with an error."""
        return sum(sample.failed is not None for sample in self.samples)

    def seconds(self, case: int | None = None) -> Array:
        """Of each right answer, of one case or of all."""
        return np.array([s.seconds for s in self.samples if s.right and case in (None, s.case)])

    def milliseconds(self, q: float, case: int | None = None) -> float:
        """That q percent of the right answers took at most."""
        seconds = self.seconds(case)
        return float(np.percentile(seconds, q)) * 1e3 if seconds.size else float("nan")

    def summary(self) -> str:
        """One line of figures, and one for each kind of error."""
        rate = self.answers / self.elapsed if self.elapsed else float("nan")
        verified = sum(sample.verified for sample in self.samples)
        missed = f", {self.missed} never sent" if self.missed else ""
        line = (
            f"{self.answers} answers in {self.elapsed:.1f} s: {rate:.1f} requests/s, "
            f"p50 {self.milliseconds(50):.1f} ms, p99 {self.milliseconds(99):.1f} ms; "
            f"{verified} verified, {self.wrong} wrong, {self.failed} failed{missed}"
        )
        return "\n".join([line, *(f"  {count} × {message}" for message, count in self.errors().items())])

    def errors(self) -> Counter[str]:
        """How often each error came."""
        messages = [f"wrong: {message}" for message in self.first_wrong]
        messages += [s.failed or f"{self.cases[s.case]}: wrong: {s.wrong}" for s in self.samples if not s.right]
        return Counter(messages)

    def rows(self) -> Iterator[tuple[str, ...]]:
        """A table: a line of titles, one for each case."""
        yield "request", "answers", "/s", "p50 ms", "p95 ms", "p99 ms", "max ms", "MB/s out", "errors"
        for i, name in enumerate(self.cases):
            mine = [s for s in self.samples if s.case == i]
            right = [s for s in mine if s.right]
            yield (
                name,
                str(len(right)),
                f"{len(right) / self.elapsed:.1f}",
                *(f"{self.milliseconds(q, i):.1f}" for q in (50, 95, 99, 100)),
                f"{sum(s.bytes for s in right) / self.elapsed / 1e6:.1f}",
                str(len(mine) - len(right)),
            )
