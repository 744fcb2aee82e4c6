"""Limits of a request. Every limit is finite, and checked before memory is allocated."""

from dataclasses import dataclass

from groupconv.convolution import cost
from groupconv.errors import ResourceExhaustedError
from groupconv.text import human_bytes
from groupconv.wire.tensors import MAX_MESSAGE_BYTES
from groupconv_worker.contract import Problem

MAX_STEPS = 64


@dataclass(frozen=True, slots=True)
class Limits:
    """Limits of one server.

    Attributes:
        message_bytes: of a request and of an answer.
        tensor_bytes: of any tensor a request makes: outputs, and inputs with their padding.
        steps: of a request.
        stream_bytes: that one stream holds: the bands in flight with their halos.
        streams_bytes: that all streams hold together.
        network_stream_bytes: that the windows of one stream through a network hold in one process, by estimate.
        stream_total_bytes: of all feature maps that pass through one stream.
        stream_idle_seconds: that a stream waits for its header or the next chunk.
    """

    message_bytes: int = MAX_MESSAGE_BYTES
    tensor_bytes: int = 2 * 2**30
    steps: int = MAX_STEPS
    stream_bytes: int = 256 * 2**20
    streams_bytes: int = 2 * 2**30
    network_stream_bytes: int = 512 * 2**20
    stream_total_bytes: int = 2**44
    stream_idle_seconds: float = 300.0

    def check(self, problem: Problem, path: str) -> None:
        """Refuse a step whose output, or padded input, would be too large.

        Raises:
            ResourceExhaustedError: naming the step, its size and the limit.
        """
        g, types = problem.geometry, problem.types
        padded = (g.batch, g.in_channels, *(g.output if g.transposed else g.padded))
        for what, shape, dtype in (
            ("an output", g.output_shape, types.output),
            ("a padded input", padded, types.input),
        ):
            size = cost.nbytes(shape, dtype)
            if size > self.tensor_bytes:
                raise ResourceExhaustedError(
                    f"{path}: {what} of {list(shape)} {dtype} takes {human_bytes(size)}, "
                    f"more than the limit of {human_bytes(self.tensor_bytes)} for a tensor"
                )

    def check_answer(self, problem: Problem) -> None:
        """Refuse a request whose answer would not fit a message.

        Raises:
            ResourceExhaustedError: naming both sizes.
        """
        self.check_message(cost.bytes_out(problem.geometry, problem.types))

    def most_output(self) -> int:
        """Bytes of the largest output that fits an answer with its report."""
        return self.message_bytes - 2**16

    def check_message(self, size: int) -> None:
        """Refuse an output of so many bytes that does not fit a message.

        Raises:
            ResourceExhaustedError: naming both sizes.
        """
        if size > self.most_output():
            raise ResourceExhaustedError(
                f"output: {human_bytes(size)} do not fit an answer of at most {human_bytes(self.message_bytes)}"
            )
