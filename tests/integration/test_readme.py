"""The README's snippet works when pasted."""

import re
import subprocess
import sys
from pathlib import Path

README = (Path(__file__).parents[2] / "README.md").read_text()


def test_the_ten_lines_run():
    code = re.search(r"## Ten lines\n\n```python\n(.*?)```", README, re.DOTALL).group(1)
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("(1, 256, 27, 27)\n")
    assert "cut along group" in done.stdout


def test_the_two_commands_come_first():
    assert README.index("make demo") < README.index("make test") < README.index("##")
