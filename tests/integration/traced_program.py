"""A program that traces: client and server in one process, spans in memory. Prints them as JSON.

It is run by test_traces.py, in a process of its own because a process has one tracer provider, for ever.
"""

import asyncio
import contextlib
import json
import sys

import numpy as np
from opentelemetry import trace
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

import groupconv
from groupconv.errors import NotFoundError
from groupconv_server.config import Config
from groupconv_server.server import Server
from waiting import until


def main(executor: str) -> None:
    """Ask for each kind of answer under a span of its own."""
    exporter = InMemorySpanExporter()
    provider = TracerProvider()
    provider.add_span_processor(SimpleSpanProcessor(exporter))
    trace.set_tracer_provider(provider)
    tracer = trace.get_tracer("program")
    x, w = np.ones((1, 64, 32, 32), np.float32), np.ones((64, 32, 3, 3), np.float32)
    config = Config(port=0, executor=executor, workers=2, threads=1, engine="reference")
    with Server(config) as server, groupconv.connect(server.address, timeout=60) as client:
        steps = [groupconv.Step(w, None, groupconv.ConvSpec(groups=2))]
        until(lambda: len(client.status().workers) == 2)
        with tracer.start_as_current_span("unary"):
            client.run(x, steps, cut="group")
        with tracer.start_as_current_span("stream"):
            client.stream_convolve(x, steps, band_rows=16)
        with tracer.start_as_current_span("refused"), contextlib.suppress(NotFoundError):
            client.get_layer("nowhere")
        with tracer.start_as_current_span("aio"):
            asyncio.run(_aio(server.address, x, steps))
    print(json.dumps([_described(span) for span in exporter.get_finished_spans()]))


async def _aio(address: str, x: np.ndarray, steps: list[groupconv.Step]) -> None:
    async with groupconv.aio.connect(address, timeout=60) as client:
        await client.run(x, steps)


def _described(span) -> dict:
    return {
        "name": span.name,
        "kind": span.kind.name,
        "trace": span.context.trace_id,
        "id": span.context.span_id,
        "parent": span.parent and span.parent.span_id,
        "start": span.start_time,
        "end": span.end_time,
        "status": span.status.status_code.name,
        "attributes": dict(span.attributes),
    }


if __name__ == "__main__":
    main(sys.argv[1])
