"""Every field of the configuration is a flag and a variable, and the documented limits are the real ones."""

import re
from dataclasses import fields
from pathlib import Path
from typing import get_args, get_type_hints

import pytest
import typer
from typer.testing import CliRunner

from groupconv_server.cli import app, serve
from groupconv_server.config import Config
from groupconv_server.coordinator.limits import Limits

SERVE = typer.main.get_command(app).commands["serve"]
TYPES = get_type_hints(serve.command)
DOCUMENT = (Path(__file__).parents[2] / "docs" / "access.md").read_text()
OTHER = {"executor": "local", "engine": "reference", "log_format": "json", "log_level": "ERROR", "metrics_host": "::1"}
OTHER |= {"workers": "3", "placement": "pack", "worker_resources": "disk=2", "worker_labels": "zone=a"}


def other_value(parameter, folder: Path) -> str:
    """A value that is not the default."""
    if parameter.name in OTHER:
        return OTHER[parameter.name]
    hint = TYPES[parameter.name]
    kind = next(t for t in get_args(hint) or (hint,) if t is not type(None))
    if kind in (int, float):
        return str(kind((parameter.default or 0) + 1))
    return {bool: "true", Path: str(folder / parameter.name), str: "other"}[kind]


def test_every_field_is_set_by_a_variable(tmp_path, monkeypatch):
    variables = {p.envvar: other_value(p, tmp_path) for p in SERVE.params if p.name != "help"}
    taken = []
    monkeypatch.setattr("groupconv_server.server.serve", lambda config, ready: taken.append(config))
    monkeypatch.setattr("groupconv_server.telemetry.logs.configure", lambda *_: None)
    monkeypatch.setattr("groupconv_server.telemetry.traces.configure", lambda *_: None)
    ran = CliRunner().invoke(app, ["serve"], env=variables)
    assert ran.exit_code == 0, ran.output
    (config,) = taken
    same = [f.name for f in fields(Config) if getattr(config, f.name) == getattr(Config(), f.name)]
    same += [f.name for f in fields(Limits) if getattr(config.limits, f.name) == getattr(Limits(), f.name)]
    assert not same, f"no flag and variable of `groupconv serve` sets {same}"


def test_the_defaults_of_the_flags_are_those_of_the_configuration(monkeypatch):
    taken = []
    monkeypatch.setattr("groupconv_server.server.serve", lambda config, ready: taken.append(config))
    monkeypatch.setattr("groupconv_server.telemetry.logs.configure", lambda *_: None)
    monkeypatch.setattr("groupconv_server.telemetry.traces.configure", lambda *_: None)
    assert CliRunner().invoke(app, ["serve"], env={p.envvar: None for p in SERVE.params}).exit_code == 0
    assert taken == [Config()]


@pytest.mark.parametrize("parameter", [p for p in SERVE.params if p.name != "help"], ids=lambda p: p.name)
def test_every_flag_has_a_variable_of_its_name(parameter):
    assert parameter.envvar == "GROUPCONV_" + parameter.name.upper()


def test_the_documented_limits_are_those_of_the_command():
    section = DOCUMENT[DOCUMENT.index("## Limits") :]
    rows = re.findall(r"^\| [^|]+ \| `--([a-z-]+)` \| `([A-Z_]+)` \| ([\d.]+) \|$", section, re.MULTILINE)
    parameters = {p.name.replace("_", "-"): p for p in SERVE.params}
    assert len(rows) > 10
    for flag, variable, default in rows:
        assert (parameters[flag].envvar, str(parameters[flag].default)) == (variable, default)
    sized = {
        p.name.replace("_", "-")
        for p in SERVE.params
        if p.name.endswith(("_mib", "_gib")) or p.name.startswith(("max_", "stream", "queue"))
    }
    assert sized <= {flag for flag, *_ in rows}


def test_every_limit_is_finite():
    values = [getattr(Limits(), f.name) for f in fields(Limits)]
    assert all(
        0 < value < float("inf") for value in [*values, Config().queue, Config().queue_bytes, Config().layer_bytes]
    )
