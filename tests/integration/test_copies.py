"""The hot path of a resident layer: input read where gRPC put it, output computed where gRPC sends it from."""

import tracemalloc

import numpy as np
import pytest

from groupconv import ConvSpec
from groupconv.wire.requests import read_answer, result_of
from groupconv_server.executors.local import LocalExecutor
from groupconv_server.servicers.convolution import ConvolutionServicer


class Context:
    """Of a call without a deadline."""

    def time_remaining(self):
        return None

    def is_active(self):
        return True


@pytest.fixture
def layer(client):
    rng = np.random.default_rng(0)
    w = rng.integers(-9, 10, (8, 1, 3, 3)).astype(np.float32)
    with client.load_layer("tests/copies", w, None, ConvSpec(padding=1, groups=8)) as layer:
        yield layer


def test_the_engine_reads_the_request_and_writes_the_answer(server, layer, monkeypatch):
    x = np.random.default_rng(1).integers(-9, 10, (1, 8, 128, 128)).astype(np.float32)
    request = next(layer._exchange(x, None, allow_reordering=False, report=False)).message
    seen = []
    run = LocalExecutor.run

    def watched(self, tasks, **options):
        seen.extend((task.x, task.out) for task in tasks)
        return run(self, tasks, **options)

    monkeypatch.setattr(LocalExecutor, "run", watched)
    answer = ConvolutionServicer(server.batcher, server.layers).Convolve(request, Context())
    assert seen
    for read, written in seen:
        assert np.may_share_memory(read, np.frombuffer(request, np.uint8))
        assert np.may_share_memory(written, np.frombuffer(answer, np.uint8))
    result = result_of(read_answer(answer), unbatched=False, out=None)
    assert np.may_share_memory(result.output, np.frombuffer(answer, np.uint8))
    assert result.output.flags.writeable
    np.testing.assert_array_equal(result.output, layer(x))


def test_a_request_allocates_its_answer_and_nothing_else_of_its_size(server, layer):
    x = np.ones((1, 8, 256, 256), np.float32)
    request = next(layer._exchange(x, None, allow_reordering=False, report=False)).message
    servicer = ConvolutionServicer(server.batcher, server.layers)
    answer = servicer.Convolve(request, Context())

    def peak() -> int:
        tracemalloc.start()
        try:
            servicer.Convolve(request, Context())
            return tracemalloc.get_traced_memory()[1]
        finally:
            tracemalloc.stop()

    # The least of several: a call whose plan is a new one also tunes it, but a copy on the way is in every call.
    assert len(answer) <= min(peak() for _ in range(8)) < 1.1 * len(answer)
