"""The settings of `groupconv serve`: one field is one option and one environment variable.

A field has the option's name, type, default, bounds and help; `cli/setting_options.py` makes the options from them. The
variable is GROUPCONV_ and the name in capitals. A program that embeds the server reads it with `Settings.read()`.
"""

from dataclasses import fields
from pathlib import Path
from typing import Any, Self
from urllib.parse import urlsplit

from pydantic import Field, ValidationError, field_validator
from pydantic_core import PydanticCustomError
from pydantic_settings import BaseSettings, SettingsConfigDict

from groupconv.errors import InvalidArgumentError
from groupconv.session import LONGEST_TIMEOUT
from groupconv_server.access.variables import PANEL as ACCESS
from groupconv_server.config import Config
from groupconv_server.coordinator.limits import Limits
from groupconv_server.executors import EXECUTORS
from groupconv_server.executors.placement import STRATEGIES, Placement
from groupconv_server.fronts import MOST, automatic
from groupconv_worker.engines import ENGINES

PREFIX = "GROUPCONV_"
"""Begins the name of every variable."""
MIB, GIB = 2**20, 2**30
_c = Config()


def setting(default: Any, help: str, *, ge: float | None = None, le: float | None = None, **option: Any) -> Any:  # noqa: A002 - typer's name
    """A field of `Settings`.

    Args:
        default: value where neither option nor variable is given.
        help: text of the option.
        ge: lower bound, inclusive.
        le: upper bound, inclusive.
        option: more keywords of typer.Option.
    """
    return Field(default, description=help, ge=ge, le=le, json_schema_extra={"option": option})


class Settings(BaseSettings):
    """What a server is started with, in the units of the command line. Defaults are those of `Config`.

    Example:
        >>> Settings(queue_mib=64, workers="2").config().queue_bytes
        67108864
    """

    model_config = SettingsConfigDict(env_prefix=PREFIX, frozen=True, extra="forbid")

    host: str = setting(_c.host, "Address to listen on.")
    port: int = setting(_c.port, "Port to listen on; 0 picks a free one.", ge=0, le=65535)
    executor: str | None = setting(
        _c.executor,
        f"{' or '.join(EXECUTORS)}. Default: ray where --ray-address is given or several GPUs are seen.",
    )
    workers: str = setting(
        "auto", "A number, or auto: one per GPU, and one on each node without; they follow the cluster."
    )
    threads: int | None = setting(
        _c.threads, "Most CPU threads of a worker; workers of one node share its CPUs. Default: its share.", ge=1
    )
    engine: str = setting(_c.engine, f"{', '.join(ENGINES)}; auto takes a GPU if there is one.")
    ray_address: str | None = setting(_c.ray_address, "A running Ray cluster; `auto` finds the one of this host.")
    placement: str = setting(
        _c.placement.strategy, f"How a number of workers is placed on nodes: {', '.join(STRATEGIES)}."
    )
    worker_gpus: float = setting(
        _c.placement.gpus,
        "GPUs for each worker, on nodes with GPUs; 0.5 puts two workers on a GPU, each with half of its memory.",
        ge=0.01,
        le=1024,
    )
    worker_resources: str = setting("", "Ray's custom resources that each worker takes: name=1,other=2")
    worker_labels: str = setting("", "Labels that the Ray node of a worker must have: zone=a,rack=b")
    hedge: float | None = setting(
        _c.hedge,
        "Seconds after which a late shard also goes to a second worker; the first answer counts. Default: never.",
        ge=0.01,
        le=LONGEST_TIMEOUT,
    )
    spare_workers: int | None = setting(
        _c.spare_workers,
        "Idle Ray workers on each node without GPUs; one of them replaces a worker that is lost. "
        "Default: 1, or 0 with --ray-address.",
        ge=0,
        le=64,
    )
    processes: str = setting(
        str(_c.processes),
        "Processes that take requests on the port: a number, or auto, one for each two cores.",
    )
    insecure: bool = setting(
        _c.insecure,
        "Allow an address that other machines reach, without TLS.",
        flags=["--insecure"],
        rich_help_panel=ACCESS,
    )
    tls_cert: Path | None = setting(
        _c.tls_cert, "PEM of the server's certificate; read again when it changes.", rich_help_panel=ACCESS
    )
    tls_key: Path | None = setting(_c.tls_key, "PEM of its key, without a passphrase.", rich_help_panel=ACCESS)
    tls_client_ca: Path | None = setting(
        _c.tls_client_ca,
        "PEM of authorities; clients then need a certificate of theirs (mutual TLS).",
        rich_help_panel=ACCESS,
    )
    tokens: Path | None = setting(
        _c.tokens,
        "TOML file of the tokens that callers need (groupconv token); read again when it changes.",
        rich_help_panel=ACCESS,
    )
    concurrency: int = setting(_c.concurrency, "Most requests that run at a time.", ge=1)
    queue: int = setting(_c.queue, "Most requests that wait; further ones are refused at once.", ge=0)
    queue_mib: int = setting(_c.queue_bytes // MIB, "Most memory of the requests that run or wait, in MiB.", ge=1)
    grace: float = setting(_c.grace, "Seconds that running requests have after SIGTERM.", ge=0, le=LONGEST_TIMEOUT)
    max_message_mib: int = setting(_c.limits.message_bytes // MIB, "Largest request or answer, in MiB.", ge=1, le=2047)
    max_tensor_mib: int = setting(
        _c.limits.tensor_bytes // MIB, "Largest output or padded input of a step, in MiB.", ge=1
    )
    max_steps: int = setting(_c.limits.steps, "Most steps of a request.", ge=1)
    stream_mib: int = setting(_c.limits.stream_bytes // MIB, "Most memory of the bands of one stream, in MiB.", ge=1)
    streams_mib: int = setting(
        _c.limits.streams_bytes // MIB, "Most memory of all streams, in MiB; further streams are refused at once.", ge=1
    )
    network_stream_mib: int = setting(
        _c.limits.network_stream_bytes // MIB,
        "Most memory of the windows of one stream through a network in a process, in MiB; an estimate.",
        ge=1,
    )
    stream_total_gib: int = setting(
        _c.limits.stream_total_bytes // GIB, "Most data of the feature maps of one stream, in GiB.", ge=1
    )
    stream_idle: float = setting(
        _c.limits.stream_idle_seconds,
        "Seconds after which a stream that sends nothing ends.",
        ge=0.001,
        le=LONGEST_TIMEOUT,
    )
    layer_memory_mib: int = setting(
        _c.layer_bytes // MIB, "Most memory of resident layers, in MiB, on the server and on each worker.", ge=1
    )
    evict_layers: bool = setting(_c.evict_layers, "Unload the least recently used layers when a new one does not fit.")
    layer_dir: Path | None = setting(
        _c.layer_dir, "Folder that keeps loaded layers, which are loaded again at the start.", file_okay=False
    )
    allow_shared_memory: bool = setting(
        _c.shared_memory, "Let clients on this machine pass tensors in POSIX shared memory."
    )
    max_batch: int = setting(
        _c.max_batch,
        "Most waiting requests that run as one, where measurements show a benefit; 1 joins none.",
        ge=1,
        le=128,
    )
    max_delay_us: int = setting(
        _c.max_delay_us,
        "Microseconds for which a request that had to wait also waits for others to join it.",
        ge=0,
    )
    metrics_port: int | None = setting(
        _c.metrics_port,
        "HTTP port of /metrics, /healthz and /readyz; 0 picks a free one. Default: no such port.",
        ge=0,
        le=65535,
    )
    metrics_host: str = setting(_c.metrics_host, "Address on which --metrics-port listens; its pages need no token.")
    web_port: int | None = setting(
        _c.web_port,
        "HTTP port of gRPC-Web, Connect and the page; 0 picks a free one. Default: none.",
        ge=0,
        le=65535,
    )
    web_origins: str = setting("", "Sites whose pages may call the web port: https://a.example,https://b.example")
    log_format: str = setting("console", "console or json.")
    log_level: str | None = setting(None, "DEBUG (a line for every request), INFO, WARNING or ERROR.")

    @classmethod
    def read(cls, **given: Any) -> Self:
        """The given settings, and the others from the environment.

        Raises:
            InvalidArgumentError: naming the option and the variable, what was expected and what came.

        Example:
            >>> Settings.read(port=70000)
            Traceback (most recent call last):
            ...
            groupconv.errors.InvalidArgumentError: --port or GROUPCONV_PORT: expected a value less than or equal to
            65535, got 70000
        """
        try:
            return cls(**given)
        except ValidationError as error:
            wrong = error.errors()[0]
            expected = wrong["msg"].removeprefix("Input should be ")
            if expected.startswith(("greater", "less")):
                expected = f"a value {expected}"
            raise _invalid(str(wrong["loc"][0]), expected, wrong["input"]) from None

    @field_validator("layer_dir", mode="before")
    @classmethod
    def _named(cls, value: object) -> object:
        """Refuse what a template without a value leaves: layers would be kept in the folder where the server starts."""
        if value is not None and not str(value).strip():
            raise PydanticCustomError("folder", "Input should be the path of a folder")
        return value

    def config(self) -> Config:
        """The same settings as the server wants them: in bytes, as pairs, as a placement.

        Raises:
            InvalidArgumentError: naming the option and the variable, what was expected and what came.
        """
        same = {f.name: getattr(self, f.name) for f in fields(Config) if f.name in type(self).model_fields}
        converted = {
            "workers": self._workers(),
            "processes": self._processes(),
            "placement": Placement(
                strategy=self.placement,
                gpus=self.worker_gpus,
                resources={name: _amount(name, value) for name, value in self._pairs("worker_resources")},
                labels=dict(self._pairs("worker_labels")),
            ),
            "queue_bytes": self.queue_mib * MIB,
            "layer_bytes": self.layer_memory_mib * MIB,
            "shared_memory": self.allow_shared_memory,
            "web_origins": self._origins(),
            "limits": Limits(
                message_bytes=self.max_message_mib * MIB,
                tensor_bytes=self.max_tensor_mib * MIB,
                steps=self.max_steps,
                stream_bytes=self.stream_mib * MIB,
                streams_bytes=self.streams_mib * MIB,
                network_stream_bytes=self.network_stream_mib * MIB,
                stream_total_bytes=self.stream_total_gib * GIB,
                stream_idle_seconds=self.stream_idle,
            ),
        }
        return Config(**same | converted)

    def _workers(self) -> int | None:
        if self.workers == "auto":
            return None
        if not self.workers.isdecimal() or int(self.workers) < 1:
            raise _invalid("workers", "auto or a number from 1", self.workers)
        return int(self.workers)

    def _origins(self) -> tuple[str, ...]:
        origins = tuple(part.strip() for part in self.web_origins.split(",") if part.strip())
        for origin in origins:
            parts = urlsplit(origin)
            if parts.scheme not in ("http", "https") or origin != f"{parts.scheme}://{parts.netloc}" or "@" in origin:
                raise _invalid("web_origins", "https://host or https://host:port, several with commas between", origin)
        return origins

    def _processes(self) -> int:
        if self.processes == "auto":
            return automatic()
        if not self.processes.isdecimal() or not 1 <= int(self.processes) <= MOST:
            raise _invalid("processes", f"auto or a number from 1 to {MOST}", self.processes)
        return int(self.processes)

    def _pairs(self, name: str) -> list[tuple[str, str]]:
        """The pairs of a setting like `a=1,b=2`."""
        text = getattr(self, name)
        pairs = [(key, value) for key, _, value in (pair.partition("=") for pair in text.split(",") if pair)]
        if not all(key and value for key, value in pairs):
            raise _invalid(name, "name=value, several with commas between", text)
        return pairs


def _amount(name: str, value: str) -> float:
    try:
        amount = float(value)
    except ValueError:
        amount = 0.0
    if not 0 < amount < float("inf"):
        raise _invalid("worker_resources", f"an amount above 0 of {name}", value)
    return amount


def _invalid(name: str, expected: str, got: object) -> InvalidArgumentError:
    return InvalidArgumentError(f"--{name.replace('_', '-')} or {PREFIX}{name.upper()}", expected, got)
