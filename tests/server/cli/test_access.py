"""An option that decides who is let in fails closed: set but empty, it ends the command before it does anything."""

import os
import subprocess
from pathlib import Path

import pytest
import typer
from typer.testing import CliRunner

import groupconv
from groupconv.errors import FailedPreconditionError, InvalidArgumentError
from groupconv_server.access.variables import PANEL, RAY, check_ray_token
from groupconv_server.cli.app import app

COMMANDS = {
    " ".join(names): command
    for names, command in [
        *(((name,), c) for name, c in typer.main.get_command(app()).commands.items() if not hasattr(c, "commands")),
        *(
            ((group, name), c)
            for group, g in typer.main.get_command(app()).commands.items()
            for name, c in getattr(g, "commands", {}).items()
        ),
    ]
}
ACCESS = {
    name: [p for p in command.params if getattr(p, "rich_help_panel", None) == PANEL]
    for name, command in COMMANDS.items()
}
SERVE = {"insecure", "tls_cert", "tls_key", "tls_client_ca", "tokens"}
CLIENT = {"token", "token_file", "tls", "ca", "cert", "key", "server_name", "plaintext_token"}
SERVER_ONLY = {"serve", "worker", "warmup", "token new", "token hash", "bench engine"}


def said(*arguments, **variables):
    """What a command that must fail says."""
    names = {p.envvar for options in ACCESS.values() for p in options} | set(RAY)
    ran = CliRunner().invoke(app(), arguments, env=dict.fromkeys(names) | variables)
    assert ran.exit_code in (1, 2), ran.output
    return ran.output


def test_every_command_that_asks_or_serves_has_its_access_options():
    found = {name: {p.name for p in options} for name, options in ACCESS.items()}
    assert found == {name: SERVE if name == "serve" else set() if name in SERVER_ONLY else CLIENT for name in COMMANDS}


# Required arguments come first: the options are looked at once the command line is complete.
ARGUMENTS = {
    "conv": ["x.png", "--kernel", "sobel-x", "-o", "y.png"],
    "run": ["x", "x"],
    "layers load": [__file__],
    "layers unload": ["x"],
    "layers show": ["x"],
    "networks load": [__file__],
    "networks show": ["x"],
    "networks plan": ["x"],
    "networks unload": ["x"],
}


@pytest.mark.parametrize("command", [name for name, options in ACCESS.items() if options])
def test_an_empty_variable_ends_the_command(command):
    for option in ACCESS[command]:
        for value in ("", " "):
            output = said(*command.split(), *ARGUMENTS.get(command, []), **{option.envvar: value})
            assert option.envvar in output
            assert "Traceback" not in output


@pytest.mark.parametrize("value", ["", " "])
def test_an_empty_folder_of_layers_ends_the_server(value):
    assert "LAYER_DIR" in said("serve", "--port", "0", GROUPCONV_LAYER_DIR=value)


@pytest.mark.parametrize("flag", ["tokens", "tls-cert", "tls-key", "tls-client-ca"])
def test_an_empty_flag_of_the_server_ends_it(flag):
    assert f"--{flag}: expected a value" in said("serve", "--port", "0", f"--{flag}", "")


@pytest.mark.parametrize("flag", ["token", "ca", "cert", "key", "server-name"])
def test_an_empty_flag_of_a_client_ends_it(flag):
    assert f"--{flag}: expected a value" in said("status", f"--{flag}", "")


def test_files_without_content_end_the_start(tmp_path):
    empty = tmp_path / "empty"
    empty.touch()
    assert "expected a file that holds a token" in said("status", "--token-file", str(empty))
    assert "are no certificate with its key" in said("serve", "--tls-cert", str(empty), "--tls-key", str(empty))
    with pytest.raises(FailedPreconditionError, match=r"RAY_AUTH_TOKEN_PATH: .* is empty"):
        check_ray_token({"RAY_AUTH_TOKEN_PATH": str(empty)})
    with pytest.raises(FailedPreconditionError, match=r"RAY_AUTH_TOKEN_PATH: .*No such file"):
        check_ray_token({"RAY_AUTH_TOKEN_PATH": str(tmp_path / "none")})
    (tmp_path / "token").write_text("0" * 64)
    check_ray_token({"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN_PATH": str(tmp_path / "token")})
    check_ray_token({})


@pytest.mark.parametrize("variable", RAY)
def test_a_worker_does_not_join_with_an_empty_token(variable):
    assert variable in said("worker", "--join", "127.0.0.1:1", **{variable: ""})


@pytest.mark.parametrize("variable", RAY)
def test_the_coordinators_script_starts_no_ray_with_an_empty_token(variable, tmp_path):
    script = Path(__file__).parents[3] / "deploy" / "coordinator"
    ray = tmp_path / "ray"
    ray.write_text("#!/bin/sh\necho ray was started\n")
    ray.chmod(0o755)
    clean = {name: value for name, value in os.environ.items() if name not in RAY}
    path = {"PATH": f"{tmp_path}:{os.environ['PATH']}"}
    ran = subprocess.run(["sh", script], env=clean | path | {variable: ""}, capture_output=True, text=True, timeout=60)
    assert (ran.returncode, ran.stdout) == (1, "")
    assert ran.stderr.startswith(f"{variable}: expected a value")


def test_the_library_takes_no_empty_token_from_the_environment(monkeypatch):
    monkeypatch.setenv("GROUPCONV_TOKEN", "")
    with pytest.raises(InvalidArgumentError, match="GROUPCONV_TOKEN: expected a token"):
        groupconv.connect("localhost:1")
    groupconv.connect("localhost:1", token="").close()  # said in the code, it means none
