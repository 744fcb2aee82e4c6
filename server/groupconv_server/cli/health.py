"""`groupconv health`: is a server ready?"""

from typing import Annotated

import grpc
import typer
from grpc_health.v1 import health_pb2, health_pb2_grpc

from groupconv.errors import UnavailableError
from groupconv.transport.channel import from_rpc_error
from groupconv.transport.diagnosis import diagnose
from groupconv_server.cli.connection import Endpoint
from groupconv_server.cli.options import TimeoutOption

EXAMPLES = """Examples:

$ groupconv health

$ groupconv health --target gpu-box:50051 --service groupconv.v1.ConvolutionService
"""


def command(
    endpoint: Endpoint,
    service: Annotated[str, typer.Option(help="One service by its full name. Default: the server as a whole.")] = "",
    timeout: TimeoutOption = 3.0,
) -> None:
    """Check a server through gRPC's health service; exit code 0 if it is serving, else 1."""
    connection = endpoint.connection()
    with connection.open() as channel:
        try:
            answer = health_pb2_grpc.HealthStub(channel).Check(  # type: ignore[attr-defined]
                health_pb2.HealthCheckRequest(service=service), timeout=timeout
            )
        except grpc.RpcError as rpc_error:
            error = from_rpc_error(rpc_error)
            raise (diagnose(connection) if isinstance(error, UnavailableError) else None) or error from None
    name = health_pb2.HealthCheckResponse.ServingStatus.Name(answer.status)
    if answer.status != health_pb2.HealthCheckResponse.SERVING:
        raise UnavailableError(f"{endpoint.target} says {name}")
    typer.echo(name)
