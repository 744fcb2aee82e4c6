"""Logs: one event a line, as JSON or for people, each with the id of the request it belongs to.

Modules log with the standard library; `extra=` becomes fields. Only this file imports structlog, which formats the
lines (docs/adr/0006-structlog.md).
"""

import faulthandler
import logging
import re
import sys
import threading
from types import TracebackType
from typing import TextIO

import structlog
from structlog.typing import EventDict, Processor, WrappedLogger

from groupconv.errors import InvalidArgumentError
from groupconv_server.telemetry import foreign_lines
from groupconv_server.telemetry.foreign_lines import Output
from groupconv_server.telemetry.request import current

FORMATS = ("console", "json")
log = logging.getLogger(__name__)
_CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f\u2028\u2029]")


def configure(form: str, level: str | int, stream: TextIO | Output | None = None) -> None:
    """Write the logs of this process to `stream`, standard error by default.

    Args:
        form: of `FORMATS`.
        level: DEBUG, INFO, WARNING, …; DEBUG has a line for every request.
        stream: to write to. If it is None and the format is json, whatever else the process and its children write to
            standard output and error comes as JSON lines, too.

    Raises:
        InvalidArgumentError: an unknown format or level.
    """
    if form not in FORMATS:
        raise InvalidArgumentError("log_format", f"one of {', '.join(FORMATS)}", form)
    if isinstance(level, str) and level.upper() not in logging.getLevelNamesMapping():
        raise InvalidArgumentError("log_level", "DEBUG, INFO, WARNING or ERROR", level)
    if stream is None and sys.stderr is sys.__stderr__:  # it is the process's own, and not one that a test put there
        _report_crashes()
        stream = foreign_lines.capture() if form == "json" else None
    stream = stream or sys.stderr
    facts: list[Processor] = [
        structlog.stdlib.add_log_level,
        structlog.stdlib.add_logger_name,
        structlog.stdlib.ExtraAdder(),
        structlog.processors.TimeStamper(fmt="iso", utc=True),
        _of_request,
        _without_blanks,
        _without_rays,
    ]
    draw: list[Processor] = [structlog.processors.format_exc_info, structlog.processors.JSONRenderer()]
    if form == "console":
        # structlog's own tracebacks show variables, and with them what callers sent
        plain = structlog.dev.plain_traceback
        draw = [_on_one_line, structlog.dev.ConsoleRenderer(colors=stream.isatty(), exception_formatter=plain)]
    handler = logging.StreamHandler(stream)
    handler.setFormatter(
        structlog.stdlib.ProcessorFormatter(
            foreign_pre_chain=facts, processors=[structlog.stdlib.ProcessorFormatter.remove_processors_meta, *draw]
        )
    )
    logging.basicConfig(level=level.upper() if isinstance(level, str) else level, handlers=[handler], force=True)


def _of_request(_: WrappedLogger, __: str, event: EventDict) -> EventDict:
    request = current.get()
    if request is not None:
        event.setdefault("request_id", request.id)
    return event


def _without_blanks(_: WrappedLogger, __: str, event: EventDict) -> EventDict:
    return {key: value for key, value in event.items() if value not in ("", None)}


def _without_rays(_: WrappedLogger, __: str, event: EventDict) -> EventDict:
    """Drop the field that Ray adds to every log record of the process."""
    event.pop("_ray_timestamp_ns", None)
    return event


def _on_one_line(_: WrappedLogger, __: str, event: EventDict) -> EventDict:
    """Escape control characters that callers sent: no text begins a line or moves the cursor. JSON does so itself."""
    for key, value in event.items():
        if isinstance(value, str):
            event[key] = _CONTROL.sub(lambda character: repr(character.group())[1:-1], value)
    return event


def _report_crashes() -> None:
    """Log warnings and exceptions that nobody caught, and have a crash show where each thread was."""
    logging.captureWarnings(capture=True)
    faulthandler.enable()

    def of_main(kind: type[BaseException], error: BaseException, traceback: TracebackType | None) -> None:
        if issubclass(kind, KeyboardInterrupt):
            return
        log.critical("uncaught exception", exc_info=(kind, error, traceback))

    def of_thread(caught: threading.ExceptHookArgs) -> None:
        if caught.exc_type is SystemExit or caught.exc_value is None:
            return
        name = caught.thread.name if caught.thread else "unknown"
        exc_info = (caught.exc_type, caught.exc_value, caught.exc_traceback)
        log.error("uncaught exception in thread %s", name, exc_info=exc_info)

    def of_destructor(caught: "sys.UnraisableHookArgs") -> None:
        error = caught.exc_value
        exc_info = None if error is None else (caught.exc_type, error, caught.exc_traceback)
        log.error("%s: %r", caught.err_msg or "exception ignored in", caught.object, exc_info=exc_info)

    sys.excepthook, threading.excepthook, sys.unraisablehook = of_main, of_thread, of_destructor
