"""Calls that failed keep nothing of their caller: arrays are gone at once, not when Python collects cycles."""

import asyncio
import weakref
from contextlib import suppress

import numpy as np
import pytest
from fully_convolutional import image, unet

import groupconv
import groupconv.aio
from groupconv.errors import GroupconvError
from waiting import until

W = np.ones((4, 2, 3, 3), np.float32)


def broken(x):
    yield x[0]
    raise OSError("the disk is gone")


def broken_progress(_):
    raise OSError("the terminal is gone")


CALLS = {
    "late": lambda client, net, x: client.conv2d(x, W, timeout=0),
    "late stream": lambda client, net, x: client.stream_conv2d(x, W, timeout=0),
    "error of the progress": lambda client, net, x: client.stream_conv2d(x, W, progress=broken_progress),
    "error of the source": lambda client, net, x: client.stream_conv2d(
        broken(x), W, shape=(2, 4000, 150), dtype=x.dtype
    ),
    "late load": lambda client, net, x: client.load_layer("failed/late", x, timeout=0),
    "network": lambda client, net, x: net(x),
    "stream through a network": lambda client, net, x: client.stream_network(net, x, window_bytes=1_800_000),
}


@pytest.mark.parametrize("call", CALLS.values(), ids=CALLS)
def test_of_the_blocking_client(narrow, call, without_collector):
    def failing():
        with groupconv.connect(narrow.address, timeout=60) as client:
            net = client.load_network("failed/gone", unet(crop=True))
            net.unload()
            x = image((1, 2, 203, 150))
            arrays.append(weakref.ref(x))
            for _ in range(100):  # one that is late may be answered in time all the same
                call(client, net, x)
            arrays.clear()

    arrays = []
    with suppress(GroupconvError, OSError):
        failing()
    until(lambda: arrays[0]() is None, 5)  # threads of gRPC end after the call


@pytest.mark.parametrize("call", CALLS.values(), ids=CALLS)
def test_of_the_awaiting_client(narrow, call, without_collector):
    async def failing():
        async with groupconv.aio.connect(narrow.address, timeout=60) as client:
            net = await client.load_network("failed/gone", unet(crop=True))
            await net.unload()
            x = image((1, 2, 203, 150))
            arrays.append(weakref.ref(x))
            for _ in range(100):
                await call(client, net, x)
            arrays.clear()

    async def failed():
        with suppress(GroupconvError, OSError):
            await failing()
        while arrays[0]() is not None:
            await asyncio.sleep(0.01)

    arrays = []
    asyncio.run(asyncio.wait_for(failed(), 20))


def test_an_awaited_load_that_is_late_is_no_cancelled_task(narrow):
    """grpc.aio cancels a call whose deadline passes while a message is being sent."""

    async def load():
        async with groupconv.aio.connect(narrow.address, timeout=60) as client:
            await client.status()
            for _ in range(50):
                with suppress(GroupconvError):  # some are in time
                    await client.load_layer("failed/late", W, timeout=1e-6)

    asyncio.run(load())
