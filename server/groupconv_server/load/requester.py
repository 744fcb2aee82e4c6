"""A user of the load test: sends requests, times them and checks answers."""

import time
from collections.abc import Callable
from dataclasses import dataclass

from groupconv.client import Client
from groupconv.convolution.steps import Array
from groupconv.errors import GroupconvError, NotFoundError
from groupconv.layer import Layer
from groupconv_server.load.case import LoadCase


@dataclass(frozen=True, slots=True)
class Sample:
    """The outcome of one request.

    Attributes:
        case: index in the mix.
        ended: by `time.perf_counter()`.
        seconds: from when it was due or, without a rate, from when it was sent.
        bytes: of the answer.
        verified: whether the answer was compared with the reference.
        failed: the error of the request.
        wrong: how the answer differs from the reference.
    """

    case: int
    ended: float
    seconds: float
    bytes: int = 0
    verified: bool = False
    failed: str | None = None
    wrong: str | None = None

    @property
    def right(self) -> bool:
        """Whether the request was answered, and the answer not found wrong."""
        return self.failed is None and self.wrong is None


class Requester:
    """A client with handles of resident layers. For one thread at a time."""

    def __init__(self, connect: Callable[[], Client], cases: list[LoadCase]) -> None:
        self._client, self._cases = connect(), cases
        self._layers: dict[int, Layer | None] = {}

    def send(self, case: int, *, due: float | None, verify: bool) -> Sample:
        """Send a request of `cases[case]`.

        Args:
            case: the index.
            due: `time.perf_counter()` at which the request should have been sent; None means now.
            verify: whether to compare the answer with the reference, after it is timed.
        """
        start = time.perf_counter() if due is None else due
        try:
            answer = self._send(case)
        except GroupconvError as error:
            ended = time.perf_counter()
            return Sample(case, ended, ended - start, failed=f"{type(error).__name__}: {error}")
        ended = time.perf_counter()
        wrong = self._cases[case].error(answer) if verify else None
        return Sample(case, ended, ended - start, answer.nbytes, verify, wrong=wrong)

    def _send(self, index: int) -> Array:
        case = self._cases[index]
        if index not in self._layers:
            self._layers[index] = case.find(self._client)
        try:
            return case.send(self._client, self._layers[index])
        except NotFoundError:  # the server was restarted without its layers
            self._layers[index] = case.deploy(self._client)
            return case.send(self._client, self._layers[index])

    def close(self) -> None:
        """Close the connection."""
        self._client.close()
