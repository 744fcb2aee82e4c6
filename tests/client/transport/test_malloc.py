"""Memory of messages that stays with the process."""

import platform
import subprocess
import sys

import pytest

FAULTS = """
import resource, sys
from groupconv.transport.malloc import expect_messages
if sys.argv[1] == "kept":
    expect_messages()
def message():
    parts = [bytearray(400_000) for _ in range(5)]  # zeroed, so touched
for _ in range(5):
    message()
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
for _ in range(20):
    message()
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="another malloc")
def test_messages_that_follow_one_another_touch_no_new_pages(monkeypatch):
    for name in ("MALLOC_MMAP_THRESHOLD_", "MALLOC_TRIM_THRESHOLD_", "GLIBC_TUNABLES", "LD_PRELOAD"):
        monkeypatch.delenv(name, raising=False)
    left, kept = (
        int(subprocess.run([sys.executable, "-c", FAULTS, how], check=True, capture_output=True, text=True).stdout)
        for how in ("left", "kept")
    )
    assert left > 1000  # else the test shows nothing
    assert kept < left / 10
