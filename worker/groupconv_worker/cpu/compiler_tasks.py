"""The tasks of the compiler (cpu/compiler.py), their results, and how far the present one is."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import NamedTuple

from groupconv_worker.activity import Activity
from groupconv_worker.contract import Problem
from groupconv_worker.cpu.kernels.forms import Form
from groupconv_worker.graph.graph import Graph
from groupconv_worker.graph.partition.choice import CutChoice

COMPILED, KERNELS = 2, 3
"""Words behind those of `Activity`, by which the process says how far it is."""


class KernelTask(NamedTuple):
    """Compile an algorithm's forms for a convolution, or measure which algorithm is the fastest.

    Attributes:
        problem: the convolution, of one sample.
        threads: of the engine.
        algorithm: whose forms are compiled; None measures all candidates for a resident kernel instead.
        resident: whether the kernel stays on the worker.
    """

    problem: Problem
    threads: int
    algorithm: str | None
    resident: bool = False


@dataclass(eq=False, slots=True)
class NetworkTask:
    """Bind a network's graph to shapes of inputs, and compile the kernels of its program.

    Attributes:
        name: for people.
        data: the ONNX model; emptied once the task is done.
        shapes: of the inputs, by name.
        workers: how many the network is cut over.
        cuts: ways to cut the network, whose kernels are compiled; without any, those of the whole network are.
        compiled: whether to compile kernels; else the graph is only bound.
    """

    name: str
    data: bytes = field(repr=False)
    shapes: Mapping[str, tuple[int, ...]]
    workers: int = 1
    cuts: tuple[CutChoice, ...] = ()
    compiled: bool = True


Task = KernelTask | NetworkTask


class TaskResult(NamedTuple):
    """What a task has produced.

    Attributes:
        forms: all that the process has compiled, now on disk.
        algorithm: the fastest one; None if nothing was measured.
        undisturbed: whether the task had a processor to itself while it measured. If not, it may be submitted again.
        error: why the task failed; empty if it did not.
        busy: whether the task has to wait, as shards ran all the time.
        graph: a network's bound graph.
        reason: why a network has no graph, or no program.
    """

    forms: tuple[Form, ...] = ()
    algorithm: str | None = None
    undisturbed: bool = True
    error: str = ""
    busy: bool = False
    graph: Graph | None = None
    reason: str = ""


def compiled(activity: Activity) -> tuple[int, int]:
    """How many kernels of the present task are compiled, and of how many; both are 0 while that is not known."""
    return activity.words[COMPILED], activity.words[KERNELS]


def say_compiled(activity: Activity, done: int, kernels: int) -> None:
    """Say how far the present task is."""
    activity.words[COMPILED], activity.words[KERNELS] = done, kernels
