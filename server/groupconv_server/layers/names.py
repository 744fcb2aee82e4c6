"""What a layer may be called."""

import re

from groupconv.errors import InvalidArgumentError

LONGEST = 256
_SEGMENT = r"(?!\.{1,2}(?:/|$))[A-Za-z0-9._-]+"
_NAME = re.compile(rf"{_SEGMENT}(?:/{_SEGMENT})*")


def check_name(name: str) -> str:
    """`name`, if it is one a layer may have: it is shown, logged and may become a path.

    Raises:
        InvalidArgumentError: saying what a name is.

    Example:
        >>> check_name("alexnet/conv2")
        'alexnet/conv2'
        >>> check_name("../secret")
        Traceback (most recent call last):
        ...
        groupconv.errors.InvalidArgumentError: name: expected segments of letters, digits, '.', '_' and '-' with '/' ...
    """
    if len(name) > LONGEST or not _NAME.fullmatch(name):
        expected = f"segments of letters, digits, '.', '_' and '-' with '/' between, at most {LONGEST} characters"
        raise InvalidArgumentError("name", expected, name)
    return name


def shown(name: str) -> str:
    """A name that somebody asks for, which may be anything, for a message."""
    return repr(name if len(name) <= LONGEST else f"{name[:40]}…")
