"""Names of layers: validation, and legal names from any text."""

import re

from groupconv.errors import InvalidArgumentError

LONGEST = 256
_SEGMENT = r"(?!\.{1,2}(?:/|$))[A-Za-z0-9._-]+"
_NAME = re.compile(rf"{_SEGMENT}(?:/{_SEGMENT})*")


def check_name(name: str) -> str:
    """Validate and return a layer's name. Names are shown, logged and used as paths.

    Raises:
        InvalidArgumentError: the name is invalid.

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


def legal_name(text: str) -> str:
    """A legal name made from any text.

    Example:
        >>> legal_name("my model (1)//features/0.conv:Conv"), legal_name("..")
        ('my_model__1_/features/0.conv_Conv', '_')
    """
    parts = [re.sub(r"[^A-Za-z0-9._-]", "_", part) for part in text.split("/")]
    name = "/".join("_" if part in (".", "..") else part for part in parts if part) or "_"
    return _cut(name, LONGEST)


def numbered(name: str, taken: set[str]) -> str:
    """A name that is not in `taken`: `name` itself, or `name-2`, `name-3`, …. It is added to `taken`.

    Example:
        >>> taken = set()
        >>> numbered("conv", taken), numbered("conv", taken)
        ('conv', 'conv-2')
    """
    unique, count = name, 1
    while unique in taken:
        count += 1
        end = f"-{count}"
        unique = _cut(name, LONGEST - len(end)) + end
    taken.add(unique)
    return unique


def _cut(name: str, length: int) -> str:
    """A legal name cut to at most `length` characters, so that it stays legal."""
    if len(name) <= length:
        return name
    cut = name[:length].rstrip("/")
    head, slash, last = cut.rpartition("/")
    return head + slash + "_" * len(last) if last in (".", "..") else cut


def shown(name: str) -> str:
    """A requested name as messages show it: quoted, and cut if it is too long."""
    return repr(name if len(name) <= LONGEST else f"{name[:40]}…")
