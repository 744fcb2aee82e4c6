"""`groupconv serve`: run a server until SIGTERM."""

import logging
from pathlib import Path
from typing import Annotated

import typer

from groupconv.errors import InvalidArgumentError
from groupconv_server.cli import access
from groupconv_server.config import Config
from groupconv_server.coordinator.limits import Limits
from groupconv_server.executors import EXECUTORS
from groupconv_server.executors.placement import STRATEGIES, Placement
from groupconv_worker.engines import ENGINES

NAME = "serve"
EXAMPLES = """Examples:

$ groupconv serve

$ groupconv serve --port 0 --workers 2 --threads 1

$ groupconv serve --executor ray --workers 4

$ groupconv serve --ray-address auto --workers auto --worker-gpus 0.5 --worker-labels zone=a

$ groupconv serve --allow-shared-memory --layer-dir layers

$ groupconv serve --executor ray --max-batch 8

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
        str,
        typer.Option(
            envvar="GROUPCONV_WORKERS",
            help="A number, or auto: one per GPU, and one on each node without; they follow the cluster.",
        ),
    ] = "auto",
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
    placement: Annotated[
        str,
        typer.Option(envvar="GROUPCONV_PLACEMENT", help=f"Where a number of workers goes: {', '.join(STRATEGIES)}."),
    ] = "spread",
    worker_gpus: Annotated[
        float,
        typer.Option(
            envvar="GROUPCONV_WORKER_GPUS",
            min=0.01,
            help="GPUs of each worker, where there are any; 0.5 is two on one, each with half of its memory.",
        ),
    ] = 1.0,
    worker_resources: Annotated[
        str,
        typer.Option(envvar="GROUPCONV_WORKER_RESOURCES", help="Ray's custom resources that each takes: name=1,…"),
    ] = "",
    worker_labels: Annotated[
        str, typer.Option(envvar="GROUPCONV_WORKER_LABELS", help="Labels that its Ray node must have: zone=a,…")
    ] = "",
    hedge: Annotated[
        float | None,
        typer.Option(
            envvar="GROUPCONV_HEDGE",
            min=0.01,
            help="Seconds after which a late shard is sent to a second worker too; the first answer counts. "
            "Default: never.",
        ),
    ] = None,
    insecure: Annotated[
        bool,
        access.option("--insecure", envvar="GROUPCONV_INSECURE", help="Listen without TLS where others reach it."),
    ] = False,
    tls_cert: Annotated[
        Path | None,
        access.option(envvar="GROUPCONV_TLS_CERT", help="PEM of the server's certificate; read again when it changes."),
    ] = None,
    tls_key: Annotated[
        Path | None, access.option(envvar="GROUPCONV_TLS_KEY", help="PEM of its key, without a passphrase.")
    ] = None,
    tls_client_ca: Annotated[
        Path | None,
        access.option(
            envvar="GROUPCONV_TLS_CLIENT_CA", help="PEM of authorities: only their clients get in (mutual TLS)."
        ),
    ] = None,
    tokens: Annotated[
        Path | None,
        access.option(envvar="GROUPCONV_TOKENS", help="TOML of who may ask (groupconv token); read again on change."),
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
    max_batch: Annotated[
        int,
        typer.Option(
            envvar="GROUPCONV_MAX_BATCH",
            min=1,
            max=128,
            help="Waiting requests that are run as one, where that is measured to pay; 1 joins none.",
        ),
    ] = 1,
    max_delay_us: Annotated[
        int,
        typer.Option(
            envvar="GROUPCONV_MAX_DELAY_US",
            min=0,
            help="Microseconds more that a request that had to wait may wait for others to join it.",
        ),
    ] = 0,
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
        workers=_count(workers),
        threads=threads,
        engine=engine,
        ray_address=ray_address,
        placement=Placement(
            strategy=placement,
            gpus=worker_gpus,
            resources={name: _amount(name, value) for name, value in _pairs("worker_resources", worker_resources)},
            labels=dict(_pairs("worker_labels", worker_labels)),
        ),
        hedge=hedge,
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
        max_batch=max_batch,
        max_delay_us=max_delay_us,
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


def _count(workers: str) -> int | None:
    if workers == "auto":
        return None
    if not workers.isdigit() or int(workers) < 1:
        raise InvalidArgumentError("workers", "auto or a number from 1", workers)
    return int(workers)


def _pairs(field: str, text: str) -> list[tuple[str, str]]:
    """`a=1,b=2` as pairs."""
    pairs = [(name, value) for name, _, value in (pair.partition("=") for pair in text.split(",") if pair)]
    if not all(name and value for name, value in pairs):
        raise InvalidArgumentError(field, "name=value, several with commas between", text)
    return pairs


def _amount(name: str, value: str) -> float:
    try:
        amount = float(value)
    except ValueError:
        amount = 0.0
    if not 0 < amount < float("inf"):
        raise InvalidArgumentError("worker_resources", f"an amount above 0 of {name}", value)
    return amount
