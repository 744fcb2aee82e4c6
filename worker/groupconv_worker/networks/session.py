"""Run a whole network as one session of onnxruntime, on the CPU of this process."""

import re
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import onnx
import onnxruntime
from numpy.typing import NDArray
from onnx import NodeProto

from groupconv.errors import InvalidArgumentError, ResourceExhaustedError
from groupconv.text import human_bytes
from groupconv_worker.graph.checks import node_path
from groupconv_worker.graph.model import ELEMENTS, Model
from groupconv_worker.graph.profiling import NodeTimes, Profiler
from groupconv_worker.graph.safeguards import refusal, safeguarded
from groupconv_worker.graph.sessions import first_line, make_session
from groupconv_worker.job import Job

Array = NDArray[Any]
PROFILED = 2**30
"""Bytes of a model up to which its nodes are timed: that takes a second session, and its optimized model on disk."""
SHRINK = 256 * 2**20
"""Bytes of a call from which on its memory is given back to the system."""
RUNNING = re.compile(r"running (\w+) node\. Name:'(.*?)' Status Message: (?:/onnxruntime_src/.* was false\. )?(.*)")
"""What the runtime says of a node that fails: its operator, its name, why."""
NUMBERS = {dtype: number for number, dtype in ELEMENTS.items()}


class NetworkSession:
    """Runs a model. Safe to call from several threads.

    Args:
        model: checked.
        threads: that one run may use.

    Attributes:
        model: as given.

    Raises:
        InvalidArgumentError: the runtime refuses the model; it names the node.

    Example:
        >>> from onnx import TensorProto, helper
        >>> from groupconv_worker.graph.model import read_model
        >>> x, y = (helper.make_tensor_value_info(n, TensorProto.FLOAT, ["N", 2]) for n in "xy")
        >>> graph = helper.make_graph([helper.make_node("Relu", ["x"], ["y"])], "g", [x], [y])
        >>> model = helper.make_model(graph, ir_version=10, opset_imports=[helper.make_opsetid("", 21)])
        >>> session = NetworkSession(read_model(model.SerializeToString()), threads=1)
        >>> session.run({"x": np.array([[-1.0, 2.0]], np.float32)}, ["y"], Job())["y"]
        array([[0., 2.]], dtype=float32)
    """

    def __init__(self, model: Model, threads: int) -> None:
        self.model, self._threads = model, threads
        try:
            self._session = make_session(safeguarded(model), threads)
        except Exception as error:  # noqa: BLE001 - a class for each status, none of which is public
            said = first_line(error)
            path, op = named_node(model, said)
            wanted = f"what onnxruntime runs (it says: {said})"
            raise InvalidArgumentError(path, wanted, op or f"a model of {model.nodes} nodes") from None

    def run(
        self,
        inputs: Mapping[str, Array],
        outputs: Sequence[str],
        job: Job,
        into: Mapping[str, Array] | None = None,
        *,
        peak_bytes: int = 0,
    ) -> dict[str, Array]:
        """Run it once.

        Args:
            inputs: by name, of the model's dtypes.
            outputs: names of those wanted.
            job: that this is a part of; once it is over, the run ends between two operators.
            into: contiguous arrays to be filled, of the shapes that outputs should have. The others are allocated, as
                are those whose shape turns out to be another.
            peak_bytes: that the run is expected to hold at once.

        Returns:
            The outputs by name.

        Raises:
            InvalidArgumentError: the inputs do not fit an operator; the runtime names the node.
            ResourceExhaustedError: it takes more memory than there is.
            DeadlineExceededError, CancelledError: the job was over before the run was.
        """
        options = onnxruntime.RunOptions()
        if peak_bytes > SHRINK:
            options.add_run_config_entry("memory.enable_memory_arena_shrinkage", "cpu:0")
        binding = self._session.io_binding()
        dense = {name: np.ascontiguousarray(array) for name, array in inputs.items()}
        for name, array in dense.items():
            binding.bind_input(name, "cpu", 0, NUMBERS[array.dtype], array.shape, array.ctypes.data)
        for name in outputs:
            destination = None if into is None else into.get(name)
            if destination is None:
                binding.bind_output(name)
            else:
                binding.bind_output(
                    name, "cpu", 0, NUMBERS[destination.dtype], destination.shape, destination.ctypes.data
                )
        try:
            with job.on_stop(lambda: setattr(options, "terminate", True)):
                job.check()
                self._session.run_with_iobinding(binding, options)
        except Exception as error:  # noqa: BLE001 - a class for each status, none of which is public
            job.poll()
            job.check()
            if into:  # the shapes that were inferred may be others than the runtime's
                return self.run(inputs, outputs, job, peak_bytes=peak_bytes)
            raise _refusal(self.model, error) from None
        values = dict(zip(outputs, binding.get_outputs(), strict=True))
        return {name: into[name] if into and name in into else value.numpy() for name, value in values.items()}

    def node_times(self, inputs: Mapping[str, Array], outputs: Sequence[str], job: Job) -> NodeTimes:
        """Run it twice in a session of its own, and say how long each node took in the second run.

        Args:
            inputs: as of `run`.
            outputs: as of `run`.
            job: as of `run`.

        Raises:
            ResourceExhaustedError: the model is large, or there is no room for files.
            DeadlineExceededError, CancelledError: as of `run`.
        """
        if len(self.model.data) > PROFILED:
            raise ResourceExhaustedError(f"nodes are timed in models up to {human_bytes(PROFILED)}")
        options = onnxruntime.RunOptions()
        try:
            with (
                Profiler(onnx.load_from_string(self.model.data), self._threads) as profiler,
                job.on_stop(lambda: setattr(options, "terminate", True)),
            ):
                for _ in range(2):
                    job.check()
                    profiler.session.run(list(outputs), dict(inputs), options)
                return profiler.times()
        except OSError as error:
            raise ResourceExhaustedError(f"the times of nodes need room for files: {error}") from None
        except Exception as error:  # noqa: BLE001 - a class for each status, none of which is public
            job.poll()
            job.check()
            raise _refusal(self.model, error) from None


def named_node(model: Model, said: str) -> tuple[str, str]:
    """The path and the operator of the node that the runtime's words name; "model" and nothing if they name none.

    It writes (name), ("name", operator, …) -> ("output" or domain:operator(version). Before the name of a node in a
    function it writes `_inlfunc_` and the function's name.
    """
    graph = model.proto.graph
    for position, node in zip(model.positions, graph.node, strict=True):
        if _named(node, node.name, said):
            return node_path("model.graph", position, node), node.op_type
    for i, function in enumerate(model.proto.functions):
        for k, node in enumerate(function.node):
            if _named(node, f"_inlfunc_{function.name}_{node.name}", said):
                return node_path(f"model.functions[{i}]", k, node), node.op_type
    for position, node in zip(model.positions, graph.node, strict=True):
        for k, name in enumerate(node.input):
            if f"Initializer '{name}'" in said:
                return f"{node_path('model.graph', position, node)}.input[{k}]", node.op_type
    return "model", ""


def _named(node: NodeProto, name: str, said: str) -> bool:
    """Whether the runtime's words name a node, which has this name there."""
    if any(words in said for words in (f"node ({name})", f"Node ({name})", f'("{name}", {node.op_type}')):
        output = next(iter(node.output), "")
        return bool(node.name) or f'-> ("{output}"' in said
    return f"{node.domain or 'ai.onnx'}:{node.op_type}(" in said


def _refusal(model: Model, error: Exception) -> Exception:
    text = first_line(error)
    if refused := refusal(str(error)):
        return refused
    if "memory" in text.lower() or "bad_alloc" in text or "BFCArena" in str(error):
        return ResourceExhaustedError(f"the network takes more memory than there is: {text}")
    if failed := RUNNING.search(str(error)):
        op, name, why = failed.groups()
        for position, node in zip(model.positions, model.proto.graph.node, strict=True):
            # without a name it is called nothing; as a convolution of blocked channels, what its output is called
            if node.op_type == op and name and name in (node.name, *(f"{output}_nchwc" for output in node.output)):
                path = node_path("model.graph", position, node)
                return InvalidArgumentError(path, f"inputs that fit it (onnxruntime says: {why[:500]})", "others")
    return InvalidArgumentError("inputs", f"inputs that fit every operator (onnxruntime says: {text})", "others")
