"""docs/request.md names the files that a warm request of a layer runs through, and no others; how many there are."""

import itertools
import re
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]
MOST_FILES, MOST_LINES, MOST_CHANGES = 27, 4500, 68
"""What a reader of one request has to open, and the number of times that the next call is in another file."""
ALGORITHMS = re.compile(
    r"cpu/(algorithms/(?!samples)|kernels/|program|shared_work|workspace)|epilogue\.py|pieces\.py|convolution/spec\.py"
)
"""Which of these are used depends on the processor: the fastest one was measured, or a rule chose it."""
MOMENT = ("server/groupconv_server/admission/queue.py", "server/groupconv_server/telemetry/traces.py")
"""Whether these are used depends on the moment: a pool thread looks for its next call before or after the recorded
request, and a tracer provider is looked up once a second."""
PROGRAM = """
import os, sys, threading
os.environ["GROUPCONV_TUNE"] = "off"
on, seen = False, []
def note(frame, event, arg):
    name = frame.f_code.co_filename
    ours = "groupconv" in name and "site-packages" not in name and not name.endswith("health.py")
    if on and event == "call" and ours:
        seen.append(name)
threading.setprofile(note)
sys.setprofile(note)
import numpy as np
import groupconv
from groupconv_server.server import Config, Server
x, w = np.ones((1, 96, 27, 27), "f4"), np.ones((256, 48, 5, 5), "f4")
spec = groupconv.ConvSpec(padding=2, groups=2, activation="relu", exact=True)
with Server(Config(port=0, workers=1, threads=2)) as server, groupconv.connect(server.address) as client:
    layer = client.load_layer("l", w, None, spec, inputs=[x.shape])
    for _ in range(80):
        layer(x)
    for _ in range(5):
        seen.clear()
        on = True
        layer(x)
        on = False
        print(*seen)
"""


def test_the_page_names_the_files_of_a_request():
    done = subprocess.run([sys.executable, "-c", PROGRAM], capture_output=True, text=True, timeout=300, check=True)
    requests = [[Path(name).relative_to(ROOT).as_posix() for name in line.split()] for line in done.stdout.splitlines()]
    order = min(requests, key=changes_of)  # in the others a thread called something between two calls of the request
    files, changes = set(order), changes_of(order)
    lines = sum(len((ROOT / name).read_text().splitlines()) for name in files)
    print(f"one request: {len(files)} files of {lines} lines, {len(order)} calls, {changes} changes of file")
    named = set(named_files((ROOT / "docs/request.md").read_text()))
    assert {f for f in files if not ALGORITHMS.search(f)} <= named | set(MOMENT)
    assert {f for f in named if not ALGORITHMS.search(f)} <= files | set(MOMENT)
    assert len(files) <= MOST_FILES
    assert lines <= MOST_LINES
    assert changes <= MOST_CHANGES


def changes_of(order: list[str]) -> int:
    """How many calls are of another file than the call before."""
    return sum(a != b for a, b in itertools.pairwise(order))


def named_files(page: str) -> list[str]:
    """The paths in the page's backticks: a short one stands beside a whole one, in its folder or its package."""
    found: list[str] = []
    for paragraph in re.split(r"\n\d+\. |\n## ", page):
        base = ""
        for name in re.findall(r"`([\w/]+\.py)`", paragraph):
            if name.startswith(("client/", "server/", "worker/")):
                base = name
            if name.startswith("tests/"):
                continue
            places = [Path(name), Path(base).parent / name, *(p / name for p in list(Path(base).parents)[:-2])]
            found.append(next(p.as_posix() for p in places if (ROOT / p).is_file()))
    return found
