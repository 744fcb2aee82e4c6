"""`groupconv serve`: run a server until SIGTERM."""

import logging
from pathlib import Path
from typing import Annotated

import typer

from groupconv_server.config import Config
from groupconv_server.executors import EXECUTORS
from groupconv_server.limits import Limits
from groupconv_worker.engines import ENGINES

NAME = "serve"
EXAMPLES = """Examples:

$ groupconv serve

$ groupconv serve --port 0 --workers 2 --threads 1

$ groupconv serve --executor ray --workers 4

$ groupconv serve --allow-shared-memory --layer-dir layers

$ groupconv serve --host 0.0.0.0 --tls-cert server.pem --tls-key server.key --ray-address auto

$ groupconv serve --metrics-port 9464 --log-format json
"""
MIB = 2**20


def command(
    host: Annotated[str, typer.Option(envvar="GROUPCONV_HOST", help="Address to listen on.")] = "127.0.0.1",
    port: Annotated[
        int, typer.Option(envvar="GROUPCONV_PORT", min=0, max=65535, help="Port to listen on; 0 picks a free one.")
    ] = 50051,
    executor: Annotated[
        str | None,
        typer.Option(
            envvar="GROUPCONV_EXECUTOR",
            help=f"{' or '.join(EXECUTORS)}. Default: ray where --ray-address is given or several GPUs are seen.",
        ),
    ] = None,
    workers: Annotated[
        int | None,
        typer.Option(envvar="GROUPCONV_WORKERS", min=1, help="Default: one per GPU, else one per node, else one."),
    ] = None,
    threads: Annotated[
        int | None,
        typer.Option(envvar="GROUPCONV_THREADS", min=1, help="CPU threads of each worker. Default: its share."),
    ] = None,
    engine: Annotated[
        str,
        typer.Option(envvar="GROUPCONV_ENGINE", help=f"{', '.join(ENGINES)}; auto takes a GPU if there is one."),
    ] = "auto",
    ray_address: Annotated[
        str | None,
        typer.Option(envvar="GROUPCONV_RAY_ADDRESS", help="A running Ray cluster; `auto` finds the one of this host."),
    ] = None,
    insecure: Annotated[
        bool,
        typer.Option("--insecure", envvar="GROUPCONV_INSECURE", help="Listen without TLS where others reach it."),
    ] = False,
    tls_cert: Annotated[
        Path | None,
        typer.Option(envvar="GROUPCONV_TLS_CERT", help="PEM of the server's certificate; read again when it changes."),
    ] = None,
    tls_key: Annotated[
        Path | None, typer.Option(envvar="GROUPCONV_TLS_KEY", help="PEM of its key, without a passphrase.")
    ] = None,
    tls_client_ca: Annotated[
        Path | None,
        typer.Option(
            envvar="GROUPCONV_TLS_CLIENT_CA", help="PEM of authorities: only their clients get in (mutual TLS)."
        ),
    ] = None,
    tokens: Annotated[
        Path | None,
        typer.Option(envvar="GROUPCONV_TOKENS", help="TOML of who may ask (groupconv token); read again on change."),
    ] = None,
    concurrency: Annotated[
        int, typer.Option(envvar="GROUPCONV_CONCURRENCY", min=1, help="Requests worked on at a time.")
    ] = 64,
    queue: Annotated[
        int, typer.Option(envvar="GROUPCONV_QUEUE", min=0, help="Requests that may wait; more are refused at once.")
    ] = 256,
    queue_mib: Annotated[
        int, typer.Option(envvar="GROUPCONV_QUEUE_MIB", min=1, help="Messages of requests that run or wait, together.")
    ] = 2048,
    grace: Annotated[
        float, typer.Option(envvar="GROUPCONV_GRACE", min=0, help="Seconds running requests have after SIGTERM.")
    ] = 30.0,
    max_message_mib: Annotated[
        int, typer.Option(envvar="GROUPCONV_MAX_MESSAGE_MIB", min=1, max=2047, help="Largest request or answer.")
    ] = 512,
    max_tensor_mib: Annotated[
        int, typer.Option(envvar="GROUPCONV_MAX_TENSOR_MIB", min=1, help="Largest output or padded input of a step.")
    ] = 2048,
    max_steps: Annotated[int, typer.Option(envvar="GROUPCONV_MAX_STEPS", min=1, help="Steps of a request.")] = 64,
    stream_mib: Annotated[
        int, typer.Option(envvar="GROUPCONV_STREAM_MIB", min=1, help="That one stream holds: its bands in flight.")
    ] = 256,
    streams_mib: Annotated[
        int,
        typer.Option(envvar="GROUPCONV_STREAMS_MIB", min=1, help="That all streams hold; more are refused at once."),
    ] = 2048,
    stream_total_gib: Annotated[
        int, typer.Option(envvar="GROUPCONV_STREAM_TOTAL_GIB", min=1, help="Feature maps that pass through one stream.")
    ] = 16384,
    stream_idle: Annotated[
        float,
        typer.Option(
            envvar="GROUPCONV_STREAM_IDLE", min=0.001, help="Seconds a stream may send nothing before it ends."
        ),
    ] = 300.0,
    layer_memory_mib: Annotated[
        int,
        typer.Option(envvar="GROUPCONV_LAYER_MEMORY_MIB", min=1, help="Weights of resident layers, on each worker."),
    ] = 1024,
    evict_layers: Annotated[
        bool,
        typer.Option(
            envvar="GROUPCONV_EVICT_LAYERS",
            help="Let the least recently used layers leave when a new one does not fit.",
        ),
    ] = False,
    layer_dir: Annotated[
        Path | None,
        typer.Option(
            envvar="GROUPCONV_LAYER_DIR", help="Keep loaded layers here, and load them at the start.", file_okay=False
        ),
    ] = None,
    allow_shared_memory: Annotated[
        bool,
        typer.Option(
            envvar="GROUPCONV_ALLOW_SHARED_MEMORY",
            help="Let clients of this machine register POSIX shared memory for their tensors.",
        ),
    ] = False,
    metrics_port: Annotated[
        int | None,
        typer.Option(
            envvar="GROUPCONV_METRICS_PORT",
            min=0,
            max=65535,
            help="Port of the metrics, for Prometheus; 0 picks a free one. Default: none are served.",
        ),
    ] = None,
    metrics_host: Annotated[
        str, typer.Option(envvar="GROUPCONV_METRICS_HOST", help="Address of the metrics; they need no token.")
    ] = "127.0.0.1",
    log_format: Annotated[str, typer.Option(envvar="GROUPCONV_LOG_FORMAT", help="console or json.")] = "console",
    log_level: Annotated[
        str | None,
        typer.Option(envvar="GROUPCONV_LOG_LEVEL", help="DEBUG (a line for every request), INFO, WARNING or ERROR."),
    ] = None,
) -> None:
    """Run a server until SIGTERM. When it is ready it prints one line that ends with its address."""
    from groupconv_server.server import Server, serve
    from groupconv_server.telemetry import logs, traces

    logs.configure(log_format, log_level or logging.getLogger().level)

    def ready(server: Server) -> None:
        workers = server.executor.describe()
        engines = ", ".join(dict.fromkeys(w.engine for w in workers))
        count = f"{len(workers)} {server.executor.name} worker{'s' * (len(workers) != 1)}"
        if server.metrics_url:
            typer.echo(f"groupconv shows its metrics on {server.metrics_url}")
        typer.echo(f"groupconv is serving with {count} ({engines}) on {server.address}")

    config = Config(
        host=host,
        port=port,
        executor=executor,
        workers=workers,
        threads=threads,
        engine=engine,
        ray_address=ray_address,
        insecure=insecure,
        tls_cert=tls_cert,
        tls_key=tls_key,
        tls_client_ca=tls_client_ca,
        tokens=tokens,
        concurrency=concurrency,
        queue=queue,
        queue_bytes=queue_mib * MIB,
        grace=grace,
        layer_bytes=layer_memory_mib * MIB,
        evict_layers=evict_layers,
        metrics_host=metrics_host,
        metrics_port=metrics_port,
        layer_dir=layer_dir,
        shared_memory=allow_shared_memory,
        limits=Limits(
            message_bytes=max_message_mib * MIB,
            tensor_bytes=max_tensor_mib * MIB,
            steps=max_steps,
            stream_bytes=stream_mib * MIB,
            streams_bytes=streams_mib * MIB,
            stream_total_bytes=stream_total_gib * 1024 * MIB,
            stream_idle_seconds=stream_idle,
        ),
    )
    traces.configure()
    serve(config, ready)
