"""What a convolution on the device is, to those who feed it."""

from typing import Any, Protocol

from groupconv_worker.contract import Array, Problem


class DeviceKernel(Protocol):
    """A convolution with its weights on the device."""

    algorithm: str

    @property
    def nbytes(self) -> int:
        """Bytes of device memory that it keeps: weights, bias and slopes."""

    def workspace(self, batch: int, groups: int) -> int:
        """The least bytes `launch` allocates for so many samples and groups."""

    def launch(self, x: Any, y: Any, first_group: int, budget: int) -> None:
        """Put the work on the current stream, for some of the groups.

        Args:
            x: (n, groups · C/g, *input), contiguous, on the device, of the input dtype of `device_types`.
            y: (n, groups · M/g, *output), contiguous, on the device; every element is written.
            first_group: which group of the convolution x begins with.
            budget: bytes of workspace to stay under, if that is not less than `workspace` says.
        """


class CudaAlgorithm(Protocol):
    """One way to compute a convolution on the device."""

    name: str

    def supports(self, problem: Problem) -> bool:
        """Whether `prepare` accepts this problem."""

    def prepare(self, problem: Problem, weight: Array, bias: Array | None) -> DeviceKernel:
        """Send the weights to the device, in the algorithm's layout; arguments as in `base.Algorithm`."""
