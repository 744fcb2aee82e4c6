"""The tables of docs/operations.md say what the code does."""

import re
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent.parent
MIB = 2**20
OPERATIONS = (ROOT / "docs/operations.md").read_text()


def test_the_table_of_caches_says_what_the_code_does():
    from groupconv.wire import codec
    from groupconv_server.coordinator import batching, compiled, resident
    from groupconv_server.layers import version
    from groupconv_server.planner import plan, statistics
    from groupconv_server.telemetry import series
    from groupconv_worker.cpu import compiler
    from groupconv_worker.cpu.algorithms import onnx, plane
    from groupconv_worker.cpu.workspace import BufferPool
    from groupconv_worker.cuda import captured_runs, cudnn, device
    from groupconv_worker.lanes import shards
    from groupconv_worker.tuning import choice_file

    rows = re.search(r"### Caches\n.*?\n\n(\| cache .*?)\n\n", OPERATIONS, re.DOTALL)
    assert rows is not None
    table = {cells[1].strip(): cells[3] for cells in (line.split("|") for line in rows[1].splitlines())}
    said = {
        "compiling jobs": [compiler.WAITING, compiler.SEEN],
        "tuning choices": [choice_file.CHOICES, choice_file.KEPT],
        "scratch memory": [BufferPool.KEPT, BufferPool.LIMIT // MIB],
        "phases": [plane.phases.cache_parameters()["maxsize"], plane.MOST_PHASES],
        "onnxruntime's sessions of one-shot kernels": [onnx.SESSIONS, onnx.SESSION // 1024],
        "captured graphs": [captured_runs.BATCHES],
        "cuDNN's plans": [cudnn.KEPT_PLANS],
        "tap tables on the device": [device.TABLES // MIB],
        "copy programs, launch shapes, choices": [choice_file.CHOICES],
        "plans": [plan.CACHED],
        "what plans took": [statistics.SHAPES, plan.LONGEST_CHAIN],
        "plans of networks": [version.PLANS],
        "compiled calls of layers": [resident.CALLS, compiled.KEPT],
        "batches": [batching.KEPT],
        "messages of layers' requests": [codec.MAX_CACHED // 1024],
        "series of layers": [series.MAX_LAYERS],
        "Ray lanes": [shards.NUMBERS],
    }
    for cache, numbers in said.items():
        for number in numbers:
            assert re.search(rf"\b{number:,}\b", table[cache]), (cache, number, table[cache])
