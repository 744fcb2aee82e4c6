"""Engines by name. Each is imported only when asked for, so none costs anything unless used."""

from groupconv.errors import FailedPreconditionError, InvalidArgumentError
from groupconv_worker.contract import Engine, Prepared, Problem

ENGINES = ("reference", "cpu", "cuda")

__all__ = ["ENGINES", "Engine", "Prepared", "Problem", "count_gpus", "create_engine"]


def count_gpus(engine: str) -> int:
    """GPUs of this process that engines of this name run on; 0 for those of the CPU.

    Example:
        >>> count_gpus("reference")
        0
    """
    if engine not in ("auto", "cuda"):
        return 0
    from groupconv_worker.cuda.engine import count_devices

    return count_devices()


def create_engine(name: str = "auto", *, threads: int = 1, device: int = 0) -> Engine:
    """The engine called `name`; "auto" takes cuda where there is a device and cpu elsewhere.

    Args:
        name: one of `ENGINES` or "auto".
        threads: CPU threads it may use, all libraries together.
        device: the number of its GPU in this process, if it has one; beyond the last GPU the numbers begin anew.

    Raises:
        InvalidArgumentError: an unknown name.
        FailedPreconditionError: cuda without CuPy or without a device, in one line that says which.

    Example:
        >>> create_engine("reference").name
        'reference'
    """
    match name:
        case "auto":
            return create_engine("cpu" if _why_no_cuda() else "cuda", threads=threads, device=device)
        case "reference":
            from groupconv_worker.reference import ReferenceEngine

            return ReferenceEngine()
        case "cpu":
            from groupconv_worker.cpu.engine import CpuEngine

            return CpuEngine(threads=threads)
        case "cuda":
            if reason := _why_no_cuda():
                raise FailedPreconditionError(f"engine cuda: {reason}")
            from groupconv_worker.cache_folder import cache_folder
            from groupconv_worker.cuda.engine import CudaEngine

            return CudaEngine(threads=threads, tuning=cache_folder("cuda.json"), device=device)
    raise InvalidArgumentError("engine", f"one of auto, {', '.join(ENGINES)}", name)


def _why_no_cuda() -> str:
    """Why the cuda engine cannot run here, in one line; empty if it can."""
    from groupconv_worker.cuda.engine import why_unavailable

    return why_unavailable()
