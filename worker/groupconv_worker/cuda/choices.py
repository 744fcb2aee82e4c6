"""The fastest algorithm of each problem on this device, in memory and on disk as the CPU's choices are."""

from pathlib import Path
from typing import Any, NamedTuple

from cachetools import LRUCache

from groupconv_worker.choice_file import CHOICES, ChoiceFile
from groupconv_worker.code_version import digest
from groupconv_worker.contract import Problem
from groupconv_worker.cuda.options import CudaOptions


class Choice(NamedTuple):
    """What was the fastest.

    Attributes:
        algorithm: its name.
        variant: which of its variants, as `DeviceKernel.variant` says.
    """

    algorithm: str
    variant: str = ""

    @classmethod
    def parse(cls, text: str) -> "Choice":
        """From `str`.

        Example:
            >>> Choice.parse(str(Choice("cudnn", "7")))
            Choice(algorithm='cudnn', variant='7')
        """
        return cls(*text.partition(":")[::2])

    def __str__(self) -> str:
        return f"{self.algorithm}:{self.variant}"


class Choices:
    """The choices of one kind of device, for one version of this code, of CUDA and of cuDNN.

    Args:
        path: the file; None remembers for the life of this object only.
        version: see `version_of`.
    """

    def __init__(self, path: Path | None, version: str) -> None:
        self.file = ChoiceFile(path, version)
        self._known: LRUCache[str, Choice] = LRUCache(CHOICES)
        self._known.update((key, Choice.parse(text)) for key, text in self.file.read().items())

    def find(self, problem: Problem) -> Choice | None:
        """The choice for a problem, that of another process since this was made included."""
        key = _key(problem)
        if key not in self._known and (text := self.file.read().get(key)) is not None:
            self._known[key] = Choice.parse(text)
        return self._known.get(key)

    def add(self, problem: Problem, choice: Choice) -> None:
        """Remember what was measured."""
        self._known[_key(problem)] = choice
        self.file.add(_key(problem), str(choice))


def version_of(cupy: Any, device: str, cudnn: str, options: CudaOptions) -> str:
    """What a measured choice depends on beside its problem.

    Args:
        cupy: the module.
        device: its name and memory.
        cudnn: the version of cuDNN; "" without.
        options: of which `workspace` and `deterministic` exclude algorithms.
    """
    runtime = cupy.cuda.runtime
    found = (f"driver {runtime.driverGetVersion()}", f"CUDA {runtime.runtimeGetVersion()}", f"CuPy {cupy.__version__}")
    code = digest("cuda/*.py", "cuda/algorithms/*.py", "cuda/kernels/*")
    return ", ".join([device, *found, f"cuDNN {cudnn or 'none'}", f"workspace {options.workspace}", f"code {code}"])


def _key(problem: Problem) -> str:
    """The problem in words that are the same in every process; an activation counts by its kind."""
    g = problem.geometry
    dtypes = " ".join(map(str, problem.types))
    shape = (g.batch, g.in_channels, g.out_channels, g.groups, g.input, g.kernel, g.output)
    window = (g.stride, g.padding, g.dilation, g.output_padding)
    flags = (g.padding_mode, g.activation.kind if g.activation else "", g.transposed, g.flip_kernel, g.exact, g.math)
    return f"{dtypes}; {shape}; {window}; {flags}"
