"""Import of libraries that only some formats need."""

import importlib
from typing import Any

from groupconv.errors import FailedPreconditionError


def needed(module: str, why: str) -> Any:
    """Import a module of the extra `images`; `why` says what for.

    Raises:
        FailedPreconditionError: the extra is not installed.

    Example:
        >>> needed("no_such_module", "to read .xyz")
        Traceback (most recent call last):
        ...
        groupconv.errors.FailedPreconditionError: to read .xyz, install the extra `images`: ...
    """
    try:
        return importlib.import_module(module)
    except ImportError as error:
        raise FailedPreconditionError(
            f"{why}, install the extra `images`: pip install 'groupconv[images]' ({error})"
        ) from None
