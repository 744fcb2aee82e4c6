"""Every decoder of bytes that a stranger sends: what it makes of them is a value or a GroupconvError, nothing else."""

import contextlib
import random
from collections.abc import Callable

import numpy as np
from google.protobuf.message import DecodeError, Message

from fuzzing import corpus, mutations
from groupconv import Step
from groupconv.errors import FailedPreconditionError, GroupconvError
from groupconv.streaming.stream import transfer
from groupconv.v1 import convolution_pb2, layer_pb2, stream_pb2
from groupconv.wire.chunks import CHUNK_BYTES, unpacked
from groupconv.wire.compress import expanded
from groupconv.wire.requests import read_answer, result_of
from groupconv.wire.tensors import from_wire, to_wire, type_from_wire, type_to_wire
from groupconv_server.coordinator.limits import Limits
from groupconv_server.coordinator.problems import problems_of
from groupconv_server.inference.messages import parse as parse_infer
from groupconv_server.inference.tensors import Kind, input_of, output_reference
from groupconv_server.inference.v2 import infer_pb2
from groupconv_server.layers.registry import Layers
from groupconv_server.layers.repository import Repository
from groupconv_server.memory.client_memory import ClientMemory
from groupconv_server.servicers.convolution import parse, specs_of
from groupconv_server.servicers.layers import LayerServicer
from groupconv_server.servicers.regions import RequestTensors
from groupconv_server.servicers.stream import _header
from groupconv_server.streaming.band_size import choose

LIMITS = Limits(message_bytes=2**20, tensor_bytes=2**22, stream_bytes=2**20)
Target = tuple[Callable[[list[bytes]], None], type[Message], list[list[bytes]]]


class OutsideCall:
    """The context of a call without a server, as far as decoders need it."""

    def time_remaining(self) -> None:
        """There is no deadline."""

    def is_active(self) -> bool:
        """The client waits."""
        return True

    def peer(self) -> str:
        """A connection's name."""
        return "unix:"


def convolve(raws: list[bytes]) -> None:
    """A ConvolveRequest, up to what a worker would be given; and the codec agrees with protobuf."""
    raw = raws[0]
    try:
        known = convolution_pb2.ConvolveRequest.FromString(raw)
    except DecodeError:
        known = None
    request, x, steps = parse(raw, lambda: RequestTensors(ClientMemory(), OutsideCall()))
    assert known is not None, "parse took what protobuf refuses"
    assert x.tobytes() == known.input.data
    assert (request.layer, len(request.steps)) == (known.layer, len(known.steps))
    if steps:
        problems = problems_of(x.shape, x.dtype, steps)
        for problem in problems:
            LIMITS.check(problem, "steps")
        LIMITS.check_answer(problems[-1])


def stream_header(raws: list[bytes]) -> None:
    """The header of a stream, up to its bands."""
    header = _header(raws[0])
    dtype, shape = type_from_wire(header.input, "header.input")
    specs = specs_of(header.steps)
    kernels = [from_wire(s.kernel, "kernel") for s in header.steps]
    biases = [from_wire(s.bias, "bias") if s.HasField("bias") else None for s in header.steps]
    if specs:
        steps = [Step(*parts) for parts in zip(kernels, biases, specs, strict=True)]
        choose(problems_of(shape, dtype, steps), header.band_rows, LIMITS, 2)


def chunk(raws: list[bytes]) -> None:
    """A chunk that is read without protobuf is what protobuf reads."""
    data = unpacked(raws[-1])
    if data is not None:
        assert bytes(data) == stream_pb2.ConvolveStreamRequest.FromString(raws[-1]).data


def compressed_chunk(raws: list[bytes]) -> None:
    """A chunk that was made smaller: never more than a chunk when it is expanded."""
    try:
        message = stream_pb2.ConvolveStreamRequest.FromString(raws[0])
    except DecodeError:
        return
    size = len(expanded(message.compressed, 4))
    assert size == message.compressed.size <= CHUNK_BYTES


def load(raws: list[bytes]) -> None:
    """A layer on its way: whatever comes, nothing stays reserved."""
    layers = Layers(lambda *_: None, capacity=2**16)
    servicer = LayerServicer(Repository(layers), LIMITS)
    try:
        messages = (layer_pb2.LoadLayerRequest.FromString(raw) for raw in raws)
        servicer.LoadLayer(messages, OutsideCall())
    except DecodeError:  # the interceptor answers it
        pass
    finally:
        assert layers.bytes == sum(layer.bytes for layer in layers.all())


def infer(raws: list[bytes]) -> None:
    """A ModelInferRequest's tensors."""
    request, contents = parse_infer(raws[0])
    input_of(request, contents, ClientMemory(), Kind(corpus.X.dtype, (-1, 4, -1, -1)))
    output_reference(request.outputs)


def answer(raws: list[bytes]) -> None:
    """What a client makes of a ConvolveResponse."""
    result_of(read_answer(raws[0]), unbatched=False, out=None)


def stream_answer(raws: list[bytes]) -> None:
    """What a client makes of a stream's answers."""
    made = transfer(corpus.X, [Step(corpus.W, corpus.B, corpus.SPECS[0])])
    made.accepted(raws[0])
    for raw in raws[1:]:
        made.take(raw)
    made.filled()


def _answers() -> list[list[bytes]]:
    response = convolution_pb2.ConvolveResponse(output=to_wire(np.ones((1, 2, 6, 6), np.float32)))
    response.phases.add(name="parse", seconds=1)
    return [[response.SerializeToString()]]


def _stream_answers() -> list[list[bytes]]:
    shape, out = (1, 2, 6, 6), stream_pb2.ConvolveStreamResponse
    accepted = stream_pb2.StreamAccepted(output=type_to_wire(np.dtype(np.float32), shape), band_rows=3)
    messages = [out(accepted=accepted)]
    for start in (0, 3):
        messages.append(out(band=stream_pb2.StreamBand(start=start, stop=start + 3, next_input_row=start + 2)))
        messages.append(out(data=bytes(3 * 2 * 6 * 4)))
    return [[m.SerializeToString() for m in messages]]


def targets() -> dict[str, Target]:
    """Every decoder, with valid messages to begin from."""
    convolves = [[m.SerializeToString()] for m in corpus.convolve()]
    stream, load_layer = stream_pb2.ConvolveStreamRequest, layer_pb2.LoadLayerRequest
    return {
        "convolve": (convolve, convolution_pb2.ConvolveRequest, convolves),
        "stream header": (stream_header, stream, [s[:1] for s in corpus.streams()]),
        "chunk": (chunk, stream, corpus.streams()),
        "compressed chunk": (compressed_chunk, stream, [[corpus.small_chunk().SerializeToString()]]),
        "load layer": (load, load_layer, [[m.SerializeToString() for m in s] for s in corpus.loads()]),
        "infer": (infer, infer_pb2.ModelInferRequest, [[m.SerializeToString()] for m in corpus.infer()]),
        "answer": (answer, convolution_pb2.ConvolveResponse, _answers()),
        "stream answer": (stream_answer, stream_pb2.ConvolveStreamResponse, _stream_answers()),
    }


def run(cases: int, seed: int = 0) -> dict[str, dict[str, int]]:
    """So many cases, shared among the decoders: how each ended, by name and exception.

    Raises:
        AssertionError: naming the case that raised anything but a GroupconvError, with its bytes.
    """
    tally: dict[str, dict[str, int]] = {}
    for name, (target, kind, valid) in targets().items():
        counted = tally[name] = {}
        for messages in valid:
            with contextlib.suppress(FailedPreconditionError):  # shared memory is off
                target(messages)  # as they are, they are right
        others = [raw for messages in valid for raw in messages]
        for i in range(cases // len(targets()) + 1):
            raws = _broken(random.Random(f"{seed} {name} {i}"), kind, valid, others)
            try:
                target(raws)
                outcome = "taken"
            except GroupconvError as error:
                outcome = type(error).__name__
            except Exception as error:
                where = f"{name}, seed {seed}, case {i}"
                raise AssertionError(f"{where}: {type(error).__name__}: {error}: {raws!r}") from error
            counted[outcome] = counted.get(outcome, 0) + 1
    return tally


def _broken(rng: random.Random, kind: type[Message], valid: list[list[bytes]], others: list[bytes]) -> list[bytes]:
    """Valid messages of which one is noise, or has broken bytes or extreme fields; some are moved or left out."""
    raws = list(rng.choice(valid))
    at = rng.randrange(len(raws)) if rng.random() < 0.5 else 0
    how = rng.random()
    if how < 0.1:
        raws[at] = mutations.noise(rng)
    elif how < 0.5:
        raws[at] = mutations.bytes_changed(rng, raws[at], others)
    else:
        message = kind.FromString(raws[at])
        mutations.fields_changed(rng, message)
        raws[at] = message.SerializeToString()
    if len(raws) > 1 and rng.random() < 0.3:
        raws.insert(rng.randrange(len(raws) + 1), raws.pop(rng.randrange(len(raws))))
    if len(raws) > 1 and rng.random() < 0.2:
        del raws[rng.randrange(len(raws))]
    return raws
