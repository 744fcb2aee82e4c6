"""What an engine is: something that runs convolutions on one kind of device, by one of several algorithms.

Plan on symbols, execute on arrays: `supports` and the choice of an algorithm see a `Problem` (shapes and
dtypes), never data. `prepare` sees the weights once; the `Prepared` it returns sees feature maps.
"""

from dataclasses import dataclass, field
from typing import Any, Protocol, Self

import numpy as np
from numpy.typing import NDArray

from groupconv.convolution.dtypes import Types
from groupconv.convolution.geometry import Geometry
from groupconv.errors import UnavailableError

Array = NDArray[Any]


def new_empty(x: Array, shape: tuple[int, ...], dtype: np.dtype) -> Array:
    """An array of arbitrary elements where `x` is: on the host or, as of torch.Tensor.new_empty, on its device."""
    if isinstance(x, np.ndarray):
        return np.empty(shape, dtype)
    empty: Array = x.new_empty(shape, dtype)  # a DeviceTensor, which has all of an array that plans and runs use
    return empty


def device_of(*arrays: Array | None) -> Any:
    """The `cuda.device.Device` of the first array that is on one; None if all of them are on the host.

    Example:
        >>> device_of(np.zeros(1), None) is None
        True
    """
    for array in arrays:
        if array is not None and not isinstance(array, np.ndarray):
            return array.device  # a DeviceTensor
    return None


class DeviceLostError(UnavailableError):
    """The device or its context failed for good: no later call in this process can succeed.

    Whoever runs the engine must replace the process (a Ray actor exits and is restarted); the work may then
    be tried again.
    """


@dataclass(frozen=True, slots=True)
class Problem:
    """The symbols of one convolution: its geometry and its dtypes. Hashable: it keys caches and tunings.

    Example:
        >>> import pickle
        >>> import numpy as np
        >>> from groupconv import ConvSpec, resolve
        >>> from groupconv.convolution.dtypes import types_of
        >>> f32 = np.dtype("float32")
        >>> problem = Problem(resolve(ConvSpec(), (1, 2, 4), (2, 2, 3)), types_of(f32, f32))
        >>> {problem: "known"}[pickle.loads(pickle.dumps(problem))]
        'known'
    """

    geometry: Geometry
    types: Types
    _hash: int = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "_hash", hash((self.geometry, self.types)))

    def __hash__(self) -> int:
        return self._hash  # computed once: problems key caches

    def __reduce__(self) -> tuple[type["Problem"], tuple[Geometry, Types]]:
        return Problem, (self.geometry, self.types)  # another process hashes strings otherwise


class Prepared(Protocol):
    """A convolution with its weights in the form its algorithm wants them."""

    algorithm: str

    @property
    def nbytes(self) -> int:
        """Bytes it keeps: its weights in every form, tables, sessions. Memory shared with others counts in each."""

    def run(self, x: Array, out: Array) -> None:
        """Convolve `x`, add the bias, apply the activation, write into `out`.

        Safe to call from several threads at once.

        Args:
            x: (N, C, *input) of `problem.types.input`, any strides. N may differ from the problem's.
            out: (N, M, *output) of `problem.types.output`, any strides; every element is written.
        """


class Chainable(Prepared, Protocol):
    """A convolution on a device, which may be one of a chain."""

    def then(self, other: Self) -> Self:
        """This convolution and then `other` on its output, which stays on the device, as one run."""


class Algorithm(Protocol):
    """One way to compute a convolution."""

    name: str

    def supports(self, problem: Problem) -> bool:
        """Whether `prepare` accepts this problem."""

    def prepare(self, problem: Problem, weight: Array, bias: Array | None, *, resident: bool) -> Prepared:
        """Take the weights.

        Args:
            problem: shapes and dtypes; the geometry's activation is part of the work.
            weight: of `problem.geometry.weight_shape` and `problem.types.weight`. Not to be changed; may be a
                view of a message, so keep a copy if it is needed after the first run of a resident kernel.
            bias: (M,) of any dtype of the output's kind, or None.
            resident: the kernel will run many times, so repacking pays; else it runs once and must not wait.
        """


class Engine(Protocol):
    """Algorithms of one device and the choice among them.

    Attributes:
        threads: CPU threads it may use.
        at_once: runs it does at a time, at most, where its threads are shared among them (`budget.granted`).
        gpu: the `cuda.device.Device` whose arrays (DLPack) it reads and writes where they lie; what it prepares is
            `Chainable` then. None without one.
    """

    name: str
    threads: int
    at_once: int
    gpu: Any

    def device(self) -> str:
        """A description of the device ("cpu: Intel Xeon, 2 threads")."""

    def prepare(
        self, problem: Problem, weight: Array, bias: Array | None = None, *, resident: bool = False
    ) -> Prepared:
        """Pick an algorithm for `problem` and give it the weights (arguments as in `Algorithm.prepare`)."""

    def close(self) -> None:
        """Release threads, sessions and device memory."""
