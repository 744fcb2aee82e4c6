"""The awaiting client does what the blocking one does."""

import asyncio

import numpy as np
import pytest

import groupconv
from groupconv import ConvSpec, Step
from groupconv.errors import DeadlineExceededError, InvalidArgumentError

X = np.random.default_rng(0).integers(-9, 10, (1, 4, 9, 9)).astype(np.float32)
W = np.random.default_rng(1).integers(-9, 10, (4, 2, 3, 3)).astype(np.float32)


def with_client(server, use):
    async def main():
        async with groupconv.aio.connect(server.address, timeout=60) as client:
            return await use(client)

    return asyncio.run(main())


def test_calls_run_side_by_side_and_equal_the_blocking_ones(server, client):
    async def use(aio):
        return await asyncio.gather(*(aio.conv2d(X, W, groups=2, stride=s) for s in (1, 2, 3) * 4))

    answers = with_client(server, use)
    for stride, y in zip((1, 2, 3) * 4, answers, strict=True):
        np.testing.assert_array_equal(y, client.conv2d(X, W, groups=2, stride=stride))


def test_run_plan_and_status(server):
    async def use(aio):
        result = await aio.run(X, [Step(W, spec=ConvSpec(groups=2))])
        return result, await aio.plan(X.shape, W.shape, ConvSpec(groups=2)), await aio.status()

    result, plan, status = with_client(server, use)
    assert plan.steps[0].output_shape == result.output.shape
    assert status.executor == "local"


def test_errors_are_the_same_classes(server):
    async def mistake(aio):
        await aio.conv2d(X, W, groups=3)

    async def hurry(aio):
        await aio.conv2d(np.ones((1, 64, 40, 40)), np.ones((64, 64, 9, 9)), timeout=0.001)

    with pytest.raises(InvalidArgumentError, match=r"steps\[0\]\.spec\.groups"):
        with_client(server, mistake)
    with pytest.raises(DeadlineExceededError):
        with_client(server, hurry)
