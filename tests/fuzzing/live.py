"""A live server that is sent messages with extreme fields and broken bytes: a status each time, and it goes on."""

import random
from collections.abc import Iterator

import grpc
import numpy as np
from google.protobuf.message import Message

import groupconv
from fuzzing import corpus, mutations
from groupconv.v1 import stream_pb2

TIMEOUT = 20.0
"""Seconds after which a call counts as a hang."""
FINE = {
    "OK",
    "INVALID_ARGUMENT",
    "RESOURCE_EXHAUSTED",
    "NOT_FOUND",
    "FAILED_PRECONDITION",
    "ALREADY_EXISTS",
    "UNIMPLEMENTED",
    "OUT_OF_RANGE",
}
"""Any other status is a defect: INTERNAL, UNKNOWN, UNAVAILABLE, DEADLINE_EXCEEDED."""
STREAMS = (corpus.STREAM + "ConvolveStream", corpus.LAYER + "LoadLayer", corpus.INFERENCE + "ModelStreamInfer")
REFLECTION = corpus.REFLECTION + "ServerReflectionInfo"


def run(address: str, cases: int, seed: int = 0) -> dict[str, dict[str, int]]:
    """So many calls, shared among the RPCs: how each ended, by path and status.

    Raises:
        AssertionError: naming the case whose status is a defect's, or after which the server does not answer.
    """
    tally: dict[str, dict[str, int]] = {}
    unary = corpus.unary()
    paths = [
        *unary,
        *STREAMS,
        REFLECTION,
        *(p for p in STREAMS for _ in range(2)),
        *(corpus.CONVOLUTION + "Convolve",) * 6,
    ]
    streamed = _streamed()
    with (
        groupconv.connect(address, timeout=TIMEOUT) as client,
        grpc.insecure_channel(address, options=[("grpc.enable_retries", 0)]) as channel,
    ):
        client.load_layer(corpus.NAME, corpus.W, corpus.B, corpus.SPECS[0])
        for i in range(cases):
            rng = random.Random(f"{seed} live {i}")
            path = rng.choice(paths)
            valid = streamed[path] if path in streamed else [[m] for m in unary[path]]
            raws = _broken(rng, rng.choice(valid))
            status = _status(channel, path, raws)
            counted = tally.setdefault(path.rpartition("/")[2], {})
            counted[status] = counted.get(status, 0) + 1
            assert status.partition(":")[0] in FINE, f"{path}, seed {seed}, case {i}: {status}: {raws!r}"
            if i % 100 == 99:
                np.testing.assert_array_equal(client.conv1d([[[1.0, 2.0, 3.0]]], [[[1.0, 1.0]]]), [[[3.0, 5.0]]])
                client.load_layer(corpus.NAME, corpus.W, corpus.B, corpus.SPECS[0])  # it may have been unloaded
        for layer in client.list_layers():
            client.unload_layer(layer.name)
    return tally


def _streamed() -> dict[str, list[list[Message]]]:
    request = stream_pb2.ConvolveStreamRequest.FromString
    convolve, load, infer = STREAMS
    return {
        convolve: [[request(raw) for raw in raws] for raws in corpus.streams()],
        load: [list[Message](messages) for messages in corpus.loads()],
        infer: [corpus.infer()[:2]],
        REFLECTION: corpus.reflections(),
    }


def _broken(rng: random.Random, valid: list[Message]) -> list[bytes]:
    """The messages of a call, one of them noise, or with broken bytes or extreme fields; some moved, gone or twice."""
    messages = [type(m).FromString(m.SerializeToString()) for m in valid]
    at = rng.randrange(len(messages)) if rng.random() < 0.4 else 0
    how = rng.random()
    if how < 0.7:
        mutations.fields_changed(rng, messages[at])
    raws = [mutations.invalid_text(m.SerializeToString()) for m in messages]
    if how >= 0.95:
        raws[at] = mutations.noise(rng)
    elif how >= 0.7:
        raws[at] = mutations.bytes_changed(rng, raws[at], raws)
    if len(raws) > 1 and rng.random() < 0.25:
        choice = rng.randrange(4)
        if choice == 0:
            raws.insert(rng.randrange(len(raws) + 1), raws.pop(rng.randrange(len(raws))))
        elif choice == 1:
            del raws[rng.randrange(len(raws))]
        elif choice == 2:
            raws.append(rng.choice(raws))
        else:
            del raws[rng.randrange(len(raws)) :]
    return raws


def _status(channel: grpc.Channel, path: str, raws: list[bytes]) -> str:
    try:
        if path in STREAMS or path == REFLECTION:
            for _ in channel.stream_stream(path)(_each(raws), timeout=TIMEOUT):
                pass
        else:
            channel.unary_unary(path)(raws[0], timeout=TIMEOUT)
    except grpc.RpcError as error:
        name: str = error.code().name
        return name if name in FINE else f"{name}: {error.details()}"
    return "OK"


def _each(raws: list[bytes]) -> Iterator[bytes]:
    yield from raws
