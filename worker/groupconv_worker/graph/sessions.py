"""Sessions of onnxruntime on the CPU of this process: how they share threads and memory with everything else."""

import functools
from pathlib import Path
from typing import Any

import onnxruntime
from onnxruntime import OrtAllocatorType, OrtArenaCfg, OrtMemoryInfo, OrtMemType

from groupconv_worker.machine import memory


def make_session(model: bytes, threads: int, profile: Path | None = None) -> Any:
    """A session of a model.

    Args:
        model: in ONNX.
        threads: that a run may use.
        profile: folder for the times of its nodes, and for the optimized model; None takes no times.

    Raises:
        Exception: of a class of the runtime's for each status, none of which is public; `first_line` says why.
    """
    _limit_memory()
    options = onnxruntime.SessionOptions()
    options.add_session_config_entry("session.use_env_allocators", "1")
    options.intra_op_num_threads, options.inter_op_num_threads = threads, 1
    options.enable_mem_pattern = False  # it would hold a second copy of all tensors, laid out for the last shapes
    options.log_severity_level = 4
    if profile is not None:
        options.enable_profiling, options.profile_file_prefix = True, str(profile / "times")
        options.optimized_model_filepath = str(profile / "optimized.onnx")
    options.add_session_config_entry("session.force_spinning_stop", "1")  # other requests need the processors
    return onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])


def first_line(error: BaseException) -> str:
    """The first line of the runtime's message, without the status in front."""
    line = (str(error).splitlines() or [type(error).__name__])[0]
    return line.removeprefix("[ONNXRuntimeError] : ")[:500]


@functools.cache
def _limit_memory() -> None:
    """Bound the memory that all sessions of this process have: shapes may depend on values that a caller sends."""
    arena = OrtArenaCfg({"max_mem": memory() // 2, "arena_extend_strategy": 1})
    info = OrtMemoryInfo("Cpu", OrtAllocatorType.ORT_ARENA_ALLOCATOR, 0, OrtMemType.DEFAULT)
    onnxruntime.create_and_register_allocator(info, arena)
