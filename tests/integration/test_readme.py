"""The snippet of "Getting started" and the examples work as they stand."""

import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
README = (ROOT / "README.md").read_text()
START = (ROOT / "docs" / "getting-started.md").read_text()


def test_the_ten_lines_run():
    code = re.search(r"## Ten lines\n\n[^`]*`server`:\n\n```python\n(.*?)```", START, re.DOTALL).group(1)
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("(1, 256, 27, 27)\n")
    assert "cut along" in done.stdout


def test_the_two_commands_come_first():
    assert README.index("make demo") < README.index("make test") < README.index("##")


@pytest.mark.parametrize("example", sorted((ROOT / "examples").glob("*.py")), ids=lambda path: path.name)
def test_the_examples_run(example):
    done = subprocess.run([sys.executable, example], capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout
