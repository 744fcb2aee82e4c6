"""docs/api.md: the ten lines run on stubs from the protos alone, and the statuses are those that the server has."""

import ast
import re
import subprocess
import sys
from pathlib import Path

import pytest

from groupconv import errors

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs/api.md").read_text()
ALONE = """
import sys
sys.path[:] = [sys.argv[1]] + [p for p in sys.path if p not in sys.argv[2:]]  # without the SDK
sys.meta_path[:] = [f for f in sys.meta_path if "editable" not in repr(f).lower()]
exec(compile(sys.stdin.read(), "client.py", "exec"))
import groupconv
assert not hasattr(groupconv, "connect"), groupconv.__path__
"""
CALLERS_SIDE = {"cli", "demo", "load", "measure", "files"}
"""Folders of the server with what runs on the caller's side."""


def test_the_client_in_ten_lines_runs_on_the_protos_alone(server, tmp_path):
    section = PAGE.split("## A client in ten lines")[1].split("\n## ")[0]
    shell, client = (re.search(rf"```{kind}\n(.*?)```", section, re.DOTALL)[1] for kind in ("sh", "python"))
    assert len([line for line in client.split("def ")[1].splitlines() if line.strip()]) <= 12
    command = next(line for line in shell.splitlines() if "grpc_tools.protoc" in line)
    command = command.replace("python -m", f"{sys.executable} -m").replace("=stubs", f"={tmp_path}")
    subprocess.run(["bash", "-c", command], cwd=ROOT, check=True, timeout=60)
    done = subprocess.run(
        [sys.executable, "-c", ALONE, tmp_path, *(ROOT / name for name in ("client", "worker", "server"))],
        input=client.replace("localhost:50051", server.address),
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    (promised,) = re.findall(r"^It prints `(.*?)`", section, re.MULTILINE)
    assert done.stdout.strip() == promised


def raised():
    """Statuses of the errors that the code of server and workers makes."""
    statuses = {name: kind.status for name, kind in vars(errors).items() if name.endswith("Error")}
    found = set()
    for folder in ("server/groupconv_server", "worker/groupconv_worker"):
        for path in (ROOT / folder).rglob("*.py"):
            if not CALLERS_SIDE & set(path.parts):
                calls = (node.func for node in ast.walk(ast.parse(path.read_text())) if isinstance(node, ast.Call))
                found |= {statuses[f.id] for f in calls if isinstance(f, ast.Name) and f.id in statuses}
    return found


def test_the_table_has_the_statuses_that_there_are():
    rows = re.findall(r"^\| ([A-Z_]+) \|", PAGE, re.MULTILINE)
    assert len(rows) == len(set(rows))
    assert set(rows) == raised()


@pytest.mark.parametrize("name", sorted(path.name for path in (ROOT / "proto/groupconv/v1").glob("*.proto")))
def test_the_table_has_every_method(name):
    text = (ROOT / "proto/groupconv/v1" / name).read_text()
    for service, body in re.findall(r"^service (\w+) \{(.*?)^\}", text, re.MULTILINE | re.DOTALL):
        assert f"groupconv.v1.{service}" in PAGE
        assert [rpc for rpc in re.findall(r"rpc (\w+)\(", body) if not re.search(rf"\b{rpc}\b", PAGE)] == []
