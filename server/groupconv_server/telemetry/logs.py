"""Logs: one event a line, as JSON or for people, each with the id of the request it belongs to.

Modules log with the standard library; `extra=` becomes fields. Only this file imports structlog, which formats the
lines (docs/adr/0006-structlog.md).
"""

import logging
import re
import sys
from typing import TextIO

import structlog
from structlog.typing import EventDict, Processor, WrappedLogger

from groupconv.errors import InvalidArgumentError
from groupconv_server.telemetry.request import current

FORMATS = ("console", "json")
_CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f\u2028\u2029]")


def configure(form: str, level: str | int, stream: TextIO | None = None) -> None:
    """Write the logs of this process to `stream`, standard error by default.

    Args:
        form: of `FORMATS`.
        level: DEBUG, INFO, WARNING, …; DEBUG has a line for every request.
        stream: to write to.

    Raises:
        InvalidArgumentError: an unknown format or level.
    """
    if form not in FORMATS:
        raise InvalidArgumentError("log_format", f"one of {', '.join(FORMATS)}", form)
    if isinstance(level, str) and level.upper() not in logging.getLevelNamesMapping():
        raise InvalidArgumentError("log_level", "DEBUG, INFO, WARNING or ERROR", level)
    stream = stream or sys.stderr
    facts: list[Processor] = [
        structlog.stdlib.add_log_level,
        structlog.stdlib.add_logger_name,
        structlog.stdlib.ExtraAdder(),
        structlog.processors.TimeStamper(fmt="iso", utc=True),
        _of_request,
        _without_blanks,
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


def _on_one_line(_: WrappedLogger, __: str, event: EventDict) -> EventDict:
    """Escape control characters that callers sent: no text begins a line or moves the cursor. JSON does so itself."""
    for key, value in event.items():
        if isinstance(value, str):
            event[key] = _CONTROL.sub(lambda found: repr(found.group())[1:-1], value)
    return event
