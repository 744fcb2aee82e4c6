"""Engines by name. Each is imported only when asked for, so none costs anything unless used."""

from groupconv.errors import FailedPreconditionError, InvalidArgumentError
from groupconv_worker.contract import Engine, Prepared, Problem

ENGINES = ("reference", "cpu", "cuda")

__all__ = ["ENGINES", "Engine", "Prepared", "Problem", "create_engine"]


def create_engine(name: str = "auto", *, threads: int = 1) -> Engine:
    """The engine called `name`; "auto" takes cuda where there is a device and cpu elsewhere.

    Args:
        name: one of `ENGINES` or "auto".
        threads: CPU threads it may use, all libraries together.

    Raises:
        InvalidArgumentError: an unknown name.
        FailedPreconditionError: cuda without CuPy or without a device, in one line that says which.

    Example:
        >>> create_engine("reference").name
        'reference'
    """
    match name:
        case "auto":
            return create_engine("cpu" if _why_no_cuda() else "cuda", threads=threads)
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

            return CudaEngine(threads=threads, tuning=cache_folder("cuda.json"))
    raise InvalidArgumentError("engine", f"one of auto, {', '.join(ENGINES)}", name)


def _why_no_cuda() -> str:
    """Why the cuda engine cannot run here, in one line; empty if it can."""
    from groupconv_worker.cuda.engine import why_unavailable

    return why_unavailable()
