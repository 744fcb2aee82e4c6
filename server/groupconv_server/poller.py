"""Which threads of gRPC read sockets: a variable that gRPC reads when it is imported."""

import os
from importlib.metadata import version

POLLER = "GRPC_EXPERIMENTS", "-event_engine_poller_for_python"
"""The variable and its value, with which the thread that takes a server's events reads its sockets, too."""


def choose_poller() -> None:
    """Have gRPC read sockets in fewer threads, unless the caller has set the variable. Call it before gRPC is imported.

    Else threads of gRPC read the sockets and pass each piece of a message on (docs/adr/0014). From 1.83 on gRPC has no
    choice.
    """
    major, minor = version("grpcio").split(".")[:2]
    if (int(major), int(minor)) < (1, 83):
        os.environ.setdefault(*POLLER)


def forget_poller() -> None:
    """Take the value away again. Ray has a gRPC of its own, which does not know it and logs an error."""
    variable, value = POLLER
    if os.environ.get(variable) == value:
        del os.environ[variable]
