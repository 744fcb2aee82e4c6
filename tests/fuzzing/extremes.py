"""Valid requests of few bytes and extreme parameters: none costs more than it says, and others are served.

A server in a process of its own is sent convolutions and plans whose strides, paddings, dilations, groups, batches and
chains are as large as its limits allow. Of each request the CPU time that the server spends is measured, of all of them
the largest memory, and a second caller has its times taken beside them.
"""

import math
import random
import re
import statistics
import subprocess
import sys
import threading
import time
from dataclasses import dataclass, field

import grpc
import numpy as np
import psutil

import groupconv
from groupconv.convolution.dtypes import DTYPES, is_float
from groupconv.convolution.spec import ACTIVATIONS, MATHS, PADDING_MODES
from groupconv.convolution.steps import geometries
from groupconv.v1 import convolution_pb2
from groupconv.wire.specs import spec_from_wire, spec_to_wire
from groupconv.wire.tensors import to_wire, type_to_wire

CONVOLVE = "/groupconv.v1.ConvolutionService/Convolve"
PLAN = "/groupconv.v1.ConvolutionService/PlanConvolution"
DEADLINE = 2.0
"""Seconds that each request has."""
MOST_CPU = 4.0
"""Seconds of CPU that a request may cost the server."""
QUEUE_MIB, MESSAGE_MIB, TENSOR_MIB = 64, 16, 64
"""The server's limits."""
BASE_MIB = 450
"""What Python, the libraries, compiled kernels and kept scratch memory may take beside the formula of operations.md."""
STEP = 0.1
"""Seconds between two looks at a server that still computes after a deadline."""
LONGEST = 2**12
"""Bytes of a request."""
FINE = {"OK", "RESOURCE_EXHAUSTED", "DEADLINE_EXCEEDED"}
"""All that a valid request may end with."""
X, W = np.ones((1, 1, 9), np.float32), np.ones((1, 1, 3), np.float32)


@dataclass
class Found:
    """What requests cost.

    Attributes:
        ended: how many by status.
        cpu: seconds of the worst one, and the request.
        grown: MiB of memory at most, above that at the start.
        alone, beside: median seconds of a second caller, without the requests and with them.
    """

    ended: dict[str, int] = field(default_factory=dict)
    cpu: tuple[float, str] = (0.0, "")
    grown: float = 0.0
    alone: float = 0.0
    beside: float = 0.0


def run(cases: int, seed: int = 0) -> Found:
    """So many requests to a server of their own.

    Raises:
        AssertionError: naming the request that cost too much, or what was not kept.
    """
    flags = ("--queue-mib", QUEUE_MIB, "--max-message-mib", MESSAGE_MIB, "--max-tensor-mib", TENSOR_MIB)
    command = [sys.executable, "-m", "groupconv_server", "serve", "--port", "0", "--workers", "2", "--threads", "1"]
    with subprocess.Popen(
        [*command, *map(str, flags)], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
    ) as process:
        try:
            assert process.stdout is not None
            found = next(m for line in process.stdout if (m := re.search(r"serving .* on (\S+)", line)))
            return _run(found[1], psutil.Process(process.pid), cases, seed)
        finally:
            process.terminate()
            process.wait(30)


def _run(address: str, server: psutil.Process, cases: int, seed: int) -> Found:
    found = Found()
    options = [("grpc.enable_retries", 0), ("grpc.max_receive_message_length", -1)]
    with groupconv.connect(address, timeout=60) as client, grpc.insecure_channel(address, options) as channel:
        found.alone = statistics.median(_call(client) for _ in range(50))
        before, over, times = server.memory_info().rss, threading.Event(), []

        failed: list[BaseException] = []

        def watch() -> None:
            try:
                while not over.is_set():
                    times.append(_call(client))
                    found.grown = max(found.grown, (server.memory_info().rss - before) / 2**20)
                    over.wait(0.01)
            except BaseException as error:  # noqa: BLE001 - raised below
                failed.append(error)

        watcher = threading.Thread(target=watch)
        watcher.start()
        try:
            for i in range(cases):
                path, request = drawn(random.Random(f"{seed} extreme {i}"))
                told = f"seed {seed}, case {i}: {str(request)[:1500]}"
                status, cpu = _cost(channel, server, path, request.SerializeToString())
                found.ended[status] = found.ended.get(status, 0) + 1
                found.cpu = max(found.cpu, (cpu, told))
                assert status in FINE, f"{status}: {told}"
                assert cpu < MOST_CPU, f"{cpu:.1f} s of CPU: {told}"
        finally:
            over.set()
            watcher.join()
    if failed:
        raise failed[0]
    found.beside = statistics.median(times)
    assert found.beside < max(0.05, 15 * found.alone), f"a second caller waited {found.beside:.3f} s at the median"
    # its message, what lies between and its answer are in the queue's budget; a worker's kernels and scratch are not
    assert found.grown < QUEUE_MIB + 2 * TENSOR_MIB + BASE_MIB, f"memory grew by {found.grown:.0f} MiB"
    return found


def _call(client: groupconv.Client) -> float:
    start = time.perf_counter()
    np.testing.assert_array_equal(client.conv1d(X, W), [[[3.0] * 7]])
    return time.perf_counter() - start


def _cost(channel: grpc.Channel, server: psutil.Process, path: str, raw: bytes) -> tuple[str, float]:
    """How a call ended, and the server's CPU seconds until it lets go of it."""
    before = _cpu(server)
    status = "OK"
    try:
        channel.unary_unary(path)(raw, timeout=DEADLINE)
    except grpc.RpcError as error:
        status = error.code().name
    now, last = _cpu(server), before
    while status == "DEADLINE_EXCEEDED" and now - last > 0.5 * STEP:  # what it still costs belongs to it
        time.sleep(STEP)
        now, last = _cpu(server), now
    return status, now - before


def _cpu(server: psutil.Process) -> float:
    times = server.cpu_times()
    return float(times.user + times.system)


def drawn(rng: random.Random) -> tuple[str, convolution_pb2.ConvolveRequest | convolution_pb2.PlanConvolutionRequest]:
    """A message of at most `LONGEST` bytes that is valid and, mostly, within the limits; and the method it is for."""
    while True:
        path, request = _plan(rng) if rng.random() < 0.3 else _convolve(rng)
        if request.ByteSize() <= LONGEST and _fits(request, strict=rng.random() < 0.95):
            return path, request


def _fits(request: convolution_pb2.ConvolveRequest | convolution_pb2.PlanConvolutionRequest, *, strict: bool) -> bool:
    """Whether the shapes follow one another and, if that is wanted, no output is over the server's limit."""
    specs = [spec_from_wire(step.spec) for step in request.steps]
    kernels = [tuple(step.kernel.shape) for step in request.steps]
    try:
        found = geometries(specs, tuple(request.input.shape), kernels)
    except groupconv.errors.InvalidArgumentError:
        return False
    return not strict or all(8 * math.prod(g.output_shape) <= TENSOR_MIB * 2**20 for g in found)


def _convolve(rng: random.Random) -> tuple[str, convolution_pb2.ConvolveRequest]:
    dtype = DTYPES[rng.choice(list(DTYPES))]
    rank, groups, channels = rng.randint(1, 3), rng.choice([1, 1, 2, 30]), rng.choice([1, 1, 2, 5])
    extents = [rng.choice([1, 2, 3, 7]) for _ in range(rank)]
    batch = rng.choice([0, 1, 1, 1, 3, 50])
    request = convolution_pb2.ConvolveRequest(without_report=rng.random() < 0.5, allow_reordering=rng.random() < 0.2)
    request.input.CopyFrom(to_wire(np.ones((batch, groups * channels, *extents), dtype)))
    width = groups * channels
    for _ in range(rng.choice([1, 1, 1, 2, 5, 40])):
        parts = rng.choice([g for g in (groups, 1, width) if width % g == 0])
        width = _step(rng, request, rank, width, parts, dtype)
    return CONVOLVE, request


def _step(
    rng: random.Random, request: convolution_pb2.ConvolveRequest, rank: int, width: int, groups: int, dtype: np.dtype
) -> int:
    """Add a step on so many channels; how many its output has."""
    kernel = [rng.choice([1, 1, 2, 3]) for _ in range(rank)]
    spec = _spec(rng, rank, groups, is_float(dtype))
    filters = rng.choice([1, 1, 2])
    shape = (width, filters) if spec.transposed else (groups * filters, width // groups)
    step = request.steps.add(spec=spec_to_wire(spec))
    step.kernel.CopyFrom(to_wire(np.ones((*shape, *kernel), dtype)))
    return groups * filters


def _spec(rng: random.Random, rank: int, groups: int, floats: bool) -> groupconv.ConvSpec:
    huge = [1, 1, 2, 3, 10**3, 10**5, 10**6, 2**24, 2**31 - 1]

    def each() -> tuple[int, ...]:
        return tuple(rng.choice(huge) if rng.random() < 0.5 else 1 for _ in range(rank))

    transposed = rng.random() < 0.4
    pads = tuple((rng.choice([0, 0, 1, 10**3, 10**6]), rng.choice([0, 0, 1, 10**6])) for _ in range(rank))
    return groupconv.ConvSpec(
        stride=each(),
        dilation=each(),
        padding=pads if rng.random() < 0.5 else 0,
        groups=groups,
        padding_mode="zeros" if transposed else rng.choice(PADDING_MODES),
        activation=rng.choice([None, None, *((a for a in ACTIVATIONS if a != "prelu") if floats else ["relu"])]),
        transposed=transposed,
        flip_kernel=rng.random() < 0.2,
        **({"exact": True} if rng.random() < 0.2 else {"math": rng.choice([None, *MATHS])}),
    )


def _plan(rng: random.Random) -> tuple[str, convolution_pb2.PlanConvolutionRequest]:
    """Shapes alone may be as large as tensors may."""
    dtype, rank = DTYPES["float32"], rng.randint(1, 3)
    channels = rng.choice([1, 3, 64, 4096])
    extents = [rng.choice([1, 7, 224, 4000]) for _ in range(rank)]
    request = convolution_pb2.PlanConvolutionRequest()
    request.input.CopyFrom(type_to_wire(dtype, (rng.choice([1, 8, 1000]), channels, *extents)))
    for _ in range(rng.choice([1, 1, 3, 20])):
        groups = rng.choice([1, channels])
        spec = _spec(rng, rank, groups, True)
        shape = (channels, 1) if spec.transposed else (channels, channels // groups)
        kernel = type_to_wire(dtype, (*shape, *(rng.choice([1, 3, 31, 1000]) for _ in range(rank))))
        request.steps.add(kernel=kernel, spec=spec_to_wire(spec))
        channels = groups if spec.transposed else channels
    return PLAN, request
