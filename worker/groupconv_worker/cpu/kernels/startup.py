"""Starts Numba without SciPy's BLAS, which no kernel here calls. Loading that takes a quarter of a second.

Numba looks for it when it compiles or loads the first function, and does without `numpy.dot` where it is not installed.
"""

import sys

BLAS = "scipy.linalg.cython_blas"


def load_numba() -> None:
    """Load what Numba loads for its first function. BLAS stays what it is if the process has it already.

    Example:
        >>> load_numba()
        >>> sys.modules.get(BLAS, "not loaded") is not None
        True
    """
    hidden = BLAS not in sys.modules
    if hidden:
        sys.modules[BLAS] = None  # type: ignore[assignment] # importing it fails, as where SciPy is not installed
    try:
        import numba.np.arraymath  # noqa: F401
    finally:
        if hidden:
            del sys.modules[BLAS]
