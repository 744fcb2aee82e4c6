"""Help at 80 columns, and completion in shells."""

import itertools
import os
import subprocess
import sys

import pytest
from typer.main import get_command
from typer.testing import CliRunner

from groupconv_server.cli.app import app


def commands():
    """Every command with its options, by its words."""
    found = {"": get_command(app())}
    for name, command in found[""].commands.items():
        found[name] = command
        found |= {f"{name} {sub}": inner for sub, inner in getattr(command, "commands", {}).items()}
    return found


COMMANDS = commands()


@pytest.mark.parametrize("words", COMMANDS)
def test_help_is_whole_at_80_columns(words):
    done = CliRunner().invoke(app(), [*words.split(), "--help"], env={"COLUMNS": "80"})
    assert done.exit_code == 0
    assert "…" not in done.stdout
    assert max(map(len, done.stdout.splitlines())) <= 80
    said = "".join(done.stdout.split())  # lines break at spaces and hyphens
    for option in COMMANDS[words].params:
        if getattr(option, "hidden", False):
            continue
        assert all(name in said for name in option.opts if name.startswith("--"))
        assert "".join((getattr(option, "help", None) or "").split()) in said, option.name
    for name, command in getattr(COMMANDS[words], "commands", {}).items():
        assert name in said
        assert "".join(command.short_help.split()) in said


@pytest.mark.parametrize("command", ["serve", "worker", "demo", "conv", "plan", "status", "load"])
def test_help_has_examples(command):
    """Of an app that has this command alone, as in a process that runs it."""
    done = CliRunner().invoke(app(command), [command, "--help"])
    assert done.exit_code == 0
    assert f"$ groupconv {command}" in done.stdout


@pytest.mark.parametrize("words", COMMANDS)
def test_an_example_goes_on_with_an_option(words):
    shown = CliRunner().invoke(app(), [*words.split(), "--help"], env={"COLUMNS": "80"}).stdout.splitlines()
    continued = [after.strip() for line, after in itertools.pairwise(shown) if line.endswith("\\")]
    assert all(line.startswith("-") for line in continued), continued


def complete(words):
    """What bash offers after these words; the last one is not complete."""
    variables = {
        "COMP_WORDS": f"groupconv {words}",
        "COMP_CWORD": str(len(words.split(" "))),
        "_GROUPCONV_COMPLETE": "complete_bash",
    }
    command = [
        sys.executable,
        "-c",
        "import sys; sys.argv = ['groupconv']; from groupconv_server.__main__ import main; main()",
    ]
    done = subprocess.run(command, env=os.environ | variables, capture_output=True, text=True, timeout=120, check=False)
    assert done.stderr == ""
    return done.stdout.split()


def test_shells_complete_commands_options_and_layers():
    assert complete("pl") == ["plan"]
    assert complete("plan --pict") == ["--picture"]
    assert complete("plan --layer alexnet_conv") == [f"alexnet_conv{i}" for i in range(1, 6)]


def test_the_script_of_a_shell_is_printed(monkeypatch):
    monkeypatch.setenv("_TYPER_COMPLETE_TEST_DISABLE_SHELL_DETECTION", "1")
    app.cache_clear()
    try:
        done = CliRunner().invoke(app(), ["--show-completion", "bash"], prog_name="groupconv")
    finally:
        app.cache_clear()
    assert "_GROUPCONV_COMPLETE=complete_bash" in done.stdout
