"""Clients in processes of their own that share their arrays on a real device with a server. `make test-gpu`."""

import gc
import importlib.util
import os
import signal
import subprocess
import sys
import textwrap
import time
import weakref
from pathlib import Path

import pytest

from groupconv_server.config import Config
from groupconv_server.server import Server
from groupconv_worker.cuda.engine import why_unavailable

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(bool(why_unavailable()), reason=why_unavailable() or "there is a device"),
]
LIBRARIES = [
    name if importlib.util.find_spec(name) else pytest.param(name, marks=pytest.mark.skip(f"no {name}"))
    for name in ("cupy", "torch")
]
ROOT = Path(__file__).parents[2]
PRELUDE = """
import logging
import sys
import numpy as np
import groupconv
logging.basicConfig(level=logging.INFO)  # why something is not shared
from groupconv import ConvSpec, resolve
from groupconv.convolution.dtypes import BFLOAT16
from groupconv.gpu.arrays import device_array
from groupconv_worker import reference

address, library = sys.argv[1:]
if library == "cupy":
    import cupy
    device, host, sync = cupy.asarray, cupy.asnumpy, cupy.cuda.runtime.deviceSynchronize
    stream = cupy.cuda.Stream(non_blocking=True)
    zeros = lambda shape: cupy.zeros(shape, np.float32)
    other = lambda: stream
else:
    import torch
    device, host, sync = (lambda a: torch.from_numpy(a).cuda()), (lambda a: a.cpu().numpy()), torch.cuda.synchronize
    zeros = lambda shape: torch.zeros(shape, device="cuda")
    stream = torch.cuda.Stream()
    other = lambda: torch.cuda.stream(stream)

SPEC = ConvSpec(padding=1, groups=4)
rng = np.random.default_rng(0)
x = rng.integers(-9, 10, (2, 16, 24, 24)).astype(np.float32)
w = rng.integers(-9, 10, (16, 4, 3, 3)).astype(np.float32)

def check(y, x=x, w=w, spec=SPEC):
    np.testing.assert_allclose(y, reference.convolve(x, w, None, resolve(spec, x.shape, w.shape)), rtol=1e-4, atol=1e-2)

def told(client):
    return len(client._shared._exports._regions)

"""


@pytest.fixture(scope="module", params=["cuda", "cpu"])
def server(request):
    with Server(Config(port=0, executor="local", threads=2, engine=request.param, shared_memory=True)) as server:
        yield server


def process(server, library, body, **environment):
    program = PRELUDE + textwrap.dedent(body)
    command = [sys.executable, "-c", program, server.address, library]
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    return subprocess.Popen(command, text=True, env={**os.environ, **environment}, **pipes)


def run(server, library, body, **environment):
    child = process(server, library, body, **environment)
    out, errors = child.communicate(timeout=120)
    assert child.returncode == 0, out + errors
    return out


def regions(server):
    return server.client_device_memory.regions()


@pytest.mark.parametrize("library", LIBRARIES)
def test_inputs_and_outputs_stay_on_the_device(server, library):
    run(
        server,
        library,
        """
        with groupconv.connect(address, timeout=60, shared_memory=True) as client:
            there, out = device(x), zeros(x.shape)
            check(client.convolve(there, w, spec=SPEC))
            assert client.convolve(there, w, spec=SPEC, out=out) is out
            check(host(out))
            assert 1 <= told(client) <= 2
            with client.load_layer("tests/" + library, w, None, SPEC) as layer:
                out[...] = 0
                result = layer.run(there, out=out)
                assert result.output is out
                check(host(out))
                out[...] = 0
                assert layer(x, out=out) is out  # from the host, to the device
                check(host(out))
                check(layer(there))
                layer(out, out=out)  # over itself
                layer(layer(there, out=out)[:1], out=out[:1])
                y = reference.convolve(x, w, None, resolve(SPEC, x.shape, w.shape)).astype(np.float32)
                check(host(out[:1]), y[:1])
            pointwise = np.ones((4, 16, 1, 1), np.float32)
            steps = [groupconv.Step(w, None, SPEC), groupconv.Step(pointwise)]
            for _ in range(3):
                y = client.run(there, steps, out=zeros((2, 4, 24, 24))).output
                want = reference.convolve(x, w, None, resolve(SPEC, x.shape, w.shape))
                want = (pointwise[:, :, 0, 0] @ want.reshape(2, 16, -1)).reshape(y.shape)
                np.testing.assert_allclose(host(y), want, rtol=1e-4, atol=1e-1)
            half = device(x.astype(np.float16))
            y = client.convolve(half, w, spec=SPEC)
            assert y.dtype == np.float16
            np.testing.assert_allclose(y, client.convolve(x.astype(np.float16), w, spec=SPEC), rtol=1e-2, atol=1)
            if library == "torch":
                y = client.convolve(there.bfloat16(), w, spec=SPEC)
                assert y.dtype == BFLOAT16
                target = torch.zeros(x.shape, dtype=torch.bfloat16, device="cuda")
                client.convolve(there.bfloat16(), w, spec=SPEC, out=target)
                np.testing.assert_array_equal(target.float().cpu().numpy(), y.astype(np.float32))
        """,
    )
    assert not regions(server)  # the client has closed


@pytest.mark.parametrize("library", LIBRARIES)
def test_parts_of_a_pool_what_has_gaps_and_what_is_queued(server, library):
    run(
        server,
        library,
        """
        with groupconv.connect(address, timeout=60, shared_memory=True) as client:
            pool = zeros((8, *x.shape))
            for i in range(0, 8, 2):
                pool[i] = device(x + i)
                client.convolve(pool[i], w, spec=SPEC, out=pool[i + 1])
                check(host(pool[i + 1]), x + i)
            assert told(client) == 1
            odd = zeros(x.size + 8)
            for shift in (1, 2, 5):  # elements are aligned, vectors are not
                part = odd[shift : shift + x.size].reshape(x.shape)
                part[...] = device(x)
                client.convolve(part, w, spec=SPEC, out=part)
                check(host(part))
            wide = zeros((*x.shape[:-1], 2 * x.shape[-1]))[..., ::2]
            wide[...] = device(x)
            assert device_array(wide) is None
            check(client.convolve(wide, w, spec=SPEC))
            try:
                client.convolve(x, w, spec=SPEC, out=wide)
            except groupconv.errors.InvalidArgumentError as error:
                assert error.field == "out"
            else:
                raise AssertionError
            heavy = zeros((4096, 4096))
            sync()
            for _ in range(3):
                with other():
                    there = zeros(x.shape)
                    for _ in range(20):
                        heavy @ heavy
                    there += device(x)
                    y = client.convolve(there, w, spec=SPEC)
                    check(y)
        """,
    )


@pytest.mark.parametrize("kind", ["pool of the driver", "managed"])
def test_what_cuda_does_not_share(server, kind):
    run(
        server,
        "cupy",
        f"""
        kind = {kind!r}
        cupy.cuda.set_allocator(cupy.cuda.MemoryAsyncPool().malloc if kind != "managed" else cupy.cuda.malloc_managed)
        with groupconv.connect(address, timeout=60, shared_memory=True) as client:
            there, out = device(x), zeros(x.shape)
            assert device_array(there).allocation is None
            check(client.convolve(there, w, spec=SPEC))
            assert client.convolve(there, w, spec=SPEC, out=out) is out
            check(host(out))
            assert told(client) == 0
        """,
    )


@pytest.mark.skipif(importlib.util.find_spec("torch") is None, reason="no torch")
def test_expandable_segments(server):
    run(
        server,
        "torch",
        """
        with groupconv.connect(address, timeout=60, shared_memory="auto") as client:
            there, out = device(x), zeros(x.shape)
            check(client.convolve(there, w, spec=SPEC))
            assert client.convolve(there, w, spec=SPEC, out=out) is out
            check(host(out))
            assert told(client) == 0
        """,
        PYTORCH_CUDA_ALLOC_CONF="expandable_segments:True",
    )


def test_freed_memory_is_given_back(server):
    child = process(
        server,
        "cupy",
        """
        with groupconv.connect(address, timeout=60, shared_memory=True) as client:
            large = cupy.zeros((2**26,), np.float32)
            client.convolve(large[: x.size].reshape(x.shape), w, spec=SPEC)
            assert told(client) == 1
            print("shared", flush=True)
            sys.stdin.readline()
            del large
            cupy.get_default_memory_pool().free_all_blocks()
            another = cupy.zeros((2**24,), np.float32)
            client.convolve(another[: x.size].reshape(x.shape), w, spec=SPEC)
            assert told(client) == 1
            print("freed", flush=True)
            sys.stdin.readline()
        """,
    )
    assert child.stdout.readline() == "shared\n", child.communicate()
    (large,) = [r for r in regions(server) if r.size >= 2**28]
    memory = weakref.ref(large.memory)
    del large
    child.stdin.write("\n")
    child.stdin.flush()
    assert child.stdout.readline() == "freed\n", child.communicate()
    assert not [r for r in regions(server) if r.size >= 2**28]
    gc.collect()
    assert memory() is None  # closed
    assert [r for r in regions(server) if r.size >= 2**26]
    _, errors = child.communicate("\n", timeout=60)
    assert child.returncode == 0, errors


def test_a_client_that_is_killed(server):
    body = """
        client = groupconv.connect(address, timeout=60, shared_memory=True)
        there, out = device(x), zeros(x.shape)
        client.convolve(there, w, spec=SPEC, out=out)
        assert told(client)
        print("ready", flush=True)
        sys.stdin.read()
    """
    before = set(regions(server))
    child = process(server, "cupy", body)
    said = child.stdout.readline()
    mine = set(regions(server)) - before
    os.kill(child.pid, signal.SIGKILL)
    _, errors = child.communicate(timeout=60)
    assert said == "ready\n", errors
    assert mine
    server.client_device_memory._grace = 0.1
    until = time.monotonic() + 30
    while mine & set(regions(server)) and time.monotonic() < until:
        time.sleep(0.05)
    assert not mine & set(regions(server))
    run(
        server,
        "cupy",
        """
        with groupconv.connect(address, timeout=60, shared_memory=True) as client:
            check(client.convolve(device(x), w, spec=SPEC))
        """,
    )


def test_awaiting(server):
    run(
        server,
        "cupy",
        """
        import asyncio
        async def main():
            async with groupconv.aio.connect(address, timeout=60, shared_memory=True) as client:
                there, outs = device(x), [zeros(x.shape) for _ in range(8)]
                await asyncio.gather(*(client.convolve(there, w, spec=SPEC, out=out) for out in outs))
                for out in outs:
                    check(host(out))
                assert told(client)
        asyncio.run(main())
        """,
    )


def test_the_benchmark_runs(capsys):
    """What it prints is nobody's measurement here, but seen."""
    options = ["--layer", "alexnet_conv2", "resnet50_1x1_56", "--batch", "1", "--seconds", "0.1"]
    done = subprocess.run(
        [sys.executable, ROOT / "bench/device_arrays.py", *options], capture_output=True, text=True, timeout=150
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("resnet50_1x1_56") == 1
    with capsys.disabled():
        print(done.stdout)


def test_a_client_in_the_servers_own_process_goes_by_the_host(server):
    """CUDA does not open a process's own memory there."""
    import cupy
    import numpy as np

    import groupconv

    x = np.ones((1, 1, 64, 64), np.float32)
    w = np.full((1, 1, 1, 1), 2, np.float32)
    with groupconv.connect(server.address, timeout=60, shared_memory=True) as client:
        out = cupy.zeros(x.shape, np.float32)
        assert client.conv2d(cupy.asarray(x), w, out=out) is out
    np.testing.assert_array_equal(cupy.asnumpy(out), 2 * x)
