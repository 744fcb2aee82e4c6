"""Networks without a server: our own program beside onnxruntime, in turns, in one process.

Each time is the least of the rounds. Ours counts packed weights, tables and the arena; onnxruntime's memory is what a
process of its own grows by with the session and one run.
"""

import contextlib
import statistics
import time
from collections.abc import Callable, Mapping
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import numpy as np
import psutil
from processes import Process

HEADER = (
    f"{'network':32}{'threads':>8}{'ours ms':>9}{'median':>8}{'ort ms':>9}{'median':>8}{'×':>6}"
    f"{'MiB':>8}{'ort MiB':>9}  who"
)


def session_of(data: bytes, threads: int) -> Any:
    """A session with all of onnxruntime's optimizations."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads, options.log_severity_level = threads, 4
    # its threads would spin on the cores while our program has its turn; the server's sessions do not spin either
    options.add_session_config_entry("session.force_spinning_stop", "1")
    return onnxruntime.InferenceSession(data, options, providers=["CPUExecutionProvider"])


def grown(pipe: Connection, data: bytes, inputs: dict[str, np.ndarray]) -> None:
    """Bytes by which a process grows with a session and a run."""
    import onnxruntime  # noqa: F401 - its own memory does not count

    process = psutil.Process()
    before = process.memory_info().rss
    session = session_of(data, 1)
    session.run(None, inputs)
    pipe.send(process.memory_info().rss - before)


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


def compare(file: str, shapes: Mapping[str, tuple[int, ...]], threads: int, rounds: int) -> None:
    """Print a row."""
    from groupconv_worker.cpu.network.lowering import UnsupportedNodeError
    from groupconv_worker.cpu.network.network import CompiledNetwork
    from groupconv_worker.cpu.threads import Team
    from groupconv_worker.graph.importing import Optimized
    from groupconv_worker.graph.model import read_model
    from groupconv_worker.graph.translation import UnboundGraphError

    data, name = Path(file).read_bytes(), Path(file).stem
    model = read_model(data)
    rng = np.random.default_rng(0)
    inputs = {info.name: rng.standard_normal(shapes[info.name]).astype(info.dtype) for info in model.inputs}
    with contextlib.closing(Team(threads)) as team:
        try:
            network = CompiledNetwork(Optimized(model).canonical(shapes), team)
        except (UnsupportedNodeError, UnboundGraphError) as error:
            print(f"{name:32}{threads:8}  onnxruntime alone: {error}", flush=True)
            return
        session = session_of(data, threads)
        ours, theirs = in_turns(rounds, lambda: network.run(inputs), lambda: session.run(None, inputs))
    process = Process(grown, data, inputs)
    memory = process.pipe.recv()
    process.close()
    ratio = min(ours) / min(theirs)
    times = "".join(f"{min(t) * 1e3:9.2f}{statistics.median(t) * 1e3:8.2f}" for t in (ours, theirs))
    sizes = f"{network.nbytes / 2**20:8.1f}{memory / 2**20:9.1f}"
    print(f"{name:32}{threads:8}{times}{ratio:6.2f}{sizes}  {'ours' if ratio < 1 else 'onnxruntime'}", flush=True)
