"""What a release ships, and the workflow that would make it: checked, signed, published to no index."""

import re
import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path

import pytest
import yaml

ROOT = Path(__file__).parents[2]
WORKFLOW = yaml.safe_load((ROOT / ".github/workflows/release.yml").read_text())
STEPS = [step for job in WORKFLOW["jobs"].values() for step in job["steps"]]


def test_the_workflow_runs_what_there_is():
    commands = "\n".join(step.get("run", "") for step in STEPS)
    makefile = (ROOT / "Makefile").read_text()
    targets = re.findall(r"\bmake (\w+)", commands)
    assert targets
    assert [target for target in targets if not re.search(rf"^{target}:", makefile, re.MULTILINE)] == []
    tests = re.findall(r"tests/\S+\.py", commands)
    assert tests
    assert [test for test in tests if not (ROOT / test).exists()] == []


def test_the_workflow_signs_what_it_built_and_publishes_to_no_index():
    used = [step["uses"].partition("@")[0] for step in STEPS if "uses" in step]
    assert "actions/attest-build-provenance" in used
    assert not re.search(r"twine upload|publish", yaml.safe_dump(WORKFLOW))
    assert WORKFLOW["permissions"] == {}  # each job has those that it needs
    assert [name for name, job in WORKFLOW["jobs"].items() if job["permissions"].get("contents") == "write"] == [
        "release"
    ]


@pytest.mark.slow
@pytest.mark.timeout(360)  # each of the two commands has 170 s
def test_the_archives_are_whole_and_pass_the_checks_of_an_index(tmp_path):
    def run(*arguments):
        done = subprocess.run(
            [sys.executable, "-m", *map(str, arguments)],
            cwd=ROOT,
            capture_output=True,
            text=True,
            timeout=170,
            check=False,
        )
        assert done.returncode == 0, done.stdout + done.stderr

    run("build", "--outdir", tmp_path)
    (wheel,), (source,) = tmp_path.glob("*.whl"), tmp_path.glob("*.tar.gz")
    run("twine", "check", "--strict", wheel, source)
    inside = zipfile.ZipFile(wheel).namelist()
    tops = {name.partition("/")[0] for name in inside}
    assert {top for top in tops if not top.endswith(".dist-info")} == {
        "groupconv",
        "groupconv_worker",
        "groupconv_server",
    }
    assert {"groupconv/py.typed", "groupconv_server/data/layers.csv"} <= set(inside)
    with tarfile.open(source) as archive:
        names = {name.partition("/")[2] for name in archive.getnames()}
    assert {"pyproject.toml", "LICENSE", "client/groupconv/client.py"} <= names
    assert not [name for name in names if name.startswith((".ci/", ".venv"))]
