"""Why a connection to a server fails, in words, with the arguments and flags that mend it.

gRPC reports most causes as "Socket closed" or "Connection refused". So after a failed first call the address is
tried again with plain sockets: is a server there, does it use TLS, is its certificate accepted, does it speak HTTP/2?
"""

import os
import socket
import ssl
from urllib.parse import unquote

from groupconv.errors import ConnectError, ForeignServerError, NoServerError, TlsError
from groupconv.transport.address import is_local
from groupconv.transport.channel import Connection, pem

SECONDS = 2.0
"""Time for each attempt to connect or to read."""
_HELLO = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + bytes((0, 0, 0, 4, 0, 0, 0, 0, 0))  # the preface and empty SETTINGS
_SETTINGS, _TLS_ALERT = 4, 0x15
_WRONG_NAME = (62, 64)  # OpenSSL's X509_V_ERR_HOSTNAME_MISMATCH and X509_V_ERR_IP_ADDRESS_MISMATCH


def diagnose(connection: Connection) -> ConnectError | None:
    """The cause of a failed connection; None if the address looks like a gRPC server to which this client can connect.

    Takes a few milliseconds if something answers at the address, and at most some seconds.
    """
    target = connection.target
    if not is_local(target) and any(os.environ.get(name) for name in ("grpc_proxy", "https_proxy", "http_proxy")):
        return None  # gRPC connects through the proxy
    try:
        with _connect(target) as plain:
            return _diagnose_tls(connection, plain) if connection.encrypted else _diagnose_plaintext(connection, plain)
    except socket.gaierror:
        return NoServerError(target, f"the host name is unknown; {_address_cure(target)}")
    except ValueError:
        return NoServerError(target, f"the port is not a number from 0 to 65535; {_address_cure(target)}")
    except OSError as error:
        reason = error.strerror or str(error) or "no answer"
        cure = "start one with `groupconv serve`, or give another address (target, --target)"
        if ":" not in target:
            cure = f"the address has no port, which means 443: give one, as in {target}:50051 (target, --target)"
        return NoServerError(target, f"no server accepts connections there ({reason}); {cure}")


def _address_cure(target: str) -> str:
    """How to write an address that names no host."""
    if target.startswith(("http://", "https://")):
        return f"give host:port, without http, as in {target.partition('//')[2].rstrip('/')} (target, --target)"
    if ":" not in target:
        return f"give host:port, as in {target}:50051 (target, --target)"
    return "give another address (target, --target)"


def _diagnose_plaintext(connection: Connection, plain: socket.socket) -> ConnectError | None:
    try:
        answer = _greeted(plain)
    except TimeoutError:
        return _silent(connection.target)
    if answer[3:4] == bytes((_SETTINGS,)):
        return None
    if answer[:1] == bytes((_TLS_ALERT,)) or (not answer.startswith(b"HTTP/") and _uses_tls(connection.target)):
        cure = "connect with tls=True, or with root_certificates=FILE for a CA of your own (--tls, --ca FILE)"
        return TlsError(connection.target, f"the server uses TLS and this client does not; {cure}")
    return _foreign(connection.target, answer) if answer else _closed(connection.target)


def _diagnose_tls(connection: Connection, plain: socket.socket) -> ConnectError | None:
    target, name = connection.target, connection.server_name or _host_and_port(connection.target)[0]
    context = ssl.create_default_context()
    context.verify_flags &= ~ssl.VERIFY_X509_STRICT  # which gRPC does not set
    roots = pem("root_certificates", connection.root_certificates)
    if roots is not None:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        context.load_verify_locations(cadata=roots.decode("ascii", "ignore"))
    context.set_alpn_protocols(["h2"])
    try:
        with context.wrap_socket(plain, server_hostname=name) as secure:
            answer = _greeted(secure)
    except ssl.SSLCertVerificationError as error:
        if error.verify_code in _WRONG_NAME:
            cure = "connect by a name in the certificate, or give one (server_name=, --server-name)"
            return TlsError(target, f"the server's certificate is not for {name}; {cure}")
        cure = "give the certificate of the CA that signed it (root_certificates=, --ca)"
        return TlsError(target, f"the server's certificate is not trusted ({error.verify_message}); {cure}")
    except ssl.SSLError as error:
        if "CERTIFICATE" not in str(error).upper() and "HANDSHAKE_FAILURE" not in str(error).upper():
            return _not_tls(target)
        return _client_certificate(connection)
    except TimeoutError:
        return _silent(target)
    except OSError:
        return _not_tls(target)
    if answer[3:4] == bytes((_SETTINGS,)):
        return None
    return _client_certificate(connection) if not answer else _foreign(target, answer)


def _not_tls(target: str) -> ConnectError:
    if not _answers_plaintext(target):
        return _closed(target)
    cure = "connect without tls=True and certificates (--tls, --ca), or start the server with --tls-cert and --tls-key"
    return TlsError(target, f"this client uses TLS and the server does not; {cure}")


def _client_certificate(connection: Connection) -> ConnectError:
    cure = "give one that it trusts (client_certificate= and client_key=, --cert and --key)"
    if connection.client_certificate is None:
        return TlsError(connection.target, f"the server requires a certificate of the client; {cure}")
    return TlsError(connection.target, f"the server may not accept the client's certificate; {cure}")


def _foreign(target: str, answer: bytes) -> ConnectError:
    kind = "speaks HTTP/1" if answer.startswith(b"HTTP/") else "does not speak gRPC"
    return ForeignServerError(
        target, f"the server there {kind} and is not groupconv; give another address (target, --target)"
    )


def _closed(target: str) -> ConnectError:
    """A container's port accepts connections before the server in it listens, so this is no `ForeignServerError`."""
    why = "the server behind the port is starting or stopped (as in a container), or it is not groupconv"
    cure = "try again, or give another address (target, --target)"
    return NoServerError(target, f"a connection is accepted there and closed at once: {why}; {cure}")


def _silent(target: str) -> ConnectError:
    """A groupconv server may answer later, so this is no `ForeignServerError`."""
    why = "it is overloaded, hangs or is stopped, or it is not groupconv"
    return NoServerError(target, f"a server accepts connections there and does not answer: {why}")


def _connect(target: str) -> socket.socket:
    scheme, _, path = target.partition(":")
    if scheme in {"unix", "unix-abstract"}:
        path = f"\0{path}" if scheme == "unix-abstract" else unquote(path.removeprefix("//"))
        connection = socket.socket(socket.AF_UNIX)
        try:
            connection.settimeout(SECONDS)
            connection.connect(path)
        except BaseException:
            connection.close()
            raise
        return connection
    return socket.create_connection(_host_and_port(target), SECONDS)


def _host_and_port(target: str) -> tuple[str, int]:
    """Host and port of the first address of a gRPC target.

    Example:
        >>> _host_and_port("dns:///gpu-box:50051"), _host_and_port("ipv6:[::1]:1"), _host_and_port("gpu-box")
        (('gpu-box', 50051), ('::1', 1), ('gpu-box', 443))

    Raises:
        ValueError: the port is not a number from 0 to 65535.
    """
    scheme, colon, rest = target.partition(":")
    if colon and scheme in {"dns", "ipv4", "ipv6"}:
        target = rest.rpartition("/")[2]
    host, colon, port = unquote(target.split(",")[0]).rpartition(":")
    if not colon or port.endswith("]"):
        host, port = unquote(target), "443"
    if not port.isdecimal() or int(port) > 65535:
        raise ValueError(port)
    return host.strip("[]"), int(port)


def _greeted(connected: socket.socket) -> bytes:
    """The first bytes that a server answers to HTTP/2's greeting; none if it closes the connection.

    Raises:
        TimeoutError: it stays silent.
    """
    try:
        connected.sendall(_HELLO)
        return connected.recv(64)
    except (ssl.SSLError, TimeoutError):
        raise
    except OSError:
        return b""


def _answers_plaintext(target: str) -> bool:
    """Whether anything comes back without TLS, or may still come."""
    try:
        with _connect(target) as plain:
            return bool(_greeted(plain))
    except TimeoutError:
        return True
    except OSError:
        return False


def _uses_tls(target: str) -> bool:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    context.set_alpn_protocols(["h2"])
    try:
        with _connect(target) as plain, context.wrap_socket(plain):
            return True
    except OSError as error:  # a server that requires a certificate of the client uses TLS, too
        return isinstance(error, ssl.SSLError) and "ALERT" in str(error).upper()
