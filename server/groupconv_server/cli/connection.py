"""The options of every command that calls a server: its address, and how to connect."""

import functools
import inspect
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import typer

import groupconv
from groupconv.errors import InvalidArgumentError
from groupconv.transport.bounded import SMALL, read_at_most
from groupconv.transport.channel import Connection
from groupconv_server.access import options as access

DEFAULT_TARGET = "localhost:50051"


OptionalTarget = Annotated[
    str | None,
    typer.Option("--target", "-t", help="A running server. Default: the command starts one with two workers."),
]


@dataclass(frozen=True)
class Endpoint:
    """A server's address and how to connect, from the options.

    Attributes:
        target: host:port or unix:path.
        options: keywords of `groupconv.connect`.
    """

    target: str
    options: dict[str, Any]

    def connect(self, timeout: float | None = 300.0) -> groupconv.Client:
        """A client."""
        return groupconv.connect(self.target, timeout=timeout, **self.options)

    def connection(self) -> Connection:
        """The arguments of a bare channel."""
        return Connection(self.target, **self.options)


def _flags(
    target: Annotated[
        str | None,
        typer.Option("--target", "-t", envvar="GROUPCONV_TARGET", help="The server: host:port or unix:path."),
    ] = DEFAULT_TARGET,
    token: Annotated[
        str | None,
        access.option(
            envvar="GROUPCONV_TOKEN",
            help="Bearer token. Other users of this machine can see options; prefer the variable or --token-file.",
        ),
    ] = None,
    token_file: Annotated[
        Path | None,
        access.option(envvar="GROUPCONV_TOKEN_PATH", help="File that holds the token.", exists=True, dir_okay=False),
    ] = None,
    tls: Annotated[bool, access.option(envvar="GROUPCONV_TLS", help="Use TLS, and trust the system's authorities.")] = (
        False
    ),
    ca: Annotated[
        Path | None,
        access.option(envvar="GROUPCONV_CA", help="PEM file of authorities to trust instead; implies --tls."),
    ] = None,
    cert: Annotated[
        Path | None, access.option(envvar="GROUPCONV_CERT", help="PEM file of this client's certificate (mutual TLS).")
    ] = None,
    key: Annotated[Path | None, access.option(envvar="GROUPCONV_KEY", help="PEM file of the key of --cert.")] = None,
    server_name: Annotated[
        str | None,
        access.option(
            envvar="GROUPCONV_SERVER_NAME", help="Name in the server's certificate, if the target has another."
        ),
    ] = None,
    plaintext_token: Annotated[
        bool,
        access.option(
            "--plaintext-token",
            envvar="GROUPCONV_PLAINTEXT_TOKEN",
            help="Allow a token without TLS, readable on the network.",
        ),
    ] = False,
) -> Endpoint | None:
    if target is None:
        return None
    if token_file is not None:
        token = read_at_most(token_file, SMALL, "--token-file", "a token").decode(errors="replace").strip()
        if not token:
            raise InvalidArgumentError("--token-file", "a file that holds a token", f"{token_file}, which is empty")
    options = {
        "token": token,
        "tls": tls,
        "root_certificates": ca,
        "client_certificate": cert,
        "client_key": key,
        "server_name": server_name,
        "allow_plaintext_token": plaintext_token,
    }
    return Endpoint(target, options)


def with_endpoint(command: Callable[..., Any]) -> Callable[..., Any]:
    """A command whose parameter `endpoint` is made from options. If its default is None, so is that of --target."""
    signature = inspect.signature(command)
    flags = dict(inspect.signature(_flags).parameters)
    if signature.parameters["endpoint"].default is None:
        flags["target"] = flags["target"].replace(default=None, annotation=OptionalTarget)

    @functools.wraps(command)
    def run(**given: Any) -> Any:
        endpoint = _flags(**{name: given.pop(name) for name in flags})
        return command(endpoint=endpoint, **given)

    own = [p for p in signature.parameters.values() if p.name != "endpoint"]
    parameters = [p.replace(kind=inspect.Parameter.KEYWORD_ONLY) for p in (*own, *flags.values())]
    run.__signature__ = signature.replace(parameters=parameters)  # type: ignore[attr-defined]
    run.__annotations__ = {p.name: p.annotation for p in parameters}
    return run
