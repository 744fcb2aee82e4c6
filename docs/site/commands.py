"""The page of the commands, and docs/flags.md: both are made from the command line itself."""

import re
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import typer

from groupconv_server.cli.app import app
from groupconv_server.settings import PREFIX, Settings

FLAGS = Path(__file__).parents[1] / "flags.md"
INTRODUCTION = f"""# The options of groupconv serve

Made from `server/groupconv_server/settings.py` by `make docs`; a test compares.
Each option is also a variable: `{PREFIX}` and its name in capitals.
A limit that is reached ends a request with RESOURCE_EXHAUSTED ([access.md](access.md#limits)).
"""
GROUPS = {
    "Where it listens": ("host", "port", "processes", "insecure", "tls_", "tokens", "metrics_", "log_"),
    "Workers": ("executor", "workers", "threads", "engine", "ray_", "placement", "worker_", "hedge", "spare_"),
    "Batches": ("max_batch", "max_delay"),
    "Limits": ("concurrency", "queue", "grace", "max_", "stream", "network_stream", "layer_memory"),
    "Layers and shared memory": ("",),
}
"""Headings, and how the names of their options begin. The first that fits has an option; the last has the others."""


def flags_page() -> str:
    """docs/flags.md."""
    parts, left = [INTRODUCTION], dict(Settings.model_fields)
    for heading, beginnings in GROUPS.items():
        rows = [_setting_row(name, left.pop(name)) for name in list(left) if name.startswith(beginnings)]
        parts.append(f"## {heading}\n\n" + _table(("option", "default", "meaning"), rows))
    return "\n".join(parts)


def commands_page() -> str:
    """Every command with its options, their variables and defaults, and its examples."""
    root: Any = typer.main.get_command(app())
    parts = ["# Commands\n\nWhat `groupconv COMMAND --help` says.\n"]
    for name, command in root.commands.items():
        parts += _command(f"groupconv {name}", command)
    return "\n".join(parts)


def _command(name: str, command: Any) -> Iterable[str]:
    yield f"## {name}\n\n{_plain(command.help or '')}\n"
    if hasattr(command, "commands"):
        for sub, inner in command.commands.items():
            yield from _command(f"{name} {sub}", inner)
        return
    rows = [_parameter_row(p) for p in command.params if p.name != "help" and not getattr(p, "hidden", False)]
    yield _table(("option", "variable", "default", "meaning"), rows)
    examples = re.findall(r"^\$ (.*)$", command.epilog or "", re.MULTILINE)
    if examples:
        yield "```sh\n" + "\n".join(examples) + "\n```\n"


def _parameter_row(p: Any) -> tuple[str, ...]:
    names = p.opts if p.param_type_name == "option" else [(p.metavar or p.name).upper()]
    return (
        ", ".join(f"`{name}`" for name in names),
        f"`{p.envvar}`" if p.envvar else "",
        _value(p.default),
        _plain(getattr(p, "help", "") or ""),
    )


def _setting_row(name: str, field: Any) -> tuple[str, ...]:
    return f"`--{name.replace('_', '-')}`", _value(field.default), _plain(field.description)


def _value(default: Any) -> str:
    if default is None or default is False or default == "" or callable(default):
        return ""
    return "on" if default is True else f"`{default}`"


def _plain(text: str) -> str:
    """Text that is no markup: of rich, of Markdown or of a table."""
    escaped = text.replace("\\[", "[").replace("|", "\\|").replace("<", "&lt;").replace("*", "\\*").replace("_", "\\_")
    return escaped.replace("[", "\\[").strip()


def _table(headings: tuple[str, ...], rows: list[tuple[str, ...]]) -> str:
    lines = [headings, ("---",) * len(headings), *rows]
    return "\n".join(f"| {' | '.join(' '.join(cell.split()) for cell in line)} |" for line in lines) + "\n"


if __name__ == "__main__":
    FLAGS.write_text(flags_page())
