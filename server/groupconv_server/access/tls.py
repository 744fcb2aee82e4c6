"""TLS from files that are read again when they change: a certificate is renewed without a restart.

Open connections keep their certificate; each new one gets the files' present one. Files that do not fit together, as
in the moment between a new certificate and its key, are ignored, and the last good ones stay in use.
"""

import logging
import ssl
import stat
import threading
from pathlib import Path

import grpc

from groupconv.errors import FailedPreconditionError, InvalidArgumentError
from groupconv.transport.address import is_loopback

log = logging.getLogger(__name__)

Signature = tuple[tuple[int, int, int], ...]


def certificates_for(
    host: str, certificate: Path | None, key: Path | None, client_ca: Path | None = None, *, insecure: bool = False
) -> "Certificates | None":
    """The certificates that a server on `host` listens with; None is plaintext.

    Raises:
        InvalidArgumentError: plaintext on an address that others can reach, or only one of certificate and key.
        FailedPreconditionError: files that are no certificate and its key.
    """
    if certificate is not None and key is not None:
        return Certificates(certificate, key, client_ca)
    if certificate or key or client_ca:
        raise InvalidArgumentError("--tls-cert", "both --tls-cert and --tls-key", "only one file")
    if not (insecure or is_loopback(host)):
        expected = "--tls-cert and --tls-key, or --insecure on a network that you trust, or a loopback address"
        raise InvalidArgumentError("--host", expected, f"{host}, which others can reach, without TLS")
    return None


class Certificates:
    """A server's certificate, and the authorities of its clients.

    Args:
        certificate: PEM of the server's certificate, with the chain up to its authority.
        key: PEM of its private key, without a passphrase.
        client_ca: PEM of the authorities of clients, which then need a certificate of theirs (mutual TLS).

    Raises:
        FailedPreconditionError: files that cannot be read, or do not fit together.
    """

    def __init__(self, certificate: Path, key: Path, client_ca: Path | None = None) -> None:
        self._files = (certificate, key) if client_ca is None else (certificate, key, client_ca)
        self._lock = threading.Lock()
        self._signature: Signature = ()
        self._refused: Signature | None = None
        self._new: grpc.ServerCertificateConfiguration | None = None
        try:
            self._signature, self._first = self._read()
        except (OSError, ValueError) as error:
            raise FailedPreconditionError(f"TLS: {error}") from None

    def credentials(self) -> grpc.ServerCredentials:
        """Credentials that check the files at each handshake."""
        return grpc.dynamic_ssl_server_credentials(
            self._first,
            self._changed,  # type: ignore[arg-type]  # the stubs leave out that None is no change
            require_client_authentication=len(self._files) > 2,
        )

    def context(self) -> ssl.SSLContext:
        """A context for servers that are not gRPC's, with the same files. It checks them at each handshake, too."""
        seen = self._stat_or_none()
        first = current = self._loaded()

        def renew(connection: ssl.SSLObject, _: str | None, __: ssl.SSLContext) -> None:
            nonlocal seen, current
            with self._lock:
                if (now := self._stat_or_none()) != seen:
                    seen = now
                    try:
                        current = self._loaded()
                    except (OSError, ValueError) as error:
                        log.error("TLS: %s; serving on with the certificate read before", error)  # noqa: TRY400 - expected
            connection.context = current

        first.sni_callback = renew
        return first

    def reload(self) -> None:
        """Read the files now, changed or not, and log the result."""
        with self._lock:
            self._take()

    def _changed(self) -> grpc.ServerCertificateConfiguration | None:
        """The certificate for a handshake, or None if it is that of the handshake before."""
        with self._lock:
            if self._stat_or_none() not in (self._signature, self._refused):
                self._take()
            new, self._new = self._new, None
            return new

    def _take(self) -> None:
        """Use the files from the next handshake on, if they fit together."""
        before = self._stat_or_none()
        try:
            self._signature, self._new = self._read()
        except (OSError, ValueError) as error:
            self._refused = before  # logged once, not at each handshake
            log.error("TLS: %s; serving on with the certificate read before", error)  # noqa: TRY400 - expected
        else:
            log.info("TLS: certificates read again")

    def _stat_or_none(self) -> Signature:
        """The files' signature, empty if one of them is not there."""
        try:
            return self._stat()
        except (OSError, ValueError):
            return ()

    def _stat(self) -> Signature:
        found = [path.stat() for path in self._files]
        for path, facts in zip(self._files, found, strict=True):
            if not stat.S_ISREG(facts.st_mode):  # a pipe would have the server wait at each handshake
                raise ValueError(f"{path} is no file")
        return tuple((facts.st_mtime_ns, facts.st_size, facts.st_ino) for facts in found)

    def _read(self) -> tuple[Signature, grpc.ServerCertificateConfiguration]:
        """Read the files and check with OpenSSL that they fit together. gRPC would only find out at each handshake."""
        before = self._stat()
        self._loaded()
        pems = [path.read_bytes() for path in self._files]
        if self._stat() != before:
            raise ValueError("files that change while they are read")
        authorities = pems[2] if len(pems) > 2 else None
        return before, grpc.ssl_server_certificate_configuration([(pems[1], pems[0])], authorities)

    def _loaded(self) -> ssl.SSLContext:
        """A context of OpenSSL with the files, which must fit together."""
        certificate, key, *client_ca = self._files
        self._stat()
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        try:
            context.load_cert_chain(certificate, key, password=_no_passphrase)
        except ssl.SSLError as error:
            raise ValueError(f"{certificate} and {key} are no certificate with its key: {error}") from None
        for path in client_ca:
            try:
                context.load_verify_locations(path)
            except ssl.SSLError as error:
                raise ValueError(f"{path} holds no certificates: {error}") from None
            context.verify_mode = ssl.CERT_REQUIRED
        return context


def _no_passphrase() -> str:
    raise ValueError("the key has a passphrase: give one without, readable by the server's user alone")
