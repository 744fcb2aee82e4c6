"""Every field of the configuration is an option and a variable, and the documented limits are the real ones."""

import re
from dataclasses import fields
from pathlib import Path
from typing import get_args, get_type_hints

import pytest
import typer
from typer.testing import CliRunner

from groupconv.errors import FailedPreconditionError, InvalidArgumentError
from groupconv_server.cli import serve
from groupconv_server.cli.app import app
from groupconv_server.config import Config
from groupconv_server.coordinator.limits import Limits
from groupconv_server.server import Server
from groupconv_server.settings import Settings

SERVE = typer.main.get_command(app()).commands["serve"]
TYPES = get_type_hints(serve.command)
DOCUMENT = (Path(__file__).parents[2] / "docs" / "access.md").read_text()
OTHER = {"executor": "local", "engine": "reference", "log_format": "json", "log_level": "ERROR", "metrics_host": "::1"}
OTHER |= {"workers": "3", "placement": "pack", "worker_resources": "disk=2", "worker_labels": "zone=a"}
OTHER |= {"web_origins": "https://lab.example"}
OTHER |= {"processes": "2"}


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
    monkeypatch.setattr("groupconv_server.process.serve", lambda config, *_: taken.append(config))
    monkeypatch.setattr("groupconv_server.telemetry.logs.configure", lambda *_: None)
    monkeypatch.setattr("groupconv_server.telemetry.traces.configure", lambda *_: None)
    ran = CliRunner().invoke(app(), ["serve"], env=variables)
    assert ran.exit_code == 0, ran.output
    (config,) = taken
    same = [f.name for f in fields(Config) if getattr(config, f.name) == getattr(Config(), f.name)]
    same += [f.name for f in fields(Limits) if getattr(config.limits, f.name) == getattr(Limits(), f.name)]
    assert not same, f"no flag and variable of `groupconv serve` sets {same}"


def test_the_defaults_of_the_flags_are_those_of_the_configuration(monkeypatch):
    taken = []
    monkeypatch.setattr("groupconv_server.process.serve", lambda config, *_: taken.append(config))
    monkeypatch.setattr("groupconv_server.telemetry.logs.configure", lambda *_: None)
    monkeypatch.setattr("groupconv_server.telemetry.traces.configure", lambda *_: None)
    assert CliRunner().invoke(app(), ["serve"], env={p.envvar: None for p in SERVE.params}).exit_code == 0
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


@pytest.fixture
def no_variables(monkeypatch):
    """No setting in the environment."""
    for name in Settings.model_fields:
        monkeypatch.delenv(f"GROUPCONV_{name.upper()}", raising=False)


def test_a_program_reads_the_variables_that_it_does_not_give(no_variables, monkeypatch):
    monkeypatch.setenv("GROUPCONV_PORT", "50077")
    monkeypatch.setenv("GROUPCONV_QUEUE_MIB", "3")
    monkeypatch.setenv("GROUPCONV_WORKERS", "2")
    config = Settings.read(workers="5").config()
    assert (config.port, config.queue_bytes, config.workers) == (50077, 3 * 2**20, 5)


@pytest.mark.parametrize(
    ("name", "value", "expected"),
    [
        ("port", "70000", "expected a value less than or equal to 65535"),
        ("port", "http", "expected a valid integer"),
        ("grace", "nan", "expected a value less than or equal to 100000000"),
        ("grace", "inf", "expected a value less than or equal to 100000000"),
        ("stream_idle", "1e10", "expected a value less than or equal to 100000000"),
        ("hedge", "inf", "expected a value less than or equal to 100000000"),
        ("threads", "", "expected a valid integer"),
        ("insecure", "maybe", "expected a valid boolean"),
        ("layer_dir", "", "expected the path of a folder"),
        ("layer_dir", " ", "expected the path of a folder"),
        ("workers", "²", "expected auto or a number from 1"),
        ("processes", "²", "expected auto or a number from 1"),
        ("workers", "0", "expected auto or a number from 1"),
        ("worker_resources", "disk", "expected name=value"),
        ("worker_resources", "disk=-1", "expected an amount above 0 of disk"),
        ("worker_labels", "=a", "expected name=value"),
    ],
)
def test_a_bad_value_names_option_and_variable(no_variables, monkeypatch, name, value, expected):
    variable = f"GROUPCONV_{name.upper()}"
    monkeypatch.setenv(variable, value)
    with pytest.raises(InvalidArgumentError) as bad:
        Settings.read().config()
    message = str(bad.value)
    assert message.startswith(f"--{name.replace('_', '-')} or {variable}: {expected}")
    assert message.rpartition("got ")[2].strip("'") == (value.partition("=")[2] if "amount" in expected else value)


def test_empty_variables_of_a_program_admit_nobody(no_variables, monkeypatch):
    monkeypatch.setenv("GROUPCONV_TOKENS", "")
    with pytest.raises(FailedPreconditionError, match="tokens"):
        Server(Settings.read(port=0).config())


@pytest.mark.parametrize(
    ("option", "value", "says"),
    [("--port", "70000", "65535"), ("--workers", "none", "'none'"), ("--max-batch", "x", "integer")],
)
def test_the_command_line_says_which_option_is_wrong(option, value, says):
    ran = CliRunner().invoke(app(), ["serve", option, value])
    assert ran.exit_code in (1, 2)
    assert option in ran.output
    assert says in ran.output
    assert "Traceback" not in ran.output
