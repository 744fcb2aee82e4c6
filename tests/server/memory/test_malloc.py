"""Settings of the C library's malloc."""

import platform
import subprocess
import sys

import pytest

MEASURE = """
import resource, numpy as np
from groupconv_server.memory.malloc import give_back, keep_pages
def faults(n):
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    for _ in range(n):
        np.ones(2**26, np.uint8)
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before
faults(2)
usual = faults(10)
assert keep_pages()
faults(2)
print(usual, faults(10), give_back())
"""


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="another malloc")
def test_freed_memory_is_reused_without_page_faults():
    done = subprocess.run([sys.executable, "-c", MEASURE], capture_output=True, text=True, check=True)
    usual, kept, returned = done.stdout.split()
    assert int(kept) * 10 < int(usual)
    assert returned == "True"
