"""`groupconv.connect`: a blocking client of a server."""

from groupconv.client import Client
from groupconv.memory.shared import Mode, shared_memory_of
from groupconv.transport.channel import Connection, Pem
from groupconv.wire.tensors import MAX_MESSAGE_BYTES


def connect(
    target: str,
    *,
    timeout: float | None = 300.0,
    token: str | None = None,
    tls: bool = False,
    root_certificates: Pem | None = None,
    client_certificate: Pem | None = None,
    client_key: Pem | None = None,
    server_name: str | None = None,
    allow_plaintext_token: bool = False,
    max_message_bytes: int = MAX_MESSAGE_BYTES,
    shared_memory: Mode = False,
) -> Client:
    """A client of the server at `target`. It connects at the first call.

    Args:
        target: "host:port" or "unix:path".
        timeout: seconds that a call may take, unless the call sets its own; None waits forever.
        token: bearer token; None takes the environment's GROUPCONV_TOKEN, "" sends none. It is only sent over TLS or
            within this machine.
        tls: whether to encrypt, trusting the system's certificates.
        root_certificates: certificates to trust instead, as PEM or the path of a PEM file; implies TLS.
        client_certificate: certificate of this client for mutual TLS, as PEM or the path of a PEM file.
        client_key: key of the client's certificate, as PEM or the path of a PEM file.
        server_name: name in the server's certificate, if it is not the target's host.
        allow_plaintext_token: whether to send the token over a network without TLS.
        max_message_bytes: largest request or answer.
        shared_memory: whether tensors go through shared memory if the server is on this machine and allows it, and
            arrays on a GPU stay there if the server has that GPU (docs/shared-memory.md). With True, a server that
            cannot share memory is a FailedPreconditionError at the first call; with "auto" the client sends messages.

    Raises:
        InvalidArgumentError: the token would travel unencrypted, a certificate is not PEM, or another argument is
            invalid.
        OSError: a certificate's file cannot be read.

    Example:
        >>> with connect("localhost:50051") as client:
        ...     client.target
        'localhost:50051'
    """
    connection = Connection(
        target,
        token=token,
        tls=tls,
        root_certificates=root_certificates,
        client_certificate=client_certificate,
        client_key=client_key,
        server_name=server_name,
        allow_plaintext_token=allow_plaintext_token,
        max_message_bytes=max_message_bytes,
    )
    shared = shared_memory_of(shared_memory)
    return Client(connection.open(), connection, timeout=timeout, shared=shared)
