"""Bearer tokens: a TOML file has their owners and limits; it is read again when it changes.

The file holds the SHA-256 of each token, never the token. A slow hash (scrypt, Argon2) makes guessing costly where
people choose passwords; these tokens are 256 random bits, which nobody guesses, and a hash that is slow on each request
would hand every caller without a token a way to keep the server busy.
"""

import hashlib
import hmac
import logging
import re
import secrets
import threading
import tomllib
from collections.abc import Callable, Iterable
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

from groupconv.errors import FailedPreconditionError, InvalidArgumentError, UnauthenticatedError
from groupconv_server.access.rates import Allowance, CallerLimits

log = logging.getLogger(__name__)

PREFIX = "gct_"
"""Prefix of every token, so that secret scanners find one in source code."""
MIN_LENGTH = 32
_NAME = re.compile(r"[A-Za-z0-9_-]{1,64}")
_DIGEST = re.compile(r"[0-9a-f]{64}")


@dataclass(frozen=True)
class TokenEntry:
    """One token of the file: its digest and its limits."""

    sha256: str
    rates: CallerLimits


class Tokens:
    """The tokens of a file. Safe to use from several threads.

    Args:
        path: TOML, one table for each token: `[alice]` with `sha256` and, for a limited one, fields of `CallerLimits`.
        allowance: makes the allowance of a token from its name and limits.

    Raises:
        FailedPreconditionError: the file cannot be read, or is invalid.
    """

    def __init__(self, path: Path, allowance: Callable[[str, CallerLimits], Allowance] = Allowance) -> None:
        self._path, self._allowance = path, allowance
        self._lock = threading.Lock()
        self._known: dict[str, tuple[TokenEntry, Allowance]] = {}
        self._seen = self._stat()
        try:
            self._take(path.read_text())
        except (OSError, ValueError) as error:
            why = error.strerror if isinstance(error, OSError) else error
            raise FailedPreconditionError(f"--tokens {path}: {why}") from None

    def caller(self, metadata: Iterable[tuple[str, str | bytes]]) -> Allowance:
        """The caller whose token came with a call.

        Args:
            metadata: of the call.

        Raises:
            UnauthenticatedError: there is no token, or it is not in the file.
        """
        headers = [str(value) for key, value in metadata if key == "authorization"]
        scheme, _, token = headers[0].partition(" ") if len(headers) == 1 else ("", "", "")
        if scheme.lower() != "bearer" or not token:
            raise UnauthenticatedError("a token is needed, in the metadata 'authorization: Bearer …'")
        digest = digest_of(token.strip())
        allowed = None
        for entry, allowance in self._present().values():  # compare all of them, so that the time gives nothing away
            if hmac.compare_digest(entry.sha256, digest):
                allowed = allowance
        if allowed is None:
            raise UnauthenticatedError("this token is not known here")
        return allowed

    def reload(self) -> None:
        """Read the file now, changed or not, and log the result."""
        with self._lock:
            self._read_again()

    def _present(self) -> dict[str, tuple[TokenEntry, Allowance]]:
        if self._stat() != self._seen:
            with self._lock:
                if self._stat() != self._seen:
                    self._read_again()
        return self._known

    def _read_again(self) -> None:
        self._seen = self._stat()  # report a bad file once, not at each call
        try:
            self._take(self._path.read_text())
            log.info("tokens: %s read again: %d tokens", self._path, len(self._known))
        except (OSError, ValueError) as error:
            log.error("tokens: %s: %s; those read before stay", self._path, error)  # noqa: TRY400

    def _stat(self) -> tuple[int, int, int] | None:
        try:
            s = self._path.stat()
        except OSError:
            return None
        return s.st_mtime_ns, s.st_size, s.st_ino

    def _take(self, text: str) -> None:
        """Take the file's entries. A caller whose entry is unchanged keeps what it has used."""
        known = {}
        for name, entry in parsed(text).items():
            before = self._known.get(name)
            known[name] = before if before and before[0] == entry else (entry, self._allowance(name, entry.rates))
        self._known = known


def parsed(text: str) -> dict[str, TokenEntry]:
    r"""The entries of a file of tokens, by name.

    Raises:
        ValueError: naming the token and what is wrong with it.

    Example:
        >>> parsed('[alice]\nsha256 = "' + digest_of("a" * 32) + '"\nconcurrent = 8')["alice"].rates.concurrent
        8
    """
    entries = {}
    limits = {f.name for f in fields(CallerLimits)}
    try:
        tables = tomllib.loads(text)
    except RecursionError:
        raise ValueError("nested too deeply") from None
    for name, table in tables.items():
        if not _NAME.fullmatch(name) or not isinstance(table, dict):
            raise ValueError(f"{name!r} is no table of a token: [name] of letters, digits, '_' and '-'")
        digest = table.pop("sha256", None)
        if not isinstance(digest, str) or not _DIGEST.fullmatch(digest):
            raise ValueError(f"{name}.sha256: expected 64 hexadecimal digits (groupconv token hash)")
        for key, value in table.items():
            if key not in limits:
                raise ValueError(f"{name}.{key}: expected one of sha256, {', '.join(sorted(limits))}")
            if isinstance(value, bool) or not isinstance(value, int | float) or not value > 0:
                raise ValueError(f"{name}.{key}: expected a number above 0, got {value!r}")
        entries[name] = TokenEntry(digest, CallerLimits(**table))
    return entries


def new_token() -> str:
    """A token of 256 random bits."""
    return PREFIX + secrets.token_urlsafe(32)


def digest_of(token: str) -> str:
    """The hexadecimal SHA-256 of a token."""
    return hashlib.sha256(token.encode("utf-8", "surrogateescape")).hexdigest()


def entry_text(name: str, token: str, rates: CallerLimits) -> str:
    """A token's table, as the file has it.

    Raises:
        InvalidArgumentError: a name that no table has, or a token so short that it may be guessed.
    """
    if not _NAME.fullmatch(name):
        raise InvalidArgumentError("name", "1 to 64 letters, digits, '_' and '-'", name)
    if len(token) < MIN_LENGTH:
        expected = f"at least {MIN_LENGTH} random characters (groupconv token new makes one)"
        raise InvalidArgumentError("token", expected, f"{len(token)} characters")
    limits: dict[str, Any] = {f.name: getattr(rates, f.name) for f in fields(CallerLimits)}
    lines = [f"[{name}]", f'sha256 = "{digest_of(token)}"']
    return "\n".join(lines + [f"{k} = {v}" for k, v in limits.items() if v is not None]) + "\n"
